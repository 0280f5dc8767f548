import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from zsljax.data import evaluation_batches, prepare, read_regions
from zsljax.errors import ZsljaxError
from zsljax.io import arrays

CLASSES = 6
VALIDATION, UNSEEN = (4,), (2, 5)
SHAPE = (66, 10, 3, 4)  # N, C, H, W


class RegionFile:
  """Content of a good file, to be spoilt."""

  def __init__(self, path):
    self.path = path
    self.chunks = {"feature_map": None}
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(CLASSES), 11))
    rows = [np.flatnonzero(labels == c) for c in range(CLASSES) if c not in UNSEEN]
    trainval = np.sort(np.concatenate([r[:8] for r in rows]))
    held_out = np.isin(labels[trainval], VALIDATION)
    original = rng.uniform(size=(CLASSES, 7))
    self.content = {
      "feature_map": rng.standard_normal(SHAPE).astype(np.float32),
      "labels": labels,
      "att": original / np.linalg.norm(original, axis=1, keepdims=True),
      "original_att": original,
      "w2v_att": rng.standard_normal((7, 4)).astype(np.float32),
      "trainval_loc": trainval,
      "train_loc": trainval[~held_out],
      "val_unseen_loc": trainval[held_out],
      "test_seen_loc": np.sort(np.concatenate([r[8:] for r in rows])),
      "test_unseen_loc": np.flatnonzero(np.isin(labels, UNSEEN)),
    }

  def write(self):
    self.path.unlink(missing_ok=True)  # It may be open still.
    with h5py.File(self.path, "w") as file:
      for field, value in self.content.items():
        chunks = self.chunks.get(field)
        packing = {"chunks": chunks, "compression": "gzip"} if chunks else {}
        file.create_dataset(field, data=value, **packing)
    return self

  def read(self, **options):
    return read_regions(self.path, self.path.parent / "scratch", **options)

  def refused(self, **options):
    """The message with which the file is refused."""
    with pytest.raises(ZsljaxError) as error:
      self.write().read(**options)
    assert self.path.name in str(error.value) or "word_vectors" in options
    assert not list((self.path.parent / "scratch").glob("*"))
    return str(error.value)


@pytest.fixture
def region_file(tmp_path):
  return RegionFile(tmp_path / "feature_map_ResNet_101_Small.hdf5")


def channels_last(features):
  return features.transpose(0, 2, 3, 1).reshape(len(features), -1, features.shape[1])


@pytest.mark.parametrize(
  ("chunks", "dtype"),
  [
    (None, np.float64),
    ((1, 10, 3, 4), np.float16),
    ((50, 4, 1, 1), np.float32),
    ((66, 3, 2, 1), np.float32),
  ],
)
@pytest.mark.parametrize("piece", [2**26, 3000, 50])
def test_any_chunks_are_read_right(region_file, monkeypatch, dtype, chunks, piece):
  monkeypatch.setattr(arrays, "PIECE_BYTES", piece)
  monkeypatch.setattr(arrays, "LARGE_BYTES", 0)
  region_file.chunks["feature_map"] = chunks
  features = region_file.content["feature_map"].astype(dtype)
  region_file.content["feature_map"] = features
  found = region_file.write().read()
  assert found.features.shape == (66, 12, 10)
  assert found.features.dtype == dtype
  np.testing.assert_array_equal(found.features[:], channels_last(features))
  np.testing.assert_array_equal(found.features[5:9], channels_last(features)[5:9])
  np.testing.assert_array_equal(found.features[64], channels_last(features)[64])


def test_stored_set_holds_the_file(region_file, tmp_path):
  content = region_file.content
  found = region_file.write().read()
  store = prepare(found, tmp_path / "data")
  assert store.metadata["name"] == "small"
  assert store.variant == "resnet_101_3x4_att"
  assert store.feature_shape == (12, 10)
  assert store.metadata["split_version"] == "as_given"
  assert store.metadata["validation_classes"] == [4]
  np.testing.assert_array_equal(store.classes.embeddings, content["att"])
  np.testing.assert_array_equal(store.classes.attribute_vectors, content["w2v_att"])
  np.testing.assert_array_equal(
    store.classes.seen, ~np.isin(np.arange(CLASSES), UNSEEN)
  )
  expected = channels_last(content["feature_map"])
  known = {row.tobytes(): i for i, row in enumerate(expected)}
  for splits, field in (
    (("train", "val"), "trainval_loc"),
    (("test_seen",), "test_seen_loc"),
    (("test_unseen",), "test_unseen_loc"),
  ):
    rows = []
    for batch in evaluation_batches(store, splits, 16):
      for row, label in zip(
        batch["features"][batch["mask"]], batch["labels"], strict=False
      ):
        rows.append(known[row.tobytes()])
        assert label == content["labels"][rows[-1]]
    assert sorted(rows) == content[field].tolist()


