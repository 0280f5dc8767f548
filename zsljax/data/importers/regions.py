"""Importer for region features in the HDF5 layout of DAZLE, TransZero and MSDN.

One file holds everything: ``feature_map [N, C, H, W]``, ``labels [N]`` and
``*_loc`` counted from 0, ``att`` and ``original_att [classes, A]``, and
``w2v_att [A, V]``, a word vector for each attribute.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import functools
import math
import os
import pathlib
import tempfile
import weakref

import h5py
import numpy as np

from zsljax.data.feature_set import FeatureSet, digests
from zsljax.data.importers.published import PUBLISHED, dataset_name, located_set
from zsljax.errors import require
from zsljax.io.arrays import check_array, check_field, read_arrays, readable
from zsljax.io.files import explained
from zsljax.io.progress import task_bar

# The file's names of the splits, and those of the xlsa17 files.
_LOCATIONS = {
  "trainval_loc": "trainval_loc",
  "train_loc": "train_loc",
  "val_unseen_loc": "val_loc",
  "test_seen_loc": "test_seen_loc",
  "test_unseen_loc": "test_unseen_loc",
}
_NEEDED = ("feature_map", "labels", "trainval_loc", "test_seen_loc", "test_unseen_loc")
_OPTIONAL = (
  "w2v_att",
  "allclasses_names",
  "attribute_names",
  "image_files",
  *_LOCATIONS,
)
_PIECE_BYTES = 2**26


class UnpackedRegions:
  """Features ``[N, R, D]`` in a nameless file, of which rows are read when asked.

  HDF5 files are compressed in chunks that often span hundreds of images, so a
  row cannot be read from them without unpacking those. Here each chunk is
  unpacked once, when the first row is asked for. The room is freed with this object.
  """

  def __init__(self, source: h5py.Dataset, scratch: pathlib.Path):
    """Features of ``source`` [N, C, H, W], by way of a file in ``scratch``."""
    count, channels, height, width = source.shape
    self.dtype = source.dtype
    self.shape = (count, height * width, channels)
    self._source, self._scratch = source, scratch
    self._file = None

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, rows: int | slice) -> np.ndarray:
    if self._file is None:
      self._unpack()
    return np.array(self._unpacked("r")[rows]).swapaxes(-1, -2)

  def _unpacked(self, mode: str) -> np.memmap:
    """Opens the unpacked features ``[N, D, R]``."""
    count, regions, channels = self.shape
    return np.memmap(self._file, self.dtype, mode, shape=(count, channels, regions))

  def _unpack(self) -> None:
    size = math.prod(self.shape) * self.dtype.itemsize
    with explained(self._scratch):
      self._scratch.mkdir(parents=True, exist_ok=True)
      self._file = tempfile.TemporaryFile(dir=self._scratch)
      weakref.finalize(self, self._file.close)
      os.posix_fallocate(self._file.fileno(), 0, size)
    with task_bar(size, "unpacking", "B") as bar:
      for rows, channels in _pieces(self._source):
        with readable(pathlib.Path(self._source.file.filename)):
          piece = self._source[rows, channels]
        # Opened anew for each piece: pages in use count as this process's memory.
        self._unpacked("r+")[rows, channels] = piece.reshape(*piece.shape[:2], -1)
        bar.update(piece.nbytes)
    self._source = None  # Is closed.


class PooledRegions:
  """The mean of each image's regions, ``[N, D]`` in float32."""

  def __init__(self, regions: UnpackedRegions):
    self._regions = regions
    self.dtype = np.dtype(np.float32)
    self.shape = (regions.shape[0], regions.shape[2])

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, rows: int | slice) -> np.ndarray:
    return self._regions[rows].mean(-2, dtype=self.dtype)


