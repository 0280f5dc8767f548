import itertools

import hypothesis
from hypothesis import strategies as st
import ml_dtypes
import numpy as np
import pytest

from zsljax.data import (
  TrainingData,
  evaluation_batches,
  pipeline,
  placement,
  prepare,
  sampling,
)
from zsljax.errors import ZsljaxError
from zsljax.io.checksums import Checksums

IMAGES = 6 * 40
TRAINVAL, TRAIN, TEST = 120, 72, 120


@pytest.fixture(scope="module")
def numbered(feature_set):
  """A set whose features begin with the row number."""
  rows = np.arange(IMAGES, dtype=np.float32)
  return feature_set(per_class=40, features=np.stack([rows, -rows - 1], 1))


@pytest.fixture(scope="module")
def sharded(numbered, store_in_shards, tmp_path_factory):
  """Five files a split, more than are read at once."""
  return store_in_shards(numbered, tmp_path_factory.mktemp("sharded"), 5)


@pytest.fixture(scope="module", params=["one file", "five files"])
def stored(request, numbered, sharded, tmp_path_factory):
  """The set in either form."""
  if request.param == "five files":
    return sharded
  return prepare(numbered, tmp_path_factory.mktemp("whole"))


def training(store, split="trainval", batch_size=16, seed=0, **options):
  return TrainingData(store, split, batch_size, seed, **options)


def take(data, steps, start_step=0):
  return list(itertools.islice(data.batches(start_step), steps))


def rows_of(batches):
  """The row numbers that the features carry, without padding."""
  parts = [batch["features"][batch["mask"], 0] for batch in batches]
  return np.concatenate(parts).astype(int)


def order(data, epochs=1):
  return rows_of(take(data, epochs * data.steps_per_epoch)).tolist()


def of_images(batches):
  """Batches without what stands in their padding."""
  return [{k: v[b["mask"]] for k, v in b.items()} for b in batches]


def check_equal(found, expected):
  assert len(found) == len(expected) > 0
  for one, other in zip(found, expected, strict=True):
    assert one.keys() == other.keys() == {"features", "labels", "mask"}
    for key, value in one.items():
      assert value.dtype == other[key].dtype
      np.testing.assert_array_equal(value, other[key])


def trainval_of(feature_set):
  return np.union1d(feature_set.splits["train"], feature_set.splits["val"])


@pytest.mark.parametrize(("split", "count"), [("trainval", TRAINVAL), ("train", TRAIN)])
def test_held_and_streamed_batches_are_equal(stored, split, count):
  held, streamed = (training(stored, split, cache=c) for c in ("host", "none"))
  assert (held.placement, streamed.placement) == ("host", "none")
  assert held.num_examples == count
  steps = 3 * held.steps_per_epoch
  assert held.steps_per_epoch == count // 16
  check_equal(take(held, steps), take(streamed, steps))


def test_held_and_streamed_bfloat16_batches_are_equal(numbered, tmp_path):
  store = prepare(numbered, tmp_path, "bfloat16")
  batches = [take(training(store, cache=c), 8) for c in ("host", "none")]
  check_equal(*batches)
  assert batches[0][0]["features"].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("cache", ["host", "none"])
@pytest.mark.parametrize(
  "buffer_rows", [1, 7, pytest.param(50, marks=pytest.mark.slow)]
)
def test_small_shuffle_buffer(stored, monkeypatch, cache, buffer_rows):
  monkeypatch.setattr(pipeline, "_SHUFFLE_BYTES", 8 * buffer_rows)
  data = training(stored, cache=cache)
  rows = order(data)
  assert len(set(rows)) == len(rows) == 112
  check_equal(take(data, 14), take(training(stored, cache="host"), 14))


SIZE = TRAINVAL * 8


