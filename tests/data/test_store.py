import contextlib
import dataclasses
import json
import pathlib
import re
import shutil
import types

import ml_dtypes
import numpy as np
import pytest

from zsljax.cli.main import main
from zsljax.data import (
  StoredDataset,
  TrainingData,
  evaluation_batches,
  open_dataset,
  prepare,
  store,
)
from zsljax.data.builtin.digits import VARIANTS, read_digits
from zsljax.data.describe import describe
from zsljax.data.feature_set import SPLITS
from zsljax.data.pipeline import load
from zsljax.errors import ZsljaxError
from zsljax.io import checksums

FILES = ("metadata.json", "classes.npz", "dataset_info.json", "features.json")


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


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_chosen_precision(feature_set, tmp_path, dtype):
  storage = np.dtype(dtype).name
  source = feature_set(dtype=np.float64, shape=(2, 3), notes=["odd"])
  stored = prepare(source, tmp_path, storage)
  assert stored.folder == tmp_path / "small" / f"random_att_{storage}" / "1.0.0"
  check_content(stored, source, dtype)
  assert stored.fingerprint != source.fingerprint()
  expected = {
    "name": "small",
    "features": "random",
    "class_embedding": "att",
    "split_version": "xlsa17-v2",
    "fingerprint": source.fingerprint(dtype),
    "sources": {"small.mat": "0123"},
    "source_dtype": "float64",
    "storage_dtype": storage,
    "feature_shape": [2, 3],
    "validation_classes": [4],
    "notes": ["odd"],
  }
  assert {key: stored.metadata[key] for key in expected} == expected


def test_several_files_a_split(feature_set, store_in_shards, tmp_path):
  source = feature_set()
  stored = store_in_shards(source, tmp_path, 3)
  assert len(stored.pieces(("test_seen",))) == 3
  check_content(stored, source, np.float32)


@pytest.mark.parametrize(
  ("names", "vectors"),
  [(("big", "wild", "grey"), np.arange(6.0).reshape(3, 2)), ((), None)],
)
def test_classes_are_kept(feature_set, tmp_path, names, vectors):
  source = feature_set(attribute_names=names, attribute_vectors=vectors)
  classes = prepare(source, tmp_path).classes
  for field in ("embeddings", "seen", "ids", "attribute_vectors"):
    np.testing.assert_array_equal(
      getattr(classes, field), getattr(source.classes, field)
    )
  assert classes.embeddings.dtype == source.classes.embeddings.dtype
  assert (classes.names, classes.attribute_names) == (source.classes.names, names)


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


def test_sizes_and_training_classes(one):
  assert [one.size(split) for split in SPLITS] == [21, 11, 12, 22]
  assert one.size("train", "val") == 32
  assert one.training_classes("trainval") is one.classes
  fold = one.training_classes("train")
  np.testing.assert_array_equal(fold.ids, [0, 1, 3, 4])
  np.testing.assert_array_equal(fold.seen, [True, True, True, False])


def test_storing_twice_writes_once(feature_set, tmp_path):
  first = prepare(feature_set(), tmp_path)
  before = files_of(tmp_path)
  second = prepare(feature_set(), tmp_path)
  assert files_of(tmp_path) == before
  assert second.metadata == first.metadata
  assert describe(second).endswith(
    f"nothing was written: already stored in {second.folder}"
  )
  assert "already" not in describe(first)


@pytest.mark.parametrize(
  ("field", "old", "new"),
  [
    ("split_version", "xlsa17-v2", "xlsa17-v1"),
    ("validation_classes", (4,), (0, 1)),
  ],
)
def test_another_split_of_the_same_content_needs_overwrite(
  feature_set, tmp_path, field, old, new
):
  prepare(feature_set(), tmp_path)
  other = dataclasses.replace(feature_set(), **{field: new})
  assert other.fingerprint() == feature_set().fingerprint()
  shown = [str(x if isinstance(x, str) else list(x)) for x in (old, new)]
  message = f"{field}: found {shown[0]}, expected {shown[1]}, as imported now"
  with pytest.raises(ZsljaxError, match=re.escape(message)):
    prepare(other, tmp_path)
  stored = prepare(other, tmp_path, overwrite=True)
  assert str(stored.metadata[field]) == shown[1] and not stored.was_there


