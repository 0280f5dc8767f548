"""Features of images that others computed: .npy, .npz and HDF5 files."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import contextlib
import copy
import functools
import json
import math
import pathlib
import re
from typing import Any
import unicodedata

import h5py
import numpy as np

from zsljax.data.feature_set import Rows
from zsljax.data.importers.multilabel import read_names
from zsljax.errors import ZsljaxError, require

# HDF5 finds the chunks that it holds by a hash: a prime, far above their number.
_CHUNK_SLOTS = 100_003
_EXTENSION = re.compile(r"\.(bmp|gif|jpe?g|png|tiff?|webp)$", re.IGNORECASE)


class FeatureFiles:
  """Features ``[N, D]`` or ``[N, R, D]`` in files, of which rows are read when asked.

  The rows of several files follow one another. One file is open at a time, so rows are
  best asked for in ascending order. Of an ``.npy`` nothing is held in memory, of HDF5
  the chunks that a row is spread over, of an ``.npz`` all.

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
    ends: np.ndarray,
    width: tuple[int, ...],
    dtype: np.dtype,
    image_files: np.ndarray | None,
    encoder: dict[str, Any] | None,
  ):
    """As ``read_features`` does; ``ends`` counts rows up to the end of each file."""
    self.paths, self.dtype, self.image_files = tuple(paths), dtype, image_files
    self.encoder = encoder
    self.shape = (int(ends[-1]), *width)
    self._ends, self._rows = ends, np.arange(ends[-1])
    self._opened: tuple[int, Rows] | None = None

  @property
  def counts(self) -> list[int]:
    """The rows of each file."""
    return np.diff(self._ends, prepend=0).tolist()

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
    # Rows that follow one another in one file are read at once.
    breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(files) != 0)) + 1
    for part in np.split(np.arange(len(rows)), breaks) if len(rows) else ():
      file = int(files[part[0]])
      first = rows[part[0]] - (self._ends[file - 1] if file else 0)
      with _readable(self.paths[file]):
        stored = self._stored(file)[first : first + len(part)]
        features[part[0] : part[-1] + 1] = stored
    return features

  def take(self, rows: np.ndarray) -> FeatureFiles:
    """Those ``rows`` alone, in that order."""
    taken = copy.copy(self)
    taken._rows = self._rows[rows]
    taken.shape = (len(rows), *self.shape[1:])
    if self.image_files is not None:
      taken.image_files = self.image_files[rows]
    return taken

  @property
  def single_rows(self) -> bool:
    """Whether a row is read without others that share its chunk or its file."""
    return all(_single_rows(path) for path in self.paths)

  def opener(self, rows_file: pathlib.Path) -> Callable[[], FeatureFiles]:
    """What opens the same rows in another process, without the images' names.

    Args:
      rows_file: .npy that is written with the numbers of the rows.
    """
    np.save(rows_file, self._rows)
    paths = [path.absolute() for path in self.paths]
    return functools.partial(
      _reopened, rows_file, paths, self._ends, self.shape[1:], self.dtype
    )

  def known(self, names: Sequence[str]) -> np.ndarray:
    """Whether each image has features, ``[len(names)]`` bool; see ``rows_of``."""
    for spelt in _SPELLINGS:
      known, _ = _places(self.image_files, spelt)
      found = np.array([spelt(name) in known for name in names], bool)
      if found.any():
        return found
    return found

  def rows_of(self, *ways: Sequence[str]) -> np.ndarray:
    """The rows of images, by name.

    Names are compared as they stand; where that does not find all, without extensions;
    and at last without folders too.

    Args:
      *ways: the images' names; several lists where the files may hold one of several
        (file names or ids).

    Raises:
      ZsljaxError: images are missing, or two have one name.
    """
    where = f"{self.where}: image_files"
    lacking = []
    for names in ways:
      for spelt in _SPELLINGS:
        known, again = _places(self.image_files, spelt)
        keys = [spelt(name) for name in names]
        missing = [n for n, key in zip(names, keys, strict=True) if key not in known]
        if missing:
          lacking.append(missing)
          continue
        twice = len(set(keys)) < len(keys) or not again.keys().isdisjoint(keys)
        if twice and lacking and len(lacking[-1]) < len(names):
          break  # Most are spelt as before; the others are not there.
        _check_distinct(names, keys, again, where)
        return np.array([known[key] for key in keys], np.int64)
    fewest = min(lacking, key=len)
    raise ZsljaxError(
      f"{where}: found no features of {len(fewest)} of the {len(ways[0])} images (the "
      f"first is {fewest[0]!r}; the file begins with {str(self.image_files[0])!r}), "
      "expected those of all"
    )

  def _stored(self, file: int) -> Rows:
    if self._opened is None or self._opened[0] != file:
      self._opened = None  # Frees the other one first.
      self._opened = file, _features(self.paths[file])
    return self._opened[1]


