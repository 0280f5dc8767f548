import contextlib
import json
import pathlib
import shutil
import types

import ml_dtypes
import numpy as np
import pytest

from zsljax.data import StoredDataset, TrainingData, open_dataset, prepare, store
from zsljax.data.builtin.digits import read_digits
from zsljax.data.describe import describe
from zsljax.data.feature_set import SPLITS
from zsljax.errors import ZsljaxError

STORAGE = {
  "float32": np.float32,
  "float16": np.float16,
  "bfloat16": ml_dtypes.bfloat16,
}


def records(stored, split):
  tf, _ = store.tensorflow()
  files = [piece.path for piece in stored.pieces((split,))]
  everything = tf.data.TFRecordDataset(files).batch(10**6).map(stored.decode)
  return next(everything.as_numpy_iterator())


def check_content(stored, feature_set, dtype):
  for split in SPLITS:
    found = records(stored, split)
    rows = found["row"]
    np.testing.assert_array_equal(np.sort(rows), np.sort(feature_set.splits[split]))
    assert found["features"].dtype == dtype
    expected = feature_set.features[rows].astype(dtype)
    np.testing.assert_array_equal(found["features"], expected)
    np.testing.assert_array_equal(found["label"], feature_set.labels[rows])


def files_of(folder):
  return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def fail_at(monkeypatch, split, action):
  """Calls ``action`` when half of a split's images are written."""

  @contextlib.contextmanager
  def bar(total, text, unit):
    done = iter(range(1, total + 1))

    def update():
      if next(done) == total // 2 and split in text:
        action()

    yield types.SimpleNamespace(update=update)

  monkeypatch.setattr(store, "task_bar", bar)


def disk_full():
  raise OSError(28, "No space left on device")


@pytest.fixture(scope="module")
def one(feature_set, tmp_path_factory):
  """A stored set that no test changes."""
  return prepare(feature_set(), tmp_path_factory.mktemp("one"))


@pytest.fixture
def copy(one, tmp_path):
  """A stored set to be damaged; moving a set is allowed."""
  folder = tmp_path / "small" / "random_att" / "1.0.0"
  shutil.copytree(one.folder, folder)
  return folder


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_source_precision_is_kept(feature_set, tmp_path, dtype):
  source = feature_set(dtype=dtype)
  stored = prepare(source, tmp_path)
  assert stored.storage_dtype == dtype
  check_content(stored, source, dtype)


@pytest.mark.parametrize("storage", STORAGE)
def test_chosen_precision(feature_set, tmp_path, storage):
  source = feature_set(dtype=np.float64, shape=(2, 3))
  stored = prepare(source, tmp_path, storage)
  assert stored.feature_shape == (2, 3)
  assert stored.folder == tmp_path / "small" / f"random_att_{storage}" / "1.0.0"
  check_content(stored, source, STORAGE[storage])


def test_unknown_precision(feature_set, tmp_path):
  with pytest.raises(ZsljaxError, match="storage: found 'int8', expected.*float16"):
    prepare(feature_set(), tmp_path, "int8")


def test_value_beyond_the_chosen_precision(feature_set, tmp_path):
  features = feature_set().features.copy()
  features[5, 0] = 1e6
  with pytest.raises(ZsljaxError, match=r"(?i)features.*float16"):
    prepare(feature_set(features=features), tmp_path, "float16")
  assert not list(tmp_path.rglob("dataset_info.json"))


def test_several_files_a_split(feature_set, store_in_shards, tmp_path):
  source = feature_set()
  stored = store_in_shards(source, tmp_path, 3)
  assert len(stored.pieces(("test_seen",))) == 3
  check_content(stored, source, np.float32)


def test_classes_are_kept(feature_set, tmp_path):
  source = feature_set(attribute_vectors=np.arange(6.0).reshape(3, 2))
  classes = prepare(source, tmp_path).classes
  for field in ("embeddings", "seen", "ids", "attribute_vectors"):
    expected = getattr(source.classes, field)
    np.testing.assert_array_equal(getattr(classes, field), expected)
    assert getattr(classes, field).dtype == expected.dtype
  assert classes.names == source.classes.names
  assert classes.attribute_names == ("big", "wild", "grey")