@pytest.mark.parametrize(
  ("field", "old", "new"),
  [
    ("class names", "ape", "monkey"),
    ("attribute names", "wild", "tame"),
    ("names of images", "0.png", "1.png"),
    ("encoder", "None", "{'network': 'n'}"),
  ],
)
def test_other_names_need_overwrite(feature_set, tmp_path, field, old, new):
  files = np.array([f"{i}.png" for i in range(66)])
  classes = ("ape", "bat", "cow", "dog", "elk", "fox")
  attributes = ("big", "wild", "grey")
  first = feature_set(image_files=files)
  prepare(first, tmp_path)
  options = {
    "class_names": [new if name == old else name for name in classes],
    "attribute_names": [new if name == old else name for name in attributes],
    "image_files": np.where(files == old, "1.png", files),
    "encoder": {"network": "n"} if field == "encoder" else None,
  }
  other = feature_set(**options)
  assert other.fingerprint() == first.fingerprint()
  quoted = (old, new) if field == "encoder" else (repr(old), repr(new))
  message = f"{field}: found {quoted[0]}, expected {quoted[1]}, as imported now"
  with pytest.raises(ZsljaxError, match=re.escape(message)):
    prepare(other, tmp_path)
  stored = prepare(other, tmp_path, overwrite=True)
  assert not stored.was_there and stored.classes.names == other.classes.names


def test_same_content_is_stored_in_the_same_order(feature_set, one, tmp_path):
  again = prepare(feature_set(), tmp_path)
  np.testing.assert_array_equal(
    records(again, "train")["row"], records(one, "train")["row"]
  )
  places = np.array([5, 0, 20])
  features = records(one, "train")["features"][places]
  np.testing.assert_array_equal(one.features_of(("train",), places), features)


def test_other_content_needs_overwrite(feature_set, tmp_path):
  first = prepare(feature_set(), tmp_path)
  other = feature_set(seed=1, per_class=15)
  with pytest.raises(
    ZsljaxError, match=r"fingerprint: found .*, expected .*--overwrite"
  ):
    prepare(other, tmp_path)
  check_content(StoredDataset.open(first.folder), feature_set(), np.float32)
  stored = prepare(other, tmp_path, overwrite=True)
  assert stored.fingerprint == other.fingerprint()
  np.testing.assert_array_equal(stored.classes.embeddings, other.classes.embeddings)
  check_content(stored, other, np.float32)
  (stored.folder / "dataset_info.json").write_text("{")
  check_content(prepare(other, tmp_path, overwrite=True), other, np.float32)


def cut_end(path):
  path.write_bytes(path.read_bytes()[:-1])


