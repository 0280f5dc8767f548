"""Importer for region features in the HDF5 layout of DAZLE, TransZero and MSDN.

One file holds everything: ``feature_map [N, C, H, W]``, ``labels [N]`` and
``*_loc`` counted from 0, ``att`` and ``original_att [classes, A]``, and
``w2v_att [A, V]``, a word vector for each attribute.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import os
import pathlib
import re
import tempfile

import h5py
import numpy as np

from zsljax.data.feature_set import FeatureSet, make_feature_set, sha256_of
from zsljax.data.importers.published import (
  PUBLISHED,
  check_published,
  check_tuning,
  dataset_name,
  held_out_classes,
  split_version,
)
from zsljax.errors import ZsljaxError, require
from zsljax.io.files import explained
from zsljax.io.progress import task_bar

# The file's names of the splits, and those of the xlsa17 files.
LOCATIONS = {
  "trainval_loc": "trainval_loc",
  "train_loc": "train_loc",
  "val_unseen_loc": "val_loc",
  "test_seen_loc": "test_seen_loc",
  "test_unseen_loc": "test_unseen_loc",
}
_SMALL = (
  "labels",
  "w2v_att",
  "allclasses_names",
  "attribute_names",
  "image_files",
  *LOCATIONS,
)
_NEEDED = ("feature_map", "labels", "trainval_loc", "test_seen_loc", "test_unseen_loc")
_PIECE_BYTES = 2**26


class UnpackedRegions:
  """Features ``[N, R, D]`` in a nameless file, of which rows are read when asked.

  HDF5 files are compressed in chunks that often span hundreds of images, so a
  row cannot be read from them without unpacking those. Here each chunk is
  unpacked once, when the first row is asked for.
  """

  def __init__(self, source: h5py.Dataset, scratch: pathlib.Path):
    """Features of ``source`` [N, C, H, W], by way of a file in ``scratch``."""
    count, channels, height, width = source.shape
    self.dtype = source.dtype
    self.shape = (count, height * width, channels)
    self._row_bytes = int(np.prod(self.shape[1:])) * self.dtype.itemsize
    self._source, self._scratch = source, scratch
    self._file = None

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, rows: int | slice) -> np.ndarray:
    if self._file is None:
      self._unpack()
    start, stop, _ = (
      rows.indices(len(self)) if isinstance(rows, slice) else (rows, rows + 1, 1)
    )
    content = os.pread(
      self._file.fileno(), (stop - start) * self._row_bytes, start * self._row_bytes
    )
    _, regions, channels = self.shape
    features = np.frombuffer(content, self.dtype).reshape(-1, channels, regions)
    features = features.transpose(0, 2, 1)
    return features if isinstance(rows, slice) else features[0]

  def close(self) -> None:
    """Frees the room."""
    if self._file is not None:
      self._file.close()

  def _unpack(self) -> None:
    with explained(self._scratch):
      self._scratch.mkdir(parents=True, exist_ok=True)
      self._file = tempfile.TemporaryFile(dir=self._scratch)
    channels = self.shape[2]
    with task_bar(len(self) * self._row_bytes, "unpacking", "B") as bar:
      for rows, some in _pieces(self._source):
        piece = np.ascontiguousarray(self._source[rows, some])
        part_bytes = piece[0].nbytes
        offset = some.start * (self._row_bytes // channels)
        if part_bytes == self._row_bytes:
          self._write(piece, rows.start * self._row_bytes)
        else:
          for row, part in zip(range(rows.start, rows.stop), piece, strict=True):
            self._write(part, row * self._row_bytes + offset)
        bar.update(piece.nbytes)

  def _write(self, part: np.ndarray, offset: int) -> None:
    content = memoryview(part).cast("B")
    with explained(self._scratch):
      while content:
        written = os.pwrite(self._file.fileno(), content, offset)
        content, offset = content[written:], offset + written


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


@contextlib.contextmanager
def read_regions(
  source: pathlib.Path,
  scratch: pathlib.Path,
  name: str | None = None,
  attributes: str = "att",
  word_vectors: pathlib.Path | None = None,
  pool: bool = False,
) -> Iterator[FeatureSet]:
  """Reads and checks one dataset of region features, with bounded memory.

  The set that the ``with`` statement gives reads its features from a scratch
  file, which is gone after it.

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
  source, scratch = source.expanduser(), scratch.expanduser()
  if not source.is_file() or not h5py.is_hdf5(source):
    raise ZsljaxError(
      f"{source}: found {'no HDF5 file' if source.is_file() else 'nothing'}, expected "
      f"an HDF5 file with {', '.join(_NEEDED)} and {attributes}"
    )
  with contextlib.ExitStack() as stack:
    with _readable(source), h5py.File(source) as file:
      fields = {k: v for k, v in file.items() if isinstance(v, h5py.Dataset)}
      feature_map = _feature_map(source, fields, attributes)
      content = {k: fields[k][()] for k in (*_SMALL, attributes) if k in fields}
      features = UnpackedRegions(feature_map, scratch)
      stack.enter_context(contextlib.closing(features))
      kind, _, last = source.stem.removeprefix("feature_map_").rpartition("_")
      grid = "x".join(map(str, feature_map.shape[2:]))
      feature_set = _feature_set(
        source,
        content,
        PooledRegions(features) if pool else features,
        dataset_name(name or last),
        f"{kind or 'regions'}_{'mean' if pool else grid}",
        attributes,
        word_vectors,
      )
    yield feature_set