def test_absent_attribute_names_stay_absent(feature_set, tmp_path):
  classes = prepare(feature_set(attribute_names=()), tmp_path).classes
  assert classes.attribute_names == ()
  assert classes.attribute_vectors is None


def test_metadata(feature_set, tmp_path):
  source = feature_set(dtype=np.float64, notes=["odd"])
  metadata = prepare(source, tmp_path, "bfloat16").metadata
  expected = {
    "name": "small",
    "features": "random",
    "class_embedding": "att",
    "split_version": "xlsa17-v2",
    "fingerprint": source.fingerprint(ml_dtypes.bfloat16),
    "sources": {"small.mat": "0123"},
    "source_dtype": "float64",
    "storage_dtype": "bfloat16",
    "feature_shape": [5],
    "validation_classes": [4],
    "notes": ["odd"],
  }
  assert {key: metadata[key] for key in expected} == expected


def test_precision_is_part_of_the_fingerprint(feature_set, tmp_path):
  forms = [prepare(feature_set(), tmp_path, s) for s in ("source", "float16")]
  assert forms[0].fingerprint != forms[1].fingerprint


def test_description(feature_set, tmp_path):
  stored = prepare(feature_set(notes=["Odd."]), tmp_path, "float16")
  text = describe(stored)
  for words in (
    "small: 66 images, random features of 5, stored as float16 (source: float32)",
    "6: 4 seen (of which 1 for validation), 2 unseen",
    "trainval            32 = train + val",
    "note: Odd.",
    str(stored.folder),
  ):
    assert words in text


def test_sizes(one):
  assert [one.size(split) for split in SPLITS] == [21, 11, 12, 22]
  assert one.size("train", "val") == 32


def test_training_classes(one):
  assert one.training_classes("trainval") is one.classes
  fold = one.training_classes("train")
  np.testing.assert_array_equal(fold.ids, [0, 1, 3, 4])
  np.testing.assert_array_equal(fold.seen, [True, True, True, False])


def test_unknown_training_split(one):
  with pytest.raises(ZsljaxError, match="train_split: found 'tranval', expected"):
    one.training_classes("tranval")


def test_storing_twice_writes_once(feature_set, tmp_path):
  first = prepare(feature_set(), tmp_path)
  before = files_of(tmp_path)
  second = prepare(feature_set(), tmp_path)
  assert files_of(tmp_path) == before
  assert second.metadata == first.metadata


def test_same_content_is_stored_in_the_same_order(feature_set, one, tmp_path):
  again = prepare(feature_set(), tmp_path)
  np.testing.assert_array_equal(
    records(again, "train")["row"], records(one, "train")["row"]
  )


def test_other_content_needs_overwrite(feature_set, tmp_path):
  first = prepare(feature_set(), tmp_path)
  with pytest.raises(ZsljaxError, match=r"found another dataset.*--overwrite"):
    prepare(feature_set(seed=1), tmp_path)
  check_content(StoredDataset.open(first.folder), feature_set(), np.float32)


def test_overwrite_replaces_content_and_classes(feature_set, tmp_path):
  prepare(feature_set(), tmp_path)
  other = feature_set(seed=1, per_class=15)
  stored = prepare(other, tmp_path, overwrite=True)
  assert stored.fingerprint == other.fingerprint()
  np.testing.assert_array_equal(stored.classes.embeddings, other.classes.embeddings)
  check_content(stored, other, np.float32)
  assert store.find(tmp_path, "small", None).fingerprint == other.fingerprint()


def test_overwrite_repairs_a_damaged_set(feature_set, copy, tmp_path):
  (copy / "dataset_info.json").write_text("{")
  stored = prepare(feature_set(), tmp_path, overwrite=True)
  check_content(stored, feature_set(), np.float32)