def cut_half(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edited(**fields):
  """Changes fields of a JSON file to values of the same length."""

  def edit(path):
    old = path.read_text()
    content = json.loads(old)
    for field, value in fields.items():
      content[field] = value(content[field])
    path.write_text(json.dumps(content, indent=2)[: len(old)].ljust(len(old)))

  return edit


def swapped(path):
  """Swaps two records of one size."""
  content, size = path.read_bytes(), len(path.read_bytes()) // 11
  path.write_bytes(content[size : 2 * size] + content[:size] + content[2 * size :])


def of_another_version(path):
  """Flips a feature's last bit, with the record's checksum."""
  tf, _ = store.tensorflow()
  first, *others = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in (bytes([*first[:-9], first[-9] ^ 1, *first[-8:]]), *others):
      writer.write(record)


META, SUMS = "metadata.json", "checksums.json"
OTHER = ": found other content, expected the files as they were written: import the set"


@pytest.mark.parametrize(
  ("file", "damage", "message"),
  [
    ("*-test_seen.*", cut_end, "-test_seen.*: found .* bytes, expected .*as they were"),
    ("*-val.*", pathlib.Path.unlink, "found no small-val.*, expected the files"),
    *(
      (file, pathlib.Path.unlink, f"found no {file}, expected the files")
      for file in (*FILES, "index.npz", "checksums.json")
    ),
    *((file, cut_half, f"{file}: found .* bytes, expected") for file in FILES),
    (META, edited(storage_dtype=lambda _: "float64"), META + OTHER),
    (META, edited(feature_shape=lambda _: [6]), META + OTHER),
    (META, edited(validation_classes=lambda _: [3]), META + OTHER),
    (META, edited(fingerprint=lambda f: f[::-1]), META + OTHER),
    ("checksums.json", cut_half, "checksums.json: not readable as JSON"),
    (SUMS, edited(sha256=lambda f: f[::-1]), SUMS + OTHER),
    (SUMS, edited(files=lambda _: {}), SUMS + OTHER),
    (SUMS, edited(files=lambda _: 3), "checksums.json: files: 3 is not of ty"),
  ],
)  # fmt: skip
def test_damage_is_named(copy, file, damage, message):
  (path,) = copy.glob(file)
  damage(path)
  with pytest.raises(ZsljaxError, match=f"{copy}.*{message}"):
    StoredDataset.open(copy)


@pytest.mark.parametrize(
  ("file", "damage"),
  [
    ("*-train.*", swapped),
    ("*-train.*", of_another_version),
    ("index.npz", swapped),
  ],
)
def test_other_content_of_the_same_size_is_refused_when_read(
  copy, file, damage, capsys
):
  stored = StoredDataset.open(copy)
  stored.labels(("train",))
  load(stored, ("train",))
  (path,) = copy.glob(file)
  size = path.stat().st_size
  damage(path)
  assert path.stat().st_size == size
  stored = StoredDataset.open(copy)
  message = f"{path.name}{OTHER}"
  reading = [stored.labels] if path.name == "index.npz" else [
    lambda splits: load(stored, splits),
    lambda splits: next(evaluation_batches(stored, splits, 4)),
    lambda splits: next(TrainingData(stored, "train", 4, 0, "none").batches()),
  ]  # fmt: skip
  for read in reading:
    with pytest.raises(ZsljaxError, match=message):
      read(("train",))
  with pytest.raises(SystemExit):
    main(["data", "verify", str(copy)])
  assert f"{path.name}: found other content" in " ".join(
    capsys.readouterr().err.split()
  )


def test_unchanged_files_are_hashed_once(copy, monkeypatch, capsys):
  load(StoredDataset.open(copy), ("train",))
  hashed = []
  hash_all = checksums._sha256_of
  monkeypatch.setattr(
    checksums, "_sha256_of", lambda paths: hashed.extend(paths) or hash_all(paths)
  )
  load(StoredDataset.open(copy), ("train",))
  assert not hashed
  main(["data", "verify", str(copy)])
  assert len(hashed) == 9
  assert "9 files, 15.2 kB, as they were written" in capsys.readouterr().out


def test_set_of_another_version_is_refused(copy):
  path = copy / "metadata.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
  checksums.Checksums.write(copy)
  with pytest.raises(ZsljaxError, match="metadata.json: schema: 4 was expected"):
    StoredDataset.open(copy)


@pytest.mark.parametrize("split", ["val", "test_seen"])
def test_failing_write_changes_nothing(feature_set, tmp_path, monkeypatch, split):
  other = feature_set(seed=1)
  with monkeypatch.context() as patch:
    fail_at(patch, split, disk_full)
    with pytest.raises(ZsljaxError, match=r"could not be written \(.*No space left"):
      prepare(feature_set(), tmp_path)
  assert not list(tmp_path.rglob("*tfrecord*"))
  old = prepare(feature_set(), tmp_path)
  fail_at(monkeypatch, split, disk_full)
  with pytest.raises(ZsljaxError, match="could not be written"):
    prepare(other, tmp_path, overwrite=True)
  assert store.find(tmp_path, "small", None).fingerprint == old.fingerprint


@pytest.mark.parametrize("text", ["../evil", "/tmp/evil", "..", ".", "a/b", "", "a\0b"])
@pytest.mark.parametrize("field", ["name", "features_kind", "class_embedding"])
def test_nothing_is_written_elsewhere(feature_set, tmp_path, field, text):
  (tmp_path / "in").mkdir()
  with pytest.raises(ZsljaxError, match=f"dataset: {field}: found "):
    prepare(feature_set(**{field: text}), tmp_path / "in")
  assert [path.name for path in tmp_path.rglob("*")] == ["in"]


def test_numbers_that_overflow_are_refused(feature_set, tmp_path):
  features = np.full((66, 5), 1e30)
  with pytest.raises(
    ZsljaxError, match=r"numbers up to 1e\+30, expected at most 1e\+15"
  ):
    prepare(feature_set(features=features), tmp_path)


def test_full_disk_is_said(tmp_path, full_disk):
  with full_disk(), pytest.raises(ZsljaxError, match="could not be written"):
    prepare(read_digits(), tmp_path)
  with pytest.raises(ZsljaxError, match="holds no dataset 'digits'"):
    store.find(tmp_path, "digits", None)


def test_half_written_set_is_invisible(feature_set, tmp_path, monkeypatch):
  looked = []

  def look():
    with pytest.raises(ZsljaxError, match="holds no dataset 'small'"):
      store.find(tmp_path, "small", None)
    looked.append([path.name for path in (tmp_path / "small").iterdir()])

  fail_at(monkeypatch, "test_unseen", look)
  prepare(feature_set(), tmp_path)
  assert "random_att" not in looked[0]


def test_leftover_of_a_killed_write_goes_with_the_next(feature_set, copy, tmp_path):
  killed = tmp_path / "small" / ".scratchABC" / "small" / "random_att"
  killed.mkdir(parents=True)
  copy.rename(killed / copy.name)
  with pytest.raises(ZsljaxError, match="holds no dataset"):
    store.find(tmp_path, "small", None)
  with pytest.raises(ZsljaxError, match="no stored dataset"):
    store.all_below(tmp_path)
  assert prepare(feature_set(), tmp_path).folder == copy
  assert not list(tmp_path.rglob(".scratch*"))


def test_a_set_may_be_called_as_what_lies_beside_it(feature_set, tmp_path):
  prepare(feature_set(name="replaced"), tmp_path)
  source = feature_set(name="replaced", seed=1)
  assert prepare(source, tmp_path, overwrite=True).fingerprint == source.fingerprint()


def test_dest_that_cannot_be_made(feature_set, tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(ZsljaxError, match="could not be written"):
    prepare(feature_set(), tmp_path / "file")


def test_find(copy, tmp_path):
  assert store.find(tmp_path, "small", None).folder == copy
  assert store.find(tmp_path, "small", "random_att").folder == copy
  assert open_dataset(data_config(tmp_path, name="small")).folder == copy
  other = tmp_path / "small" / "random_sent" / "1.0.0"
  shutil.copytree(copy, other)
  with pytest.raises(ZsljaxError, match="one of random_att, random_sent"):
    store.find(tmp_path, "small", None)
  assert store.find(tmp_path, "small", "random_sent").folder == other
  assert [found.folder for found in store.all_below(tmp_path)] == [copy, other]


@pytest.mark.usefixtures("copy")
@pytest.mark.usefixtures("copy")
@pytest.mark.parametrize(
  ("folder", "name", "features", "message"),
  [
    ("", "smal", None, r"no dataset 'smal'. Did you mean 'small'\?"),
    ("", "small", "random_at", r"Did you mean 'random_att'\?"),
    ("nowhere", "small", None, "found no folder .*nowhere"),
  ],
)
def test_find_helps(tmp_path, folder, name, features, message):
  with pytest.raises(ZsljaxError, match=message):
    store.find(tmp_path / folder, name, features)


def test_of_several_forms_a_system_gets_the_one_that_it_can_use(tmp_path):
  for variant in VARIANTS:
    prepare(dataclasses.replace(read_digits(variant), name="forms"), tmp_path)
  shapes = [store.find(tmp_path, "forms", None, axes).feature_shape for axes in (1, 2)]
  assert shapes == [(64,), (9, 25)]


def data_config(folder, name="digits", features=None):
  return {"name": name, "dir": str(folder), "features": features}


@pytest.mark.parametrize(
  ("features", "folder", "shape"),
  [(None, "pixels_strokes", (64,)), ("patches_strokes", "patches_strokes", (9, 25))],
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


@pytest.mark.parametrize(
  ("folder", "name", "features", "message"),
  [
    ("x", "digits", "patches_stroke", r"Did you mean 'patches_strokes'\?"),
    ("", "small", None, "config.data.dir: found nothing, expected"),
    ("x", "own", None, "config.data.name: found 'own', expected the --name"),
  ],
)
def test_refused_configs(folder, name, features, message):
  with pytest.raises(ZsljaxError, match=message):
    open_dataset(data_config(folder, name, features))


def test_stale_or_damaged_embedded_set_is_made_again(tmp_path, monkeypatch):
  config = data_config(tmp_path)
  first = open_dataset(config)
  (first.folder / "metadata.json").write_text("{")
  assert open_dataset(config).fingerprint == first.fingerprint
  monkeypatch.setattr("zsljax.data.builtin.digits.VALIDATION", (2, 5))
  second = open_dataset(config)
  assert first.folder == second.folder
  assert first.metadata["validation_classes"] == [3, 7]
  assert second.metadata["validation_classes"] == [2, 5]