@pytest.mark.parametrize(
  ("place", "options"),
  [
    ("host", {}),
    ("device", {"device_limit": SIZE}),
    ("host", {"device_limit": SIZE, "batch_size": 0}),
    ("none", {"device_limit": SIZE, "cache": "none"}),
    ("host", {"device_limit": SIZE - 1}),
    ("device", {"device_limit": SIZE - 1, "cache": "device"}),
    ("device", {"device_limit": SIZE, "multiple_of": 4}),
    ("split", {"device_limit": SIZE // 4, "multiple_of": 4}),
    ("host", {"device_limit": SIZE // 4 - 1, "multiple_of": 4}),
    ("split", {"device_limit": 0, "multiple_of": 4, "cache": "device"}),
    ("split", {"device_limit": SIZE, "multiple_of": 4, "num_hosts": 2}),
    ("host", {"device_limit": SIZE // 4 - 1, "multiple_of": 4, "num_hosts": 2}),
  ],
)
def test_placement(sharded, place, options):
  assert training(sharded, **options).placement == place


def test_placement_by_memory(sharded, monkeypatch):
  assert 2**26 < placement.available_memory() < 2**44
  monkeypatch.setattr(placement, "CACHE_LIMIT", SIZE - 1)
  assert training(sharded).placement == "none"
  monkeypatch.setattr(placement, "available_memory", lambda: SIZE - 1)
  assert training(sharded, device_limit=SIZE).placement == "none"
  with pytest.raises(ZsljaxError, match="'host' with 0.96 kB of features"):
    take(training(sharded, cache="host"), 1)
  assert len(take(training(sharded, cache="none"), 1)) == 1


@pytest.mark.parametrize("sampling", ["epochs", "independent", "class_balanced"])
def test_batches_hold_what_was_stored(stored, numbered, sampling):
  allowed = set(trainval_of(numbered))
  for batch in take(training(stored, sampling=sampling, cache="none"), 8):
    rows = rows_of([batch])
    assert allowed.issuperset(rows)
    assert sampling == "class_balanced" or len(set(rows)) == len(rows)
    np.testing.assert_array_equal(batch["features"], numbered.features[rows])
    np.testing.assert_array_equal(batch["labels"], numbered.labels[rows])
    assert batch["labels"].dtype == np.int32
    assert batch["mask"].dtype == bool and batch["mask"].all()


def test_an_epoch_visits_each_image_once(stored, numbered):
  data = training(stored, batch_size=TRAINVAL // 4)
  epochs = [rows_of(take(data, 4, start)) for start in (0, 4, 8)]
  for rows in epochs:
    np.testing.assert_array_equal(np.sort(rows), trainval_of(numbered))
  first, second, third = (rows.tolist() for rows in epochs)
  assert first != second != third != first
  rows = order(training(stored, "train", TRAIN))  # Without validation images.
  np.testing.assert_array_equal(np.sort(rows), numbered.splits["train"])


def test_seed_decides_order(stored):
  first, again, other = (order(training(stored, seed=seed), 2) for seed in (3, 3, 4))
  assert first == again != other


def test_batches_mix_the_files(sharded):
  first = sharded.pieces(("train", "val"))[0]
  rows = pipeline.load(sharded, ("train", "val"))["features"][: first.count, 0]
  batches = take(training(sharded), 7)
  assert sum(np.isin(rows, rows_of([batch])).any() for batch in batches) > 3


@pytest.fixture(scope="module", params=["host", "none"])
def course(request, sharded):
  """A run, and the rows of its first batches."""
  data = training(sharded, cache=request.param)
  assert data.steps_per_epoch == 7
  return data, [rows_of([batch]) for batch in take(data, 30)]


@hypothesis.settings(max_examples=10)
@hypothesis.example(start=7)
@hypothesis.example(start=13)
@hypothesis.given(start=st.integers(0, 27))
def test_start_step_equals_skipped_batches(course, start):
  data, rows = course
  for batch, expected in zip(take(data, 3, start), rows[start:], strict=False):
    np.testing.assert_array_equal(rows_of([batch]), expected)


def test_everything_at_once_is_in_stored_order(stored, numbered):
  data = training(stored, batch_size=0, multiple_of=16)
  assert data.steps_per_epoch == 1
  first, second = take(data, 2)
  check_equal([first], [second])
  assert len(first["labels"]) == 128
  np.testing.assert_array_equal(first["mask"], np.arange(128) < TRAINVAL)
  for key in ("features", "labels"):
    assert not first[key][TRAINVAL:].any()
  table = pipeline.load(stored, ("train", "val"))
  np.testing.assert_array_equal(first["features"][:TRAINVAL], table["features"])
  np.testing.assert_array_equal(np.sort(rows_of([first])), trainval_of(numbered))


def test_everything_at_once_ignores_seed_and_cache(sharded):
  options = {"batch_size": 0, "cache": "none", "multiple_of": 8}
  (batch,) = take(training(sharded, **options), 1)
  assert batch["mask"].shape == (TRAINVAL,) and batch["mask"].all()
  check_equal(take(training(sharded, seed=1, **options), 1, 5), [batch])


@pytest.mark.parametrize("num_hosts", [2, 7])
def test_hosts_share_out_all_images(stored, numbered, num_hosts):
  hosts = [
    training(stored, batch_size=0, host=host, num_hosts=num_hosts)
    for host in range(num_hosts)
  ]
  batches = [take(data, 1)[0] for data in hosts]
  assert len({batch["features"].shape for batch in batches}) == 1
  np.testing.assert_array_equal(np.sort(rows_of(batches)), trainval_of(numbered))
  shares = [batch["mask"].sum() for batch in batches]
  assert max(shares) - min(shares) <= 2


@pytest.mark.parametrize("cache", ["host", "none"])
@pytest.mark.parametrize(
  ("num_hosts", "batch_size", "steps"),
  [(2, 16, 7), pytest.param(7, 7, 16, marks=pytest.mark.slow), (7, 112, 1)],
)
def test_hosts_take_equal_and_disjoint_steps(
  stored, cache, num_hosts, batch_size, steps
):
  hosts = [
    training(stored, batch_size=batch_size, cache=cache, host=h, num_hosts=num_hosts)
    for h in range(num_hosts)
  ]
  assert {data.steps_per_epoch for data in hosts} == {steps}
  epochs = [take(data, steps) for data in hosts]
  sizes = {len(batch["mask"]) for batches in epochs for batch in batches}
  assert sizes == {batch_size // num_hosts}
  rows = rows_of(itertools.chain(*epochs))
  assert len(np.unique(rows)) == len(rows) == steps * batch_size


def test_large_rows_are_read_one_by_one(stored, numbered, monkeypatch):
  monkeypatch.setattr(pipeline, "_LARGE_ROW", stored.row_bytes)
  held, streamed = (training(stored, cache=c) for c in ("host", "none"))
  check_equal(take(held, 16), take(streamed, 16))
  check_equal(take(streamed, 5, start_step=9), take(held, 16)[9:14])
  first, second = order(streamed, 2)[:112], order(streamed, 2)[112:]
  assert len(set(first)) == 112 and set(first) <= set(trainval_of(numbered))
  assert first != second
  monkeypatch.setattr(pipeline, "_LARGE_ROW", stored.row_bytes + 1)
  assert order(training(stored))[:112] != first


@pytest.mark.parametrize("ahead_bytes", [1, 2**10, 2**28])
def test_batches_made_ahead_are_the_same(stored, monkeypatch, ahead_bytes):
  expected = take(training(stored, cache="none"), 9)
  monkeypatch.setattr(pipeline, "_AHEAD_BYTES", ahead_bytes)
  check_equal(take(training(stored, cache="none"), 9), expected)


DRAWN = ("independent", "class_balanced")


@pytest.mark.parametrize("sampling", [*DRAWN, "whole_epochs"])
def test_drawn_batches_are_equal_held_and_streamed(stored, sampling):
  held, streamed = (
    training(stored, sampling=sampling, cache=c) for c in ("host", "none")
  )
  check_equal(of_images(take(held, 9)), of_images(take(streamed, 9)))
  again = of_images(take(streamed, 4, start_step=5))
  check_equal(again, of_images(take(held, 9))[5:])


@pytest.mark.parametrize("cache", ["host", "none"])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("num_hosts", [1, 2])
def test_whole_epochs_keep_the_last_batch(stored, cache, large, num_hosts, monkeypatch):
  if large:
    monkeypatch.setattr(pipeline, "_LARGE_ROW", 1)
  options = {"sampling": "whole_epochs", "cache": cache, "num_hosts": num_hosts}
  hosts = [training(stored, batch_size=50, host=h, **options) for h in range(num_hosts)]
  assert hosts[0].steps_per_epoch == 3 and hosts[0].total_steps(2) == 6
  batches = [take(data, 6) for data in hosts]
  assert {len(b["mask"]) for of_host in batches for b in of_host} == {50 // num_hosts}
  for epoch in (slice(3), slice(3, 6)):
    rows = np.concatenate([rows_of(of_host[epoch]) for of_host in batches])
    assert len(rows) == len(set(rows)) == TRAINVAL


def test_a_host_with_fewer_images_waits_for_the_next_epoch(stored):
  splits = ("train", "val")
  shares = [stored.share(splits, host, 7) for host in range(7)]
  least = min(shares)
  options = {"sampling": "whole_epochs", "host": shares.index(least), "num_hosts": 7}
  held, streamed = (
    training(stored, batch_size=7 * least, cache=c, **options) for c in ("host", "none")
  )
  batches = of_images(take(held, 5))
  assert [len(batch["labels"]) for batch in batches] == [least, 0, least, 0, least]
  check_equal(of_images(take(streamed, 5)), batches)
  for start in (1, 2):
    check_equal(of_images(take(streamed, 2, start)), batches[start : start + 2])


def test_independent_batches_draw_evenly(stored):
  data = training(stored, batch_size=60, sampling="independent")
  rows = rows_of(take(data, 400))
  counts = np.unique(rows, return_counts=True)[1]
  assert len(counts) == TRAINVAL  # 200 each; five standard deviations are 50.
  assert 150 < counts.min() and counts.max() < 250


@pytest.mark.parametrize(
  ("batch_size", "classes", "images"), [(3, 3, 1), (4, 4, 1), (7, 4, 1), (50, 4, 12)]
)
def test_balanced_batches_have_equal_numbers_of_each_class(
  stored, batch_size, classes, images
):
  data = training(stored, batch_size=batch_size, sampling="class_balanced")
  assert data.rows_per_batch == classes * images
  batches = take(data, 300)
  for batch in batches:
    counts = np.unique(batch["labels"], return_counts=True)[1]
    assert counts.tolist() == [images] * classes
  drawn = np.concatenate([b["labels"] for b in batches])
  counts = np.unique(drawn, return_counts=True)[1]
  assert len(counts) == 4 and counts.min() > 180 * images
  rows = np.unique(rows_of(batches))
  assert len(rows) > 0.9 * TRAINVAL


def test_classes_without_training_images_are_never_drawn(stored):
  """On `train` the validation classes have none; seen classes all have some."""
  data = training(stored, "train", 50, sampling="class_balanced")
  assert data.rows_per_batch == 3 * 16
  held_out = stored.metadata["validation_classes"]
  for batch in take(data, 50):
    assert not np.isin(batch["labels"], held_out).any()


@pytest.mark.parametrize("cache", ["host", "none"])
@pytest.mark.parametrize("sampling", DRAWN)
def test_hosts_draw_disjoint_parts_of_a_batch(stored, sampling, cache):
  hosts = [
    training(stored, batch_size=4, sampling=sampling, cache=cache, host=h, num_hosts=2)
    for h in range(2)
  ]
  for parts in zip(*(take(data, 20) for data in hosts), strict=True):
    rows = rows_of(parts)
    assert len(set(rows)) == len(rows) == 4
    if sampling == "class_balanced":
      assert len(set(np.concatenate([p["labels"] for p in parts]))) == 4


def test_a_balanced_draw_of_one_image_a_class_is_one_choice():
  rows_of = {c: np.arange(10 * c, 10 * c + 10) for c in range(6)}
  rng = np.random.default_rng([3, 7])
  classes = rng.choice(6, 4, replace=False)
  rng = np.random.default_rng([3, 7, 0])
  expected = [rng.choice(rows_of[c]) for c in classes]
  found = sampling.class_balanced(3, 7, 0, rows_of, 4, 1)
  np.testing.assert_array_equal(found, expected)


def test_passes_and_steps(stored):
  assert training(stored, batch_size=50).total_steps(30) == 60
  drawn = training(stored, batch_size=50, sampling="independent")
  assert drawn.total_steps(30) == 72  # 120 * 30 / 50, as the released code counts.


def test_rows_are_those_of_the_batches(stored):
  for options in (
    {},
    {"sampling": "independent"},
    {"sampling": "class_balanced"},
    {"sampling": "whole_epochs"},
    {"batch_size": 0},
  ):
    data = training(stored, cache="device", **options)
    table = data.table()
    for rows, batch in zip(data.rows(3), take(data, 12, 3), strict=False):
      np.testing.assert_array_equal(table["features"][rows], batch["features"])
      np.testing.assert_array_equal(table["labels"][rows], batch["labels"])


@pytest.mark.parametrize("batch_size", [1, 16, 40, 120, 1000])
def test_evaluation_covers_all_images_once(stored, numbered, batch_size):
  splits = ("test_seen", "test_unseen")
  batches = list(evaluation_batches(stored, splits, batch_size))
  assert len(batches) == -(-TEST // batch_size)
  assert {len(batch["mask"]) for batch in batches} == {batch_size}
  expected = np.concatenate([numbered.splits[split] for split in splits])
  np.testing.assert_array_equal(np.sort(rows_of(batches)), np.sort(expected))
  for batch in batches:
    rows, mask = rows_of([batch]), batch["mask"]
    np.testing.assert_array_equal(batch["features"][mask], numbered.features[rows])
    np.testing.assert_array_equal(batch["labels"][mask], numbered.labels[rows])
    assert not batch["features"][~mask].any()


@pytest.mark.parametrize(
  ("num_hosts", "batch_size"), [(2, 16), (3, 12), (7, 7), (7, 119)]
)
def test_evaluation_on_hosts(stored, numbered, num_hosts, batch_size):
  hosts = [
    list(evaluation_batches(stored, ("test_seen",), batch_size, host, num_hosts))
    for host in range(num_hosts)
  ]
  assert len({len(batches) for batches in hosts}) == 1
  shapes = {batch["features"].shape for batches in hosts for batch in batches}
  assert shapes == {(batch_size // num_hosts, 2)}
  rows = rows_of(itertools.chain(*hosts))
  expected = numbered.splits["test_seen"]
  np.testing.assert_array_equal(np.sort(rows), np.sort(expected))


def test_evaluation_on_a_host_without_images(sharded):
  assert sharded.size("test_seen") == 40
  first, last = (
    list(evaluation_batches(sharded, ("test_seen",), 82, host, 41)) for host in (0, 40)
  )
  assert len(first) == len(last) == 1
  assert rows_of(last).size == 0
  for key, value in first[0].items():
    assert last[0][key].shape == value.shape
    assert last[0][key].dtype == value.dtype


@pytest.mark.parametrize("cache", ["host", "none"])
def test_record_damaged_after_the_check(numbered, tmp_path, cache, monkeypatch):
  store = prepare(numbered, tmp_path)
  monkeypatch.setattr(Checksums, "check", lambda *_: None)
  (path,) = store.folder.glob("*-val.*")
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  with pytest.raises(ZsljaxError, match=f"{store.folder}.*damaged"):
    take(training(store, cache=cache), 7)
  with pytest.raises(ZsljaxError, match=f"{store.folder}.*damaged"):
    take(training(store, cache=cache, sampling="independent"), 70)
  with pytest.raises(ZsljaxError, match=f"{store.folder}.*damaged"):
    list(evaluation_batches(store, ("val",), 16))


def test_pad_keeps_full_batches():
  batch = {"labels": np.arange(3), "mask": np.ones(3, bool)}
  assert pipeline.pad(batch, 3) is batch
  padded = pipeline.pad(batch, 5)
  np.testing.assert_array_equal(padded["labels"], [0, 1, 2, 0, 0])
  np.testing.assert_array_equal(padded["mask"], [1, 1, 1, 0, 0])


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (
      {"cache": "disk"},
      "data.cache: found 'disk', expected one of auto, device, host, none",
    ),
    (
      {"batch_size": 121},
      "batch_size: found 121, .*at most 120, the images of tr",
    ),
    ({"batch_size": -1}, "batch_size: found -1, expected 0"),
    ({"batch_size": 15, "num_hosts": 2}, "found 15, expected.*multiple of 2, the num"),
    ({"batch_size": 119, "num_hosts": 7}, "found 119, .*at most 112"),
    ({"split": "test"}, "train_split: found 'test'"),
    ({"seed": -1}, "config.data.seed: found -1, expected 0 or more"),
    ({"sampling": "balanced"}, "data.sampling: found 'balanced', expected one of epo"),
    ({"sampling": "independent", "batch_size": 0}, "with config.batch_size=0"),
    (
      {"sampling": "class_balanced", "batch_size": 40, "num_hosts": 40},
      "no image in the share of host 0, expected at least 40 training images",
    ),
  ],
)
def test_rejected_options(sharded, options, message):
  with pytest.raises(ZsljaxError, match=message):
    training(sharded, **options).rows_per_batch  # noqa: B018