def test_overwrite_of_nothing(feature_set, tmp_path):
  stored = prepare(feature_set(), tmp_path, overwrite=True)
  check_content(stored, feature_set(), np.float32)


@pytest.mark.parametrize("cut", [1, 100])
def test_truncated_shard(copy, cut):
  (path,) = copy.glob("*-test_seen.*")
  path.write_bytes(path.read_bytes()[:-cut])
  with pytest.raises(ZsljaxError, match="shards of test_seen: found.*damaged"):
    StoredDataset.open(copy)


@pytest.mark.parametrize("split", SPLITS)
def test_missing_shard(copy, split):
  (path,) = copy.glob(f"*-{split}.*")
  path.unlink()
  with pytest.raises(ZsljaxError, match=f"{path.name}: found no such file, expected 1"):
    StoredDataset.open(copy)


FILES = ("metadata.json", "classes.npz", "dataset_info.json", "features.json")


@pytest.mark.parametrize("file", FILES)
def test_missing_description(copy, file):
  (copy / file).unlink()
  with pytest.raises(ZsljaxError, match=f"{copy}.*{file}.*, expected"):
    StoredDataset.open(copy)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("fraction", [0, 0.5, 0.95])
def test_truncated_description(copy, file, fraction):
  content = (copy / file).read_bytes()
  (copy / file).write_bytes(content[: int(len(content) * fraction)])
  with pytest.raises(ZsljaxError, match=f"{copy}.*expected"):
    StoredDataset.open(copy)


def test_other_schema(copy):
  path = copy / "metadata.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
  with pytest.raises(ZsljaxError, match="schema: found 99, expected 4"):
    StoredDataset.open(copy)


def test_failing_write_leaves_nothing_that_opens(feature_set, tmp_path, monkeypatch):
  fail_at(monkeypatch, "test_seen", disk_full)
  with pytest.raises(ZsljaxError, match=r"could not be written \(.*No space left"):
    prepare(feature_set(), tmp_path)
  with pytest.raises(ZsljaxError, match="holds no dataset 'small'"):
    store.find(tmp_path, "small", None)
  assert not list(tmp_path.rglob("*tfrecord*"))
  monkeypatch.undo()
  check_content(prepare(feature_set(), tmp_path), feature_set(), np.float32)


def test_full_disk_is_said(tmp_path, full_disk):
  with full_disk(), pytest.raises(ZsljaxError, match="could not be written"):
    prepare(read_digits(), tmp_path)
  with pytest.raises(ZsljaxError, match="holds no dataset 'digits'"):
    store.find(tmp_path, "digits", None)


def test_failed_overwrite_keeps_the_old_set(feature_set, tmp_path, monkeypatch):
  old = prepare(feature_set(), tmp_path)
  fail_at(monkeypatch, "val", disk_full)
  with pytest.raises(ZsljaxError, match="could not be written"):
    prepare(feature_set(seed=1), tmp_path, overwrite=True)
  assert store.find(tmp_path, "small", None).fingerprint == old.fingerprint


def test_half_written_set_is_invisible(feature_set, tmp_path, monkeypatch):
  looked = []

  def look():
    with pytest.raises(ZsljaxError, match="holds no dataset 'small'"):
      store.find(tmp_path, "small", None)
    looked.append(list((tmp_path / "small" / "random_att").iterdir()))

  fail_at(monkeypatch, "test_unseen", look)
  prepare(feature_set(), tmp_path)
  assert ["incomplete" in path.name for path in looked[0]] == [True]


def test_leftover_of_a_killed_write_is_ignored(feature_set, copy, tmp_path):
  copy.rename(copy.with_name("1.0.0.incompleteABC"))
  with pytest.raises(ZsljaxError, match="holds no dataset"):
    store.find(tmp_path, "small", None)
  assert prepare(feature_set(), tmp_path).folder == copy