def test_pooled_set_holds_means(region_file, tmp_path):
  region_file.write()
  whole = region_file.read()
  expected = whole.features[:].mean(1, dtype=np.float32)
  pooled = region_file.read(pool=True)
  assert pooled.features_kind.endswith("_mean")
  np.testing.assert_array_equal(pooled.features[:], expected)
  np.testing.assert_array_equal(pooled.features[1], expected[1])


def test_names_and_texts_are_taken_where_they_are(region_file):
  region_file.content |= {
    "allclasses_names": np.array([f"c{i}" for i in range(CLASSES)], "S"),
    "attribute_names": np.array([f"has\n  {i}" for i in range(7)], "S"),
    "image_files": np.array([f"{i}.jpg" for i in range(11 * CLASSES)], "S"),
  }
  found = region_file.write().read(name="Other set")
  assert found.name == "other_set"
  assert found.classes.names == ("c0", "c1", "c2", "c3", "c4", "c5")
  assert found.classes.attribute_names[3] == "has 3"
  assert found.image_files[2] == "2.jpg"
  del region_file.content["allclasses_names"]
  found = region_file.write().read()
  assert found.classes.names[0] == "class_001"
  assert any("no allclasses_names" in note for note in found.notes)


def test_word_vectors_from_a_file_of_their_own(region_file, tmp_path):
  vectors = np.arange(21.0).reshape(7, 3)
  path = tmp_path / "glove.npy"
  np.save(path, vectors)
  del region_file.content["w2v_att"]
  found = region_file.write().read()
  assert found.classes.attribute_vectors is None
  assert any("no w2v_att" in note for note in found.notes)
  found = region_file.write().read(word_vectors=path)
  np.testing.assert_array_equal(found.classes.attribute_vectors, vectors)
  assert set(found.sources) == {region_file.path.name, "glove.npy"}


def test_all_zero_word_vector_is_noted_and_kept(region_file):
  region_file.content["w2v_att"][3] = 0
  found = region_file.write().read()
  assert not found.classes.attribute_vectors[3].any()
  assert any("all zero: 1 (first at row 3" in n for n in found.notes)


def shared(first, second):
  return lambda content: np.append(content[first], content[second][0])


LAST = "test_unseen_loc"


@pytest.mark.parametrize(
  ("field", "change", "message"),
  [
    (
      "feature_map",
      lambda x: x[:, :, 0],
      "floating point numbers [N, C, H, W]",
    ),
    ("feature_map", lambda x: x.astype(int), "int64 of shape (66, 10, 3, 4), expect"),
    ("feature_map", lambda x: x[:, :3, :3].repeat(3, 3), "channels seem to come last"),
    ("feature_map", lambda x: np.where(x == x[3, 0, 0, 0], np.nan, x), "NaN"),
    ("feature_map", None, "no field feature_map (it has"),
    ("labels", lambda x: x[:-1], "shape (65,), expected whole numbers from 0 on [66]"),
    ("labels", lambda x: x + 1, "expected numbers [7, A], a row for each class in lab"),
    ("labels", lambda x: np.where(x == 3, np.nan, x), "labels: found nan (11 such)"),
    ("att", np.transpose, "shape (7, 6), expected numbers [6, A], a row for each"),
    ("att", lambda x: x[:, :6], "w2v_att: found float32 of shape (7, 4), expected fin"),
    ("w2v_att", lambda x: x * np.nan, "w2v_att: found nan (28 such)"),
    ("test_seen_loc", lambda x: x + 66, "does it count from 1?"),
    ("allclasses_names", lambda x: np.array([b"one"]), "of shape (1,), expected texts"),
    ("trainval_loc", shared("trainval_loc", "test_seen_loc"), "trainval and test_seen"),
    ("train_loc", shared("train_loc", "val_unseen_loc"), "train_loc and val_loc: foun"),
  ],
)
def test_spoilt_fields_are_named(region_file, field, change, message):
  content = region_file.content
  if change is None:
    del content[field]
  elif change.__qualname__.startswith("shared"):
    content[field] = change(content)
  else:
    content[field] = change(content.get(field))
  assert message in region_file.refused()


