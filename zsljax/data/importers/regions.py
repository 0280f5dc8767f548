"""Importer for region features in the HDF5 layout of DAZLE, TransZero and MSDN.

One file holds everything: ``feature_map [N, C, H, W]``, ``labels [N]`` and
``*_loc`` counted from 0, ``att`` and ``original_att [classes, A]``, and
``w2v_att [A, V]``, a word vector for each attribute.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib

import numpy as np

from zsljax.data.feature_set import FeatureSet, digests
from zsljax.data.importers.published import PUBLISHED, dataset_name, located_set
from zsljax.errors import require
from zsljax.io.arrays import LargeArray, check_array, check_field, read_arrays

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


class Regions:
  """Features ``[N, R, D]`` in a field ``[N, C, H, W]`` of a file."""

  def __init__(self, source: LargeArray | np.ndarray):
    count, channels, height, width = source.shape
    self.dtype = source.dtype
    self.shape = (count, height * width, channels)
    self._source = source

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, rows: int | slice) -> np.ndarray:
    found = self._source[rows]
    return found.reshape(*found.shape[:-2], -1).swapaxes(-1, -2)


class PooledRegions:
  """The mean of each image's regions, ``[N, D]`` in float32."""

  def __init__(self, regions: Regions):
    self._regions = regions
    self.dtype = np.dtype(np.float32)
    self.shape = (regions.shape[0], regions.shape[2])

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, rows: int | slice) -> np.ndarray:
    return self._regions[rows].mean(-2, dtype=self.dtype)


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
    source, (*_NEEDED, attributes), _OPTIONAL, (".h5", ".hdf5"), scratch
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
  features = Regions(feature_map)
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
