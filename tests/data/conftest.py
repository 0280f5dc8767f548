"""Generated datasets, small enough to write for every test."""

import dataclasses
import functools
from unittest import mock

import h5py
import numpy as np
import pytest
import scipy.io

from zsljax.data import make_feature_set, prepare, read_xlsa17
from zsljax.data.store import tensorflow

NAMES = ("ape", "bat", "cow", "dog", "elk", "fox")
VALIDATION, UNSEEN = (4,), (2, 5)
PER_CLASS, PER_CLASS_TRAINVAL = 11, 8


@dataclasses.dataclass
class Split:
  """Who is where: labels, and 0-based rows of each part."""

  labels: np.ndarray
  trainval: np.ndarray
  test_seen: np.ndarray
  test_unseen: np.ndarray


def draw_split(rng, per_class=PER_CLASS, per_class_trainval=PER_CLASS_TRAINVAL):
  labels = rng.permutation(np.repeat(np.arange(len(NAMES)), per_class))
  rows = [np.flatnonzero(labels == c) for c in range(len(NAMES)) if c not in UNSEEN]
  return Split(
    labels=labels,
    trainval=np.concatenate([r[:per_class_trainval] for r in rows]),
    test_seen=np.concatenate([r[per_class_trainval:] for r in rows]),
    test_unseen=np.flatnonzero(np.isin(labels, UNSEEN)),
  )


def column(values):
  """Numbers as MATLAB has them: doubles in one column."""
  return np.asarray(values, np.float64)[:, None]


def cells(texts):
  """Texts as scipy writes a MATLAB cell array: objects in one column."""
  array = np.empty((len(texts), 1), object)
  array[:, 0] = texts
  return array


def save_v5(path, content):
  scipy.io.savemat(path, content, do_compression=True)


def save_v73(path, content):
  """Writes what MATLAB 7.3 writes: HDF5 behind a userblock, columns first."""
  with h5py.File(path, "w", userblock_size=512) as file:
    texts = file.create_group("#refs#")
    for field, value in content.items():
      if value.dtype != object:
        file[field] = value.T
        continue
      references = np.empty(value.T.shape, h5py.ref_dtype)
      for at, text in np.ndenumerate(value.T):
        cell = texts.create_dataset(
          f"{field}{at}", data=np.array([list(text.encode("utf-16-le")[::2])]).T
        )
        references[at] = cell.ref
      file.create_dataset(field, data=references, dtype=h5py.ref_dtype)
  header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
  with path.open("r+b") as file:
    file.write(header)


class Xlsa17Folder:
  """Content of a good pair of files in ``image`` and ``split``, to be spoilt."""

  image_file, split_file = "res101.mat", "att_splits.mat"

  def __init__(self, folder):
    self.folder = folder
    rng = np.random.default_rng(0)
    self.rows = rows = draw_split(rng)
    count = len(rows.labels)
    tuning = np.concatenate([rows.trainval, rows.test_seen])
    held_out = np.isin(rows.labels[tuning], VALIDATION)
    original = rng.uniform(1, 100, (8, len(NAMES)))
    self.image = {
      "features": rng.standard_normal((5, count)),
      "labels": column(rows.labels + 1),
      "image_files": cells(
        [f"/data/{NAMES[c]}/img_{i:04d}.jpg" for i, c in enumerate(rows.labels)]
      ),
    }
    self.split = {
      "att": original / np.linalg.norm(original, axis=0),
      "original_att": original,
      "allclasses_names": cells(NAMES),
      "trainval_loc": column(rows.trainval + 1),
      "test_seen_loc": column(rows.test_seen + 1),
      "test_unseen_loc": column(rows.test_unseen + 1),
      "train_loc": column(tuning[~held_out] + 1),
      "val_loc": column(tuning[held_out] + 1),
    }

  def use_newer_split(self):
    """Takes the test images out of ``train_loc`` and ``val_loc``."""
    for field in ("train_loc", "val_loc"):
      tuning = self.split[field]
      self.split[field] = tuning[~np.isin(tuning, self.split["test_seen_loc"])]
      self.split[field] = self.split[field][:, None]

  def write(self, save=save_v5):
    self.folder.mkdir(parents=True, exist_ok=True)
    save(self.folder / self.image_file, self.image)
    save(self.folder / self.split_file, self.split)
    return self

  def read(self, **options):
    return read_xlsa17(self.folder, **options)

  def location(self, field, rows):
    self.split[field] = column(np.asarray(rows) + 1)


@pytest.fixture
def xlsa17(tmp_path):
  return Xlsa17Folder(tmp_path / "small")


@pytest.fixture(params=[save_v5, save_v73], ids=["v5", "v7.3"])
def save(request):
  return request.param


@pytest.fixture(scope="session")
def feature_set():
  """Makes a small set; options replace arguments of ``make_feature_set``."""

  def make(seed=0, per_class=PER_CLASS, shape=(5,), dtype=np.float32, **options):
    rng = np.random.default_rng(seed)
    rows = draw_split(rng, per_class, per_class * 3 // 4)
    arguments = {
      "features": rng.standard_normal((len(rows.labels), *shape)).astype(dtype),
      "class_names": NAMES,
      "embeddings": rng.standard_normal((len(NAMES), 3)),
      "attribute_names": ("big", "wild", "grey"),
      "validation_classes": VALIDATION,
      "where": "small files",
      "name": "small",
      "features_kind": "random",
      "class_embedding": "att",
      "split_version": "xlsa17-v2",
      "sources": {"small.mat": "0123"},
      **dataclasses.asdict(rows),
    }
    return make_feature_set(**(arguments | options))

  return make


@pytest.fixture(scope="session")
def store_in_shards():
  """Stores a set in several files a split, as large sets are."""

  def store(feature_set, dest, shards, **options):
    _, tfds = tensorflow()
    sharded = functools.partial(tfds.download.DownloadConfig, num_shards=shards)
    with mock.patch.object(tfds.download, "DownloadConfig", sharded):
      return prepare(feature_set, dest, **options)

  return store
