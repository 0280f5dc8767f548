"""Named arrays in .npy, .npz, HDF5 and MATLAB files, and checks of their content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import contextlib
import math
import os
import pathlib
import tempfile
from typing import Any
import weakref
import zipfile

import numpy as np

from zsljax.errors import ZsljaxError, in_bytes, require
from zsljax.io import apart
from zsljax.io.checks import TIMES, largest, readable, require_fields, require_file
from zsljax.io.files import explained

ENDINGS = (".npy", ".npz", ".h5", ".hdf5", ".mat")
# HDF5 data sets from this size on are copied when they are asked for, in parts.
LARGE_BYTES, PIECE_BYTES = 2**20, 2**26
# Kinds of fields: the accepted NumPy kinds, and their name in messages.
_KINDS = {
  "number": ("biuf", "numbers"),
  "float": ("f", "floating point numbers"),
  "whole": ("iuf", "whole numbers"),
  "text": ("iuU", "texts"),
}


def read_arrays(
  path: pathlib.Path,
  needed: Sequence[str] = (),
  optional: Sequence[str] | None = None,
  endings: Sequence[str] = ENDINGS,
  scratch: pathlib.Path | None = None,
) -> dict[str, np.ndarray | LargeArray]:
  """Arrays of a file, by name; Python objects in it are never unpickled.

  HDF5 and MATLAB files are read in a process of their own, see ``apart``. Of HDF5 a
  large array is copied out of the file when it is indexed; of ``.npy`` files numbers
  are read then (memory-mapped); all else is read at once. Texts of any storage become
  ``np.str_``. Arrays of ``.mat`` files (version 5 and 7.3) have the shape that MATLAB
  shows; text cells become ``[N]``.

  Args:
    path: the file; its ending says what it is.
    needed: names of fields that must be there. The one array of an ``.npy`` file gets
      the first of these names.
    optional: further fields to read where they are there; all when None.
    endings: of the accepted kinds of files.
    scratch: a folder with room for the numbers of an HDF5 or MATLAB file, where
      temporary files go when None.

  Raises:
    ZsljaxError: the file is missing, damaged or of another kind, asks for far more
      memory than it has bytes, or lacks a field.
  """
  kind = path.suffix.lower()
  require(kind in endings, str(path), f"ending {kind!r}", f"one of {' '.join(endings)}")
  require_file(path, f"a {kind} file")
  if kind not in (".npy", ".npz"):
    return _apart(path, needed, optional, scratch)
  with readable(path), contextlib.ExitStack() as opened:
    if kind == ".npy":
      stored = {needed[0] if needed else "array": np.lib.format.open_memmap(path, "r")}
    else:
      with zipfile.ZipFile(path) as file:
        size = sum(member.file_size for member in file.infolist())
      expected = f"at most {TIMES} times the file's size"
      found = f"{in_bytes(size)} of numbers"
      require(size <= largest(path), str(path), found, expected)
      stored = opened.enter_context(np.lib.npyio.NpzFile(path, allow_pickle=False))
    require_fields(path, stored, needed)
    wanted = stored if optional is None else [*needed, *optional]
    return {field: _texts(stored[field]) for field in wanted if field in stored}


class LargeArray:
  """An array in an HDF5 file, copied into a nameless file when it is first indexed.

  The room is freed with this object.
  """

  def __init__(
    self, path: pathlib.Path, name: str, dtype: str, shape: Sequence[int], scratch: Any
  ):
    """Made by ``read_arrays``."""
    self.dtype, self.shape, self.ndim = np.dtype(dtype), tuple(shape), len(shape)
    self._path, self._name, self._scratch = path, name, scratch
    self._file = None

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, places: Any) -> np.ndarray:
    if self._file is None:
      size = math.prod(self.shape) * self.dtype.itemsize
      with explained(self._scratch or pathlib.Path(tempfile.gettempdir())):
        self._file = apart.scratch_file(self._scratch)
        weakref.finalize(self, self._file.close)
        os.posix_fallocate(self._file.fileno(), 0, size)
      apart.call("copy", self._path, self._file, self._name, PIECE_BYTES)
    # Opened anew each time: pages in use count as this process's memory.
    return np.array(np.memmap(self._file, self.dtype, "r", shape=self.shape)[places])


def spooled(array: np.ndarray) -> np.memmap:
  """Copies an array into a nameless file, which goes with the returned one."""
  with explained(pathlib.Path(tempfile.gettempdir())), apart.scratch_file(None) as file:
    file.write(np.ascontiguousarray(array))
    file.flush()
    return np.memmap(file, array.dtype, "r", shape=array.shape)


def _apart(
  path: pathlib.Path,
  needed: Sequence[str],
  optional: Sequence[str] | None,
  scratch: pathlib.Path | None,
) -> dict[str, np.ndarray | LargeArray]:
  """Arrays of an HDF5 or MATLAB file."""
  if scratch is not None:
    with explained(scratch):
      scratch.mkdir(parents=True, exist_ok=True)
  arrays = {}
  with apart.scratch_file(scratch) as file:
    for field in apart.call("fields", path, file, list(needed), optional, LARGE_BYTES):
      name, dtype, shape = field["name"], field["dtype"], field["shape"]
      if field["offset"] is None:
        arrays[name] = LargeArray(path, name, dtype, shape, scratch)
        continue
      if 0 in shape:
        arrays[name] = np.empty(shape, dtype)
        continue
      shape = shape[::-1] if field["reversed"] else shape
      array = np.memmap(file, dtype, "r", field["offset"], tuple(shape))
      arrays[name] = array.T if field["reversed"] else array
  return arrays


def check_array(
  where: str,
  array: Any,
  shape: str,
  kind: str = "number",
  *,
  finite: bool = False,
  lowest: int | None = None,
  highest: int | None = None,
  hint: str = "",
) -> Any:
  """Checks what a field of a file must be, and returns it.

  Args:
    where: file and field, for messages.
    array: an array; values of a ``LargeArray`` are read for ``finite`` and the kinds
      ``whole`` and ``text`` alone.
    shape: sizes by letters and numbers, ``N D``; alternatives are joined by ``or``. No
      size may be 0.
    kind: ``number``, ``float``, ``whole`` (returned as int64) or ``text`` (whole
      numbers are taken as ids; returned as ``np.str_``). Where these two have one
      size they are returned flat: MATLAB has columns where others have rows.
    finite: whether NaN and infinity are refused.
    lowest: of whole numbers.
    highest: of whole numbers.
    hint: added to what was expected.

  Raises:
    ZsljaxError: the field is something else; the message says what.
  """
  kinds, words = _KINDS[kind]
  shapes = [sizes.split() for sizes in shape.split(" or ")]
  expected = " or ".join(f"[{', '.join(sizes)}]" for sizes in shapes)
  if lowest is not None:
    words += f" from {lowest} " + ("on" if highest is None else f"to {highest}")
  expected = f"{'finite ' * finite}{words} {expected}{hint}"
  if finite or kind in ("whole", "text"):
    array = array[()] if isinstance(array, LargeArray) else array
    array = np.asarray(array) if finite or len(shapes[0]) > 1 else np.ravel(array)
  require(
    array.dtype.kind in kinds and any(_fits(array.shape, sizes) for sizes in shapes),
    where,
    f"{array.dtype} of shape {array.shape}",
    expected,
  )
  if kind == "text":
    return array.astype(np.str_)
  bad = np.zeros(1, bool)
  if kind == "whole":
    low = -(2**53) if lowest is None else lowest
    high = 2**53 if highest is None else highest  # Floats beyond skip numbers.
    bad = ~((array >= low) & (array <= high) & (np.mod(array, 1) == 0))
  elif finite:
    bad = ~np.isfinite(array)
  if bad.any():
    raise ZsljaxError(
      f"{where}: found {array[bad][0]:g} ({bad.sum()} such), expected {expected}"
    )
  return array.astype(np.int64) if kind == "whole" else array


def as_floats(where: str, array: np.ndarray) -> np.ndarray:
  """Whole numbers as float32; floating point numbers as they are.

  Raises:
    ZsljaxError: float32 does not hold a number exactly.
  """
  if array.dtype.kind == "f":
    return array
  floats = array.astype(np.float32)
  with np.errstate(invalid="ignore"):
    exact = np.array_equal(floats.astype(array.dtype), array)
  expected = f"numbers up to {2**24}, which float32 holds"
  require(exact, where, "larger whole numbers", expected)
  return floats


def check_field(
  path: pathlib.Path, arrays: Mapping[str, Any], field: str, *expected, **limits
) -> Any:
  """Checks a field of a file by ``check_array``; None where the file lacks it."""
  if field not in arrays:
    return None
  return check_array(f"{path}: {field}", arrays[field], *expected, **limits)


def _fits(shape: tuple[int, ...], sizes: Sequence[str]) -> bool:
  return len(shape) == len(sizes) and all(
    size > 0 and (not wanted.isdigit() or size == int(wanted))
    for size, wanted in zip(shape, sizes, strict=True)
  )


def _texts(value: np.ndarray) -> np.ndarray:
  """Numbers as they are, texts as ``np.str_``."""
  return np.char.decode(value, "utf-8", "replace") if value.dtype.kind == "S" else value