def read_features(paths: Sequence[pathlib.Path]) -> FeatureFiles:
  """Opens files of features, whose rows follow one another in the order of ``paths``.

  * ``.npz``, ``.h5``, ``.hdf5``: fields ``features`` and perhaps ``image_files``, the
    images' names or ids.
  * ``.npy``: features alone; ``FILE.txt`` beside ``FILE.npy`` may have the names, one a
    line.

  Raises:
    ZsljaxError: a file is missing, damaged or of no such kind, or they do not fit
      together.
  """
  require(len(paths) > 0, "features", "no file", "at least one")
  paths = [path.expanduser() for path in paths]
  shapes, dtypes, names, encoders = [], [], [], []
  for path in paths:
    require(
      path.suffix.lower() in _OPENED,
      str(path),
      f"ending {path.suffix!r}",
      f"one of {' '.join(_OPENED)}",
    )
    require(path.is_file(), str(path), "no such file", "features of images")
    with _readable(path):
      shape, dtype = _described(path)
      names.append(_image_files(path, shape[0]))
      encoders.append(_encoder(path))
    shapes.append(shape)
    dtypes.append(dtype)
    require(
      shapes[-1][1:] == shapes[0][1:],
      f"{path}: features",
      f"shape {shapes[-1]}",
      f"rows like those of {paths[0]}, which have shape {shapes[0]}",
    )
    require(
      (names[-1] is None) == (names[0] is None),
      f"{path} and {paths[0]}: image_files",
      f"names in {path.name if names[0] is None else paths[0].name} alone",
      "names in all files, or in none",
    )
  dtype = np.result_type(*dtypes)
  return FeatureFiles(
    paths=paths,
    ends=np.cumsum([shape[0] for shape in shapes]),
    width=shapes[0][1:],
    dtype=dtype if dtype.kind == "f" else np.dtype(np.float32),
    image_files=None if names[0] is None else np.concatenate(names),
    encoder=encoders[0] if all(e == encoders[0] for e in encoders) else None,
  )


def _single_rows(path: pathlib.Path) -> bool:
  if path.suffix.lower() in (".npy", ".npz"):
    return path.suffix.lower() == ".npy"
  with _readable(path), h5py.File(path) as file:
    chunks = file["features"].chunks
  return chunks is None or chunks[0] == 1


def _reopened(rows_file: pathlib.Path, *described) -> FeatureFiles:
  return FeatureFiles(*described, image_files=None, encoder=None).take(
    np.load(rows_file)
  )


def _encoder(path: pathlib.Path) -> dict[str, Any] | None:
  """What ``zsljax encode`` says of itself in a file that it wrote."""
  if path.suffix.lower() not in (".h5", ".hdf5"):
    return None
  with h5py.File(path) as file:
    return json.loads(file.attrs["encoder"]) if "encoder" in file.attrs else None


def finite_rows(features: np.ndarray) -> np.ndarray:
  """Whether all numbers of an image are finite, ``[N]`` bool."""
  return np.isfinite(features.reshape(len(features), -1)).all(1)


def _described(path: pathlib.Path) -> tuple[tuple[int, ...], np.dtype]:
  """Shape and type of a file's features, which are let go."""
  features = _features(path)
  shape, dtype = getattr(features, "shape", ()), getattr(features, "dtype", None)
  require(
    len(shape) in (2, 3) and all(shape) and dtype.kind in "biuf",
    f"{path}: features",
    f"{dtype} of shape {shape}",
    "numbers [N, D] or [N, R, D]",
  )
  return shape, dtype