def test_dest_that_cannot_be_made(feature_set, tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(ZsljaxError, match="could not be written"):
    prepare(feature_set(), tmp_path / "file")


def test_find_the_only_one(copy, tmp_path):
  assert store.find(tmp_path, "small", None).folder == copy
  assert store.find(tmp_path, "small", "random_att").folder == copy


def test_find_among_several(copy, tmp_path):
  other = tmp_path / "small" / "random_sent" / "1.0.0"
  shutil.copytree(copy, other)
  with pytest.raises(ZsljaxError, match="one of random_att, random_sent"):
    store.find(tmp_path, "small", None)
  assert store.find(tmp_path, "small", "random_sent").folder == other


@pytest.mark.usefixtures("copy")
def test_find_helps_with_the_name(tmp_path):
  with pytest.raises(ZsljaxError, match=r"no dataset 'smal'. Did you mean 'small'\?"):
    store.find(tmp_path, "smal", None)


@pytest.mark.usefixtures("copy")
def test_find_helps_with_the_features(tmp_path):
  with pytest.raises(ZsljaxError, match=r"Did you mean 'random_att'\?"):
    store.find(tmp_path, "small", "random_at")


def test_find_in_an_absent_folder(tmp_path):
  with pytest.raises(ZsljaxError, match="found no folder .*nowhere"):
    store.find(tmp_path / "nowhere", "small", None)


def data_config(folder, name="digits", features=None):
  return {"name": name, "dir": str(folder), "features": features}


@pytest.mark.parametrize(
  ("features", "folder", "shape"),
  [
    (None, "pixels_strokes", (64,)),
    ("pixels_strokes", "pixels_strokes", (64,)),
    ("patches_strokes", "patches_strokes", (9, 25)),
  ],
)
def test_open_digits(tmp_path, features, folder, shape):
  opened = open_dataset(data_config(tmp_path, features=features))
  assert opened.folder == tmp_path / "digits" / folder / "1.0.0"
  assert opened.feature_shape == shape
  assert opened.size(*SPLITS) == 1797


def test_open_digits_below_home(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  folder = open_dataset(data_config("")).folder
  assert pathlib.Path.home() == tmp_path
  assert folder.is_relative_to(tmp_path / ".cache" / "zsljax")


def test_open_digits_with_unknown_features(tmp_path):
  with pytest.raises(ZsljaxError, match=r"Did you mean 'patches_strokes'\?"):
    open_dataset(data_config(tmp_path, features="patches_stroke"))


def test_open_imported_without_folder():
  with pytest.raises(ZsljaxError, match="config.data.dir: found nothing, expected"):
    open_dataset(data_config("", name="small"))


def test_open_imported(copy, tmp_path):
  assert open_dataset(data_config(tmp_path, name="small")).folder == copy


def test_embedded_set_of_another_version_is_made_again(tmp_path, monkeypatch):
  config = {"name": "digits", "features": None, "dir": str(tmp_path)}
  first = open_dataset(config)
  monkeypatch.setattr("zsljax.data.builtin.digits.VALIDATION", (2, 5))
  second = open_dataset(config)
  assert first.folder == second.folder
  assert first.metadata["validation_classes"] == [3, 7]
  assert second.metadata["validation_classes"] == [2, 5]


def test_damaged_embedded_set_is_made_again(tmp_path):
  config = {"name": "digits", "features": None, "dir": str(tmp_path)}
  dataset = open_dataset(config)
  (dataset.folder / "metadata.json").write_text("{")
  assert open_dataset(config).fingerprint == dataset.fingerprint


@pytest.mark.parametrize("cache", ["none", "host"])
def test_flipped_byte_in_a_shard_is_named(copy, cache):
  (shard,) = copy.glob("*train.tfrecord*")
  content = bytearray(shard.read_bytes())
  content[len(content) // 2] ^= 0xFF
  shard.write_bytes(content)
  data = TrainingData(StoredDataset.open(copy), "train", 2, 0, cache)
  with pytest.raises(ZsljaxError, match="a record cannot be read .corrupted record"):
    next(data.batches())