def _feature_set(
  source: pathlib.Path,
  content: Mapping[str, np.ndarray],
  features: UnpackedRegions | PooledRegions,
  name: str,
  kind: str,
  attributes: str,
  word_vectors: pathlib.Path | None,
) -> FeatureSet:
  notes: list[str] = []
  labels = _numbers_from_0(source, "labels", content["labels"])
  require(
    len(labels) == len(features),
    f"{source}: labels",
    f"{len(labels)}",
    f"{len(features)}, one for each image of feature_map",
  )
  embeddings = np.asarray(content[attributes], np.float64)
  count = int(labels.max()) + 1
  require(
    embeddings.ndim == 2 and len(embeddings) == count,
    f"{source}: {attributes}",
    f"shape {embeddings.shape}",
    f"[{count}, A], a row for each of the {count} classes in labels: is it transposed, "
    "or do the labels count from 1?",
  )
  locations = {
    known: _numbers_from_0(source, field, content[field], len(features))
    for field, known in LOCATIONS.items()
    if field in content
  }
  check_tuning(locations, source)
  if name in PUBLISHED:
    check_published(name, attributes, len(features), embeddings, locations, source)
    version = split_version(locations, source, notes)
  else:
    version = "as_given"
  class_names = _texts(content, "allclasses_names", len(embeddings), source)
  if class_names is None:
    class_names = [f"class_{i + 1:03d}" for i in range(len(embeddings))]
    notes.append(
      f"{source.name} has no allclasses_names (as released): classes are called "
      "class_001, class_002, ..."
    )
  width = embeddings.shape[1]
  vectors, vector_source = _attribute_vectors(source, content, word_vectors, width)
  if vectors is None:
    notes.append("The file has no w2v_att: systems that need word vectors refuse it.")
  elif not np.any(vectors, 1).all():
    zero = np.flatnonzero(~np.any(vectors, 1))
    notes.append(
      f"Word vectors that are all zero: {len(zero)} (first at row {zero[0]}, counted "
      "from 0). Of the published SUN attributes row 88 is."
    )
  images = _texts(content, "image_files", len(labels), source)
  feature_set = make_feature_set(
    name=name,
    features_kind=dataset_name(kind),
    class_embedding=attributes,
    split_version=version,
    features=features,
    labels=labels,
    class_names=class_names,
    embeddings=embeddings,
    attribute_names=_texts(content, "attribute_names", width, source) or (),
    attribute_vectors=vectors,
    trainval=locations["trainval_loc"],
    test_seen=locations["test_seen_loc"],
    test_unseen=locations["test_unseen_loc"],
    validation_classes=held_out_classes(labels, locations, source),
    where=str(source),
    sources={},
    notes=notes,
    image_files=images and np.array(images, np.str_),
  )
  # Last, as it reads all of a large file.
  sources = {p.name: sha256_of(p) for p in (source, *vector_source)}
  return dataclasses.replace(feature_set, sources=sources)