def short_name(name: str) -> str:
  """An image's name without folder and extension."""
  return _without_extension(name).rpartition("/")[2]


def _without_extension(name: str) -> str:
  return _EXTENSION.sub("", _slashed(name))


def _slashed(name: str) -> str:
  name = unicodedata.normalize("NFC", name)
  return name.replace("\\", "/").removeprefix("./")


_SPELLINGS = (_slashed, _without_extension, short_name)


def _places(
  image_files: np.ndarray, spelt: Callable[[str], str]
) -> tuple[dict[str, int], dict[str, int]]:
  """Where each name is first, and where those are that come again."""
  first, again = {}, {}
  for row, name in enumerate(image_files.tolist()):
    key = spelt(name)
    if first.setdefault(key, row) != row:
      again[key] = row
  return first, again


def _check_distinct(
  names: Sequence[str], keys: Sequence[str], again: Mapping[str, int], where: str
) -> None:
  counts = collections.Counter(keys)
  for name, key in zip(names, keys, strict=True):
    if key in again or counts[key] > 1:
      times = "twice" if key in again else f"once, for {counts[key]} images"
      raise ZsljaxError(
        f"{where}: found {key!r} {times} ({name!r} in the label files), expected each "
        "image once, in both"
      )


@contextlib.contextmanager
def _readable(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except ZsljaxError:
    raise
  except Exception as error:  # Zip, zlib, HDF5 and NumPy have each their own.
    raise ZsljaxError(
      f"{path}: not readable ({error}), expected a complete {path.suffix} file with "
      "features (was the download cut off?)"
    ) from error


def _features(path: pathlib.Path) -> Rows:
  """The features of a file, of which all but an .npz are read when asked."""
  features, fields = _OPENED[path.suffix.lower()](path, "features")
  require(
    features is not None,
    str(path),
    f"no field features (it has {', '.join(fields) or 'none'})",
    "features, and perhaps image_files",
  )
  return features


def _image_files(path: pathlib.Path, count: int) -> np.ndarray | None:
  """The images' names, texts [N], or None."""
  names, _ = _OPENED[path.suffix.lower()](path, "image_files")
  if names is None:
    return None
  names = np.ravel(names[()])
  texts = [n.decode() if isinstance(n, bytes) else n for n in names.tolist()]
  where = path.with_suffix(".txt") if path.suffix == ".npy" else f"{path}: image_files"
  require(
    all(isinstance(text, str | int) for text in texts),
    str(where),
    names.dtype,
    "names or ids, as texts or whole numbers",
  )
  require(
    len(texts) == count,
    str(where),
    f"{len(texts)} names",
    f"{count}, one for each row of the features",
  )
  return np.array([str(text) for text in texts], np.str_)


# A field of a file, None where it has none, and the names of all its fields.
_Field = tuple[Rows | None, Iterable[str]]


def _npy(path: pathlib.Path, field: str) -> _Field:
  if field == "features":
    return np.lib.format.open_memmap(path, mode="r"), ()  # Refuses pickles.
  names = path.with_suffix(".txt")
  return np.array(read_names(names)) if names.is_file() else None, ()


def _npz(path: pathlib.Path, field: str) -> _Field:
  with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as npz:
    return npz.get(field), npz.files


def _hdf5(path: pathlib.Path, field: str) -> _Field:
  with h5py.File(path) as file:
    chunks = _chunks_of_a_row(file.get(field))
  # A chunk spans many rows, and is kept until the last of them is read.
  file = h5py.File(path, rdcc_nbytes=max(chunks, 2**20), rdcc_nslots=_CHUNK_SLOTS)
  return file.get(field), list(file)  # Is open as long as its field is in use.


def _chunks_of_a_row(stored: h5py.Dataset | None) -> int:
  """Bytes of all chunks that one row is spread over."""
  if getattr(stored, "chunks", None) is None:
    return 0
  rows, *sizes = stored.chunks
  widths = [-(-w // c) * c for w, c in zip(stored.shape[1:], sizes, strict=True)]
  return rows * math.prod(widths) * stored.dtype.itemsize


_OPENED = {".npy": _npy, ".npz": _npz, ".h5": _hdf5, ".hdf5": _hdf5}
