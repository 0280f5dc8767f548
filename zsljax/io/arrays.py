"""Named arrays in .npy, .npz, HDF5 and MATLAB files, and checks of their content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import math
import pathlib
from typing import Any

import h5py
import numpy as np
import scipy.io

from zsljax.errors import ZsljaxError, require

ENDINGS = (".npy", ".npz", ".h5", ".hdf5", ".mat")
# HDF5 finds the chunks that it holds by a hash: a prime, far above their number.
_CHUNK_SLOTS = 100_003
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
  by_row: bool = True,
) -> dict[str, np.ndarray | h5py.Dataset]:
  """Arrays of a file, by name; Python objects in it are never unpickled.

  Numbers of ``.npy`` (memory-mapped) and HDF5 files (data sets, open as long as they
  are in use) are read when they are indexed, all else at once. Texts of any storage
  become ``np.str_``. Arrays of ``.mat`` files (version 5 and 7.3) have the shape that
  MATLAB shows; text cells become ``[N]``.

  Args:
    path: the file; its ending says what it is.
    needed: names of fields that must be there. The one array of an ``.npy`` file gets
      the first of these names.
    optional: further fields to read where they are there; all when None.
    endings: of the accepted kinds of files.
    by_row: whether single rows of HDF5 are read, forwards: all chunks that a row is
      spread over are then kept in memory.

  Raises:
    ZsljaxError: the file is missing, damaged or of another kind, or lacks a field.
  """
  kind = path.suffix.lower()
  require(kind in endings, str(path), f"ending {kind!r}", f"one of {' '.join(endings)}")
  require_file(path, f"a {kind} file")
  with readable(path):
    if kind == ".npy":
      stored = {needed[0] if needed else "array": np.lib.format.open_memmap(path, "r")}
    elif kind == ".npz":
      stored = np.lib.npyio.NpzFile(path, allow_pickle=False)
    elif kind == ".mat" and not h5py.is_hdf5(path):
      fields = None if optional is None else [*needed, *optional]
      stored = scipy.io.loadmat(path, variable_names=fields)
      stored = {k: v for k, v in stored.items() if not k.startswith("__")}
    else:
      stored = _open_hdf5(path, by_row)
    require(
      stored.keys() >= set(needed),
      str(path),
      f"no field {', '.join(f for f in needed if f not in stored)} (it has "
      f"{', '.join(stored) or 'none'})",
      f"{', '.join(needed)}: is it another file, or was the download cut off?",
    )
    wanted = stored if optional is None else [*needed, *optional]
    return {
      field: _from_matlab(stored[field]) if kind == ".mat" else _plain(stored[field])
      for field in wanted
      if field in stored
    }


def require_file(path: pathlib.Path, expected: str) -> None:
  """Raises unless ``path`` is a file; the message lists similar files beside it."""
  if not path.is_file():
    beside = sorted(p.name for p in path.parent.glob(f"*{path.suffix or '.'}"))
    more = f"; the folder holds {', '.join(beside[:9])}" if beside else ""
    require(False, str(path), "no such file", f"{expected}{more}")


@contextlib.contextmanager
def readable(path: pathlib.Path) -> Iterator[None]:
  """Turns any failure to read ``path`` into a ``ZsljaxError`` that names it."""
  try:
    yield
  except ZsljaxError:
    raise
  except Exception as error:  # Zip, zlib, HDF5, SciPy and NumPy have each their own.
    reason = str(error)
    if "pickle" in reason or "Python objects" in reason:
      reason = "it holds Python objects, which are never read; store texts as dtype=str"
    raise ZsljaxError(
      f"{path}: not readable ({path.stat().st_size if path.exists() else 0} bytes; "
      f"{reason}), expected a complete {path.suffix} file (was the download cut off?)"
    ) from error


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
    array: an array, or an HDF5 data set; its values are read for ``finite`` and the
      kinds ``whole`` and ``text`` alone.
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
    if isinstance(array, h5py.Dataset):
      with readable(pathlib.Path(array.file.filename)):
        array = array[()]
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
    low = -math.inf if lowest is None else lowest
    high = math.inf if highest is None else highest
    bad = ~((array >= low) & (array <= high) & (np.mod(array, 1) == 0))
  elif finite:
    bad = ~np.isfinite(array)
  if bad.any():
    raise ZsljaxError(
      f"{where}: found {array[bad][0]:g} ({bad.sum()} such), expected {expected}"
    )
  return array.astype(np.int64) if kind == "whole" else array


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


def _open_hdf5(path: pathlib.Path, by_row: bool) -> dict[str, h5py.Dataset]:
  """Data sets of a file, with room for the chunks of a row."""
  with h5py.File(path) as file:
    for name in file:
      _require_own(path, file, name)
    held = max(map(_chunks_of_a_row, file.values()), default=0) if by_row else 0
  file = h5py.File(path, rdcc_nbytes=max(held, 2**20), rdcc_nslots=_CHUNK_SLOTS)
  return {name: v for name, v in file.items() if isinstance(v, h5py.Dataset)}


def _require_own(path: pathlib.Path, file: h5py.File, name: str) -> None:
  """Raises where the numbers of a field lie in another file.

  A file from elsewhere could pull in any that the user may read.
  """
  elsewhere = isinstance(file.get(name, getlink=True), h5py.ExternalLink)
  if not elsewhere and isinstance(stored := file.get(name), h5py.Dataset):
    there = stored.file.filename != file.filename
    elsewhere = there or stored.is_virtual or bool(stored.external)
  expected = "a file that has all of its numbers itself"
  require(not elsewhere, f"{path}: {name}", "a link to another file", expected)


def _chunks_of_a_row(stored: Any) -> int:
  """Bytes of all chunks that one row is spread over."""
  if getattr(stored, "chunks", None) is None:
    return 0
  rows, *sizes = stored.chunks
  widths = [-(-w // c) * c for w, c in zip(stored.shape[1:], sizes, strict=True)]
  return rows * math.prod(widths) * stored.dtype.itemsize


def _plain(value: Any) -> Any:
  """Numbers as they are stored, texts as ``np.str_``."""
  if isinstance(value, h5py.Dataset) and h5py.check_string_dtype(value.dtype):
    return np.asarray(value.asstr(errors="replace")[()], np.str_)
  if getattr(value, "dtype", np.dtype("f")).kind == "S":
    return np.char.decode(value, "utf-8", "replace")
  return value


def _from_matlab(value: Any) -> np.ndarray:
  """An array as MATLAB shows it; text cells and rows of letters as texts ``[N]``."""
  if isinstance(value, h5py.Dataset):
    array = value[()]
    if array.dtype != h5py.ref_dtype:
      return array.T  # MATLAB writes columns first.
    cells = (np.ravel(value.file[cell][()]) for cell in array.ravel())
    return np.array(["".join(map(chr, cell)) for cell in cells], np.str_)
  if value.dtype == object:
    cells = (str(np.ravel(c)[0]) if np.size(c) else "" for c in value.ravel())
    return np.array(list(cells), np.str_)
  return np.char.rstrip(value) if value.dtype.kind == "U" else value
