"""Features of images that others computed: .npy, .npz and HDF5 files."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
import copy
import pathlib
import re
from typing import Any
import unicodedata

import numpy as np

from zsljax.data.feature_set import Rows
from zsljax.data.files.text import read_names
from zsljax.errors import ZsljaxError, require
from zsljax.io.arrays import (
  LargeArray,
  as_floats,
  check_array,
  read_arrays,
  spooled,
)
from zsljax.io.checks import readable
from zsljax.io.json_files import COUNT, TEXT, object_of, parsed

_ENDINGS = (".npy", ".npz", ".h5", ".hdf5")
_ENCODER = object_of(network=TEXT, output=TEXT, size=COUNT, weights_sha256=TEXT)
_EXTENSION = re.compile(r"\.(bmp|gif|jpe?g|png|tiff?|webp)$", re.IGNORECASE)


class FeatureFiles:
  """Features ``[N, D]`` or ``[N, R, D]`` in files, of which rows are read when asked.

  The rows of several files follow one another, and are best asked for in ascending
  order. Nothing is held in memory: ``.npz`` and HDF5 are copied into a nameless file.

  Attributes:
    paths: the files, in order.
    shape: of all rows.
    dtype: floating; whole numbers of the files become float32.
    image_files: the images' names or ids, ``[N]`` texts; None where no file has them.
    encoder: what made the features, where all files say the same (``zsljax encode``).
  """

  def __init__(
    self,
    paths: Sequence[pathlib.Path],
    parts: Sequence[Rows],
    image_files: np.ndarray | None,
    encoder: dict[str, Any] | None,
  ):
    """Made by ``read_features``; ``parts`` are the rows of each file."""
    self.paths, self._parts, self.image_files = tuple(paths), parts, image_files
    self.encoder = encoder
    dtype = np.result_type(*(part.dtype for part in parts))
    self.dtype = dtype if dtype.kind == "f" else np.dtype(np.float32)
    self._ends = np.cumsum([len(part) for part in parts])
    self._rows = np.arange(self._ends[-1])
    self.shape = (len(self._rows), *parts[0].shape[1:])

  @property
  def where(self) -> str:
    """The files, for messages."""
    more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
    return f"{self.paths[0]}{more}"

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, rows: int | slice) -> np.ndarray:
    if not isinstance(rows, slice):
      return self[rows : rows + 1][0]
    rows = self._rows[rows]
    files = np.searchsorted(self._ends, rows, "right")
    features = np.empty((len(rows), *self.shape[1:]), self.dtype)
    for file in np.unique(files):
      own, path, part = files == file, self.paths[file], self._parts[file]
      with readable(path):
        stored = part[rows[own] - (self._ends[file] - len(part))]
        features[own] = as_floats(str(path), np.asarray(stored))
    return features

  def take(self, rows: np.ndarray) -> FeatureFiles:
    """Selects ``rows``, in that order."""
    taken = copy.copy(self)
    taken._rows = self._rows[rows]
    taken.shape = (len(rows), *self.shape[1:])
    if self.image_files is not None:
      taken.image_files = self.image_files[rows]
    return taken

  def rows_of(self, *ways: Sequence[str], partial: bool = False) -> np.ndarray:
    """The rows of images, by name, ``[len(names)]``.

    Names are compared as they stand; where that does not find all, without extensions;
    and at last without folders too.

    Args:
      *ways: the images' names; several lists where the files may hold one of several
        (file names or ids).
      partial: give -1 for images that are missing, where the comparison that finds the
        most leaves some.

    Raises:
      ZsljaxError: images are missing, or two have one name.
    """
    best = None
    for names in ways:
      for spelt in (_slashed, _without_extension, short_name):
        rows, doubled = self._matched(names, spelt)
        missing = len(names) if doubled else int((rows < 0).sum())
        if best is None or missing < best[0] or missing == best[0] and doubled:
          best = missing, rows, names, doubled
    fewest, rows, names, doubled = best
    where = f"{self.where}: image_files"
    require(not doubled, where, doubled, "each image once, in both")
    if fewest and not partial:
      raise ZsljaxError(
        f"{where}: found no features of {fewest} of the {len(names)} images (the first "
        f"is {names[np.argmin(rows)]!r}; the file begins with "
        f"{str(self.image_files[0])!r}), expected those of all"
      )
    return rows

  def _matched(
    self, names: Sequence[str], spelt: Callable[[str], str]
  ) -> tuple[np.ndarray, str]:
    """Rows of ``names`` where both are ``spelt`` alike, and the first ambiguous one."""
    assert self.image_files is not None
    held = [spelt(name) for name in self.image_files.tolist()]
    keys = [spelt(name) for name in names]
    first = {key: row for row, key in reversed(list(enumerate(held)))}
    times, asked = collections.Counter(held), collections.Counter(keys)
    odd = (k for k in keys if k in first and (times[k] > 1 or asked[k] > 1))
    doubled = ""
    if (key := next(odd, None)) is not None:
      doubled = f"{key!r} {times[key]} times, for {asked[key]} images"
    return np.array([first.get(key, -1) for key in keys], np.int64), doubled


def read_features(paths: Sequence[pathlib.Path], named: bool = False) -> FeatureFiles:
  """Opens files of features, whose rows follow one another in the order of ``paths``.

  * ``.npz``, ``.h5``, ``.hdf5``: fields ``features`` and perhaps ``image_files``, the
    images' names or ids.
  * ``.npy``: features alone; ``FILE.txt`` beside ``FILE.npy`` may have the names, one a
    line.

  Raises:
    ZsljaxError: a file is missing, damaged or of no such kind, lacks names that must be
      there (``named``), or they do not fit together.
  """
  require(len(paths) > 0, "features", "no file", "at least one")
  parts, names, encoders = [], [], []
  for path in paths:
    features, image_files, encoder = _open(path)
    parts.append(features)
    names.append(image_files)
    encoders.append(encoder)
    require(
      features.shape[1:] == parts[0].shape[1:],
      f"{path}: features",
      f"shape {features.shape}",
      f"rows like those of {paths[0]}, which have shape {parts[0].shape}",
    )
    require(
      image_files is not None or not named,
      str(path),
      "no image_files",
      "the images' names (for FILE.npy in FILE.txt, one a line)",
    )
    require(
      (names[-1] is None) == (names[0] is None),
      f"{path} and {paths[0]}: image_files",
      f"names in {path.name if names[0] is None else paths[0].name} alone",
      "names in all files, or in none",
    )
  return FeatureFiles(
    paths,
    parts,
    image_files=None if names[0] is None else np.concatenate(names),
    encoder=encoders[0] if all(e == encoders[0] for e in encoders) else None,
  )


def finite_rows(features: np.ndarray) -> np.ndarray:
  """True for images whose numbers are all finite, ``[N]`` bool."""
  return np.isfinite(features.reshape(len(features), -1)).all(1)


def short_name(name: str) -> str:
  """An image's name without folder and extension."""
  return _without_extension(name).rpartition("/")[2]


