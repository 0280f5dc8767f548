"""Export of a stored dataset to the .mat files of the xlsa17 layout, for other code."""

from __future__ import annotations

import pathlib

import numpy as np
import scipy.io

from zsljax.data.pipeline import load
from zsljax.data.store import StoredDataset
from zsljax.errors import in_bytes, require
from zsljax.io.files import explained, replacing

# Bytes that a variable of a MATLAB 5 file can hold.
_LIMIT = 2**31


def export_xlsa17(dataset: StoredDataset, dest: pathlib.Path) -> list[pathlib.Path]:
  """Writes ``res101.mat`` and ``att_splits.mat`` into the folder ``dest``.

  Images are in the order of the source. ``val_loc`` has the validation classes' images,
  ``train_loc`` the other training images. Regions are averaged, as the layout has
  pooled features only.

  Raises:
    ZsljaxError: the set has several labels an image or is too large for such a file, or
      the files are there already.
  """
  require(
    not dataset.multi_label, str(dataset.folder), "several labels an image", "one each"
  )
  count = dataset.size(*dataset.splits)
  size = 4 * count * dataset.feature_shape[-1]
  require(
    size < _LIMIT,
    f"{dataset.folder}: features",
    in_bytes(size),
    f"at most {in_bytes(_LIMIT)}, what a .mat file of MATLAB 5 holds",
  )
  files = [dest / "res101.mat", dest / "att_splits.mat"]
  for path in files:
    require(not path.exists(), str(path), "a file", "none: it would be replaced")
  classes = dataset.classes
  table = load(dataset, dataset.splits)
  features = table["features"].astype(np.float32)
  if features.ndim == 3:
    features = features.mean(1)
  order = np.argsort(dataset.source_rows(dataset.splits))
  position = np.empty(count, int)
  position[order] = np.arange(count)  # Of each stored image among the exported.
  labels = classes.columns(table["labels"])
  image_files = dataset.image_files(dataset.splits)
  if image_files is None:
    shown = zip(labels, position + 1, strict=True)
    image_files = np.array([f"{classes.names[c]}/image_{p:06d}" for c, p in shown])
  ends = np.cumsum([dataset.size(split) for split in dataset.splits])
  rows = dict(zip(dataset.splits, np.split(position, ends[:-1]), strict=True))
  trainval = np.concatenate([rows["train"], rows["val"]])
  held_out = np.isin(
    table["labels"][: ends[1]], list(dataset.metadata["validation_classes"])
  )
  locations = {
    "trainval_loc": trainval,
    "train_loc": trainval[~held_out],
    "val_loc": trainval[held_out],
    "test_seen_loc": rows["test_seen"],
    "test_unseen_loc": rows["test_unseen"],
  }
  image = {
    "features": features[order].T,
    "labels": _column(labels[order] + 1),
    "image_files": _cells(image_files[order]),
  }
  split = {
    "att": np.asarray(classes.embeddings, np.float64).T,
    "allclasses_names": _cells(classes.names),
    **{name: _column(np.sort(part) + 1) for name, part in locations.items()},
  }
  for path, content in zip(files, (image, split), strict=True):
    with explained(path):
      dest.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
      scipy.io.savemat(draft, content, appendmat=False, do_compression=True)
  return files


def _column(values: np.ndarray) -> np.ndarray:
  """Returns numbers as MATLAB has them: doubles in one column."""
  return np.asarray(values, np.float64)[:, None]


def _cells(texts) -> np.ndarray:
  """Returns texts as a MATLAB cell array, one column."""
  cells = np.empty((len(texts), 1), object)
  cells[:, 0] = [str(text) for text in texts]
  return cells