def test_what_can_be_refused_is_refused_before_unpacking(region_file, monkeypatch):
  def copied(self, rows):
    raise AssertionError("copied")

  monkeypatch.setattr(arrays, "LARGE_BYTES", 10_000)
  monkeypatch.setattr(arrays.LargeArray, "__getitem__", copied)
  region_file.content["test_seen_loc"] = region_file.content["trainval_loc"]
  assert "images in both" in region_file.refused()
  region_file.content["w2v_att"] = np.ones((3, 3))
  assert "w2v_att" in region_file.refused()


def test_other_fields_of_the_file_are_left_alone(region_file):
  region_file.content["images"] = np.zeros((9, 9))
  region_file.chunks["images"] = (9, 9)
  content = bytearray(region_file.write().path.read_bytes())
  with h5py.File(region_file.path) as file:
    chunk = file["images"].id.get_chunk_info(0)
  content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
  region_file.path.write_bytes(content)
  assert region_file.read().features.shape == (66, 12, 10)


def test_damage_beyond_the_header_is_refused(region_file):
  region_file.chunks["feature_map"] = (16, 10, 3, 4)
  region_file.write()
  content = bytearray(region_file.path.read_bytes())
  with h5py.File(region_file.path) as file:
    chunk = file["feature_map"].id.get_chunk_info(1)
  content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
  region_file.path.write_bytes(content)
  with pytest.raises(ZsljaxError, match="was the download cut off"):
    region_file.read()


def test_full_disk_while_unpacking(region_file, full_disk):
  region_file.content["feature_map"] = np.ones((66, 400, 3, 4), np.float32)
  region_file.write()
  with full_disk(), pytest.raises(ZsljaxError, match="scratch: could not be written"):
    region_file.read()


@pytest.mark.slow
def test_command(region_file, command, tmp_path):
  region_file.write()
  source, dest = f"--source={region_file.path}", f"--dest={tmp_path / 'data'}"
  action = ("-m", "zsljax", "data", "import-regions")
  done = command(*action, source, dest, "--storage=float16")
  assert "resnet_101_3x4 features of 12 x 10, stored as float16" in done.stdout
  done = command(*action, "--source=absent.hdf5", dest, check=False)
  assert done.returncode == 2
  assert done.stderr.startswith("error: absent.hdf5: found no such file")


@pytest.mark.slow
@pytest.mark.parametrize("chunks", ["auto", "rows"])
def test_memory_stays_bounded(tmp_path, chunks):
  """A set of 5 GiB: its peak is far below the 2 GiB that are promised."""
  path = tmp_path / "feature_map_Random_Big.hdf5"
  count, shape = 3200, (2048, 14, 14)
  labels = np.arange(count) % 4
  seen = np.flatnonzero(labels < 3)
  with h5py.File(path, "w") as file:
    features = file.create_dataset(
      "feature_map",
      (count, *shape),
      np.float32,
      chunks=True if chunks == "auto" else (4, *shape),
    )
    block = np.random.default_rng(0).random((100, *shape), np.float32)
    for start in range(0, count, 100):
      features[start : start + 100] = block + start
    file["labels"] = labels
    file["att"] = np.eye(4)
    file["trainval_loc"] = seen[seen % 5 != 0]
    file["test_seen_loc"] = seen[seen % 5 == 0]
    file["test_unseen_loc"] = np.flatnonzero(labels == 3)
  code = (  # Not ru_maxrss, which a child has from its parent.
    "import pathlib, sys; from zsljax.__main__ import main; main(sys.argv[1:]); "
    "status = pathlib.Path('/proc/self/status').read_text(); "
    "print('peak', status.split('VmHWM:')[1].split()[0])"
  )
  arguments = (
    "data",
    "import-regions",
    f"--source={path}",
    f"--dest={tmp_path / 'data'}",
    "--storage=bfloat16",
  )
  done = subprocess.run(
    [sys.executable, "-c", code, *arguments],
    capture_output=True,
    text=True,
    check=True,
    env=os.environ | {"TQDM_DISABLE": "1"},
  )
  peak = 1024 * int(done.stdout.split("peak")[1])
  assert peak < 1.5 * 2**30, f"{peak / 2**30:.2f} GiB"