def _without_extension(name: str) -> str:
  return _EXTENSION.sub("", _slashed(name))


def _slashed(name: str) -> str:
  name = unicodedata.normalize("NFC", name)
  return name.replace("\\", "/").removeprefix("./")


def _open(
  path: pathlib.Path,
) -> tuple[Rows, np.ndarray | None, dict[str, Any] | None]:
  """Features of a file, the images' names, and the encoder that made the features."""
  arrays = read_arrays(path, ("features",), ("image_files", "encoder"), _ENDINGS)
  features, names = arrays["features"], arrays.get("image_files")
  check_array(f"{path}: features", features, "N D or N R D")
  if not isinstance(features, LargeArray | np.memmap):
    features = spooled(features)
  where, beside = f"{path}: image_files", path.with_suffix(".txt")
  if path.suffix.lower() == ".npy" and beside.is_file():
    where, names = str(beside), np.array(read_names(beside), np.str_)
  if names is not None:
    names = check_array(where, names, f"{len(features)}", "text")
  encoder, said = None, str(arrays.get("encoder", ""))
  if said.startswith("{"):  # Others may call something else so.
    where, expected = f"{path}: encoder", "the description of `zsljax encode`"
    encoder = parsed(said, _ENCODER, where, expected)
  return features, names, encoder