@contextlib.contextmanager
def _readable(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except (OSError, KeyError, RuntimeError) as error:
    raise ZsljaxError(
      f"{path}: not readable to its end ({error}), expected a complete HDF5 file: "
      "was the download cut off?"
    ) from error


def _feature_map(
  path: pathlib.Path, fields: Mapping[str, h5py.Dataset], attributes: str
) -> h5py.Dataset:
  missing = [f for f in (*_NEEDED, attributes) if f not in fields]
  require(
    not missing,
    str(path),
    f"no field {', '.join(missing)} (it has {', '.join(sorted(fields)) or 'none'})",
    ", ".join((*_NEEDED, attributes)),
  )
  features = fields["feature_map"]
  require(
    features.ndim == 4 and all(features.shape) and features.dtype.kind == "f",
    f"{path}: feature_map",
    f"shape {features.shape} of {features.dtype}",
    "[N, C, H, W] of floating point numbers",
  )
  _, channels, height, width = features.shape
  require(
    not (channels == height < width),
    f"{path}: feature_map",
    f"shape {features.shape}",
    "[N, C, H, W]: here the channels seem to come last",
  )
  return features


def _numbers_from_0(
  path: pathlib.Path, field: str, values: np.ndarray, upper: int | None = None
) -> np.ndarray:
  """Numbers of the file, flat; locations must lie below ``upper``."""
  values = np.ravel(values)
  require(
    values.dtype.kind in "iuf" and np.isfinite(values).all() and values.size > 0,
    f"{path}: {field}",
    f"{values.size} values of {values.dtype}, or not finite",
    "numbers",
  )
  whole = values.astype(np.int64)
  require(
    np.array_equal(whole, values) and whole.min(initial=0) >= 0,
    f"{path}: {field}",
    "numbers below 0 or not whole",
    "numbers counted from 0",
  )
  high = whole.max(initial=0)
  require(
    upper is None or high < upper,
    f"{path}: {field}",
    f"location {high}",
    f"locations from 0 to {(upper or 0) - 1}: does this file count from 1?",
  )
  return whole


def _texts(
  content: Mapping[str, np.ndarray], field: str, count: int, path: pathlib.Path
) -> list[str] | None:
  if field not in content:
    return None
  texts = [
    re.sub(r"\s+", " ", t.decode() if isinstance(t, bytes) else str(t)).strip()
    for t in np.ravel(content[field])
  ]
  require(
    len(texts) == count, f"{path}: {field}", f"{len(texts)} names", f"{count} names"
  )
  return texts


def _attribute_vectors(
  source: pathlib.Path,
  content: Mapping[str, np.ndarray],
  path: pathlib.Path | None,
  width: int,
) -> tuple[np.ndarray | None, list[pathlib.Path]]:
  """Word vectors [A, V], and the file they come from beside ``source``."""
  if path is None:
    vectors, where, files = content.get("w2v_att"), f"{source}: w2v_att", []
  else:
    path = path.expanduser()
    where, files = str(path), [path]
    try:
      vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
      raise ZsljaxError(
        f"{path}: not readable ({error}), expected an .npy file with word vectors"
      ) from error
  if vectors is None:
    return None, files
  numeric = isinstance(vectors, np.ndarray) and vectors.dtype.kind in "fiu"
  require(
    numeric and vectors.ndim == 2 and len(vectors) == width,
    where,
    f"shape {vectors.shape} of {vectors.dtype}"
    if isinstance(vectors, np.ndarray)
    else "several arrays",
    f"[{width}, V] of numbers, a vector for each attribute",
  )
  require(np.isfinite(vectors).all(), where, "NaN or infinity", "finite numbers")
  return vectors.astype(np.float32), files