def _pieces(source: h5py.Dataset) -> Iterator[tuple[slice, slice]]:
  """Rows and channels of parts of bounded size that cut few chunks."""
  count, channels = source.shape[:2]
  rows, some = source.chunks[:2] if source.chunks else (1, channels)
  size = int(np.prod(source.shape[2:])) * source.dtype.itemsize
  some = min(some, channels)
  if rows * some * size <= _PIECE_BYTES:
    some = min(channels, _PIECE_BYTES // (rows * size) // some * some)
    rows *= max(1, _PIECE_BYTES // (rows * some * size))
  else:
    some = max(1, min(some, _PIECE_BYTES // size))
    rows = max(1, _PIECE_BYTES // (some * size))
  for start in range(0, count, rows):
    for first in range(0, channels, some):
      yield (
        slice(start, min(start + rows, count)),
        slice(first, min(first + some, channels)),
      )


def read_regions(
  source: pathlib.Path,
  scratch: pathlib.Path,
  name: str | None = None,
  attributes: str = "att",
  word_vectors: pathlib.Path | None = None,
  pool: bool = False,
) -> FeatureSet:
  """Reads and checks one dataset of region features, with bounded memory.

  The set reads its features from a nameless scratch file, which is gone with it.

  Args:
    source: the HDF5 file, called ``feature_map_<features>_<dataset>.hdf5``.
    scratch: a folder with room for the unpacked features.
    name: of the dataset; what follows the last underscore of the file's name when
      None. A published name makes the published sizes compulsory.
    attributes: the field with the class embeddings: ``att`` (columns of length
      one, what published numbers use) or ``original_att``.
    word_vectors: ``.npy`` with a vector for each attribute, instead of
      ``w2v_att``.
    pool: features are the mean over an image's regions.

  Raises:
    ZsljaxError: a file is missing or damaged, or its content contradicts itself
      or the published sizes.
  """
  files = [source]
  arrays = read_arrays(
    source, (*_NEEDED, attributes), _OPTIONAL, (".h5", ".hdf5"), by_row=False
  )

  checked = functools.partial(check_field, source, arrays)
  feature_map = checked("feature_map", "N C H W", "float")
  count, channels, height, width = feature_map.shape
  require(
    not (channels == height < width),
    f"{source}: feature_map",
    f"shape {feature_map.shape}",
    "[N, C, H, W]: here the channels seem to come last",
  )
  labels = checked("labels", f"{count}", "whole", lowest=0)
  hint = ", a row for each class in labels: is it transposed, or do they count from 1?"
  embeddings = checked(attributes, f"{labels.max() + 1} A", hint=hint)
  embeddings = np.asarray(embeddings, np.float64)
  attribute_count = embeddings.shape[1]
  locations = {
    known: checked(
      field, "N", "whole", lowest=0, highest=count - 1, hint=": does it count from 1?"
    )
    for field, known in _LOCATIONS.items()
    if field in arrays
  }

  class_names = checked("allclasses_names", f"{len(embeddings)}", "text")
  attribute_names = checked("attribute_names", f"{attribute_count}", "text")
  where = f"{source}: w2v_att"
  vectors = arrays.get("w2v_att")
  if word_vectors is not None:
    where, files = str(word_vectors), [source, word_vectors]
    vectors = read_arrays(word_vectors, ("w2v_att",), endings=(".npy",))["w2v_att"]
  notes: list[str] = []
  if vectors is None:
    notes.append("The file has no w2v_att: systems that need word vectors refuse it.")
  else:
    vectors = check_array(where, vectors, f"{attribute_count} V", finite=True)
    vectors = vectors.astype(np.float32)
    zero = np.flatnonzero(~np.any(vectors, 1))
    if zero.size:
      notes.append(
        f"Word vectors that are all zero: {len(zero)} (first at row {zero[0]}, counted "
        "from 0). Of the published SUN attributes row 88 is."
      )

  kind, _, last = source.stem.removeprefix("feature_map_").rpartition("_")
  name = dataset_name(name or last)
  features = UnpackedRegions(feature_map, scratch)
  feature_set = located_set(
    name=name,
    features_kind=dataset_name(
      f"{kind or 'regions'}_{'mean' if pool else f'{height}x{width}'}"
    ),
    class_embedding=attributes,
    version=None if name in PUBLISHED else "as_given",
    features=PooledRegions(features) if pool else features,
    labels=labels,
    class_names=_spaced(class_names),
    embeddings=embeddings,
    attribute_names=_spaced(attribute_names) or (),
    attribute_vectors=vectors,
    locations=locations,
    path=source,
    where=str(source),
    sources={},
    notes=notes,
    image_files=checked("image_files", f"{count}", "text"),
  )
  # Last, as it reads all of a large file.
  return dataclasses.replace(feature_set, sources=digests(*files))


def _spaced(texts: np.ndarray | None) -> list[str] | None:
  """``texts`` with one space for any run of white space."""
  return None if texts is None else [" ".join(text.split()) for text in texts.tolist()]
