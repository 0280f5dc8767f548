"""Readers of HDF5 and MATLAB files, called in a process of their own by ``apart``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import math
import pathlib
from typing import IO, Any

import h5py
import numpy as np
import scipy.io

from zsljax.errors import require
from zsljax.io.checks import TIMES, largest, readable, require_fields
from zsljax.io.files import explained

# HDF5 finds the chunks that it holds by a hash: a prime, far above their number.
_CHUNKS = {"rdcc_nbytes": 2**28, "rdcc_nslots": 100_003}


def fields(
  path: pathlib.Path,
  out: IO[bytes],
  needed: Sequence[str],
  optional: Sequence[str] | None,
  large: int,
) -> list[dict[str, Any]]:
  """Writes arrays of a file into ``out``; says where each is, and of what kind.

  Returns:
    ``name``, ``dtype``, ``shape``, whether the axes are ``reversed``, and ``offset``,
    which is None for those of ``large`` bytes and more, which ``copy`` writes.
  """
  with readable(path):
    matlab = path.suffix.lower() == ".mat"
    if matlab and not h5py.is_hdf5(path):
      names = None if optional is None else [*needed, *optional]
      stored = scipy.io.loadmat(path, variable_names=names)
      stored = {k: v for k, v in stored.items() if not k.startswith("__")}
    else:
      stored = _open_hdf5(path, optional or ())
    require_fields(path, stored, needed)
    wanted = stored if optional is None else [*needed, *optional]
    return [
      _written(path, out, name, stored.pop(name), matlab, large)
      for name in dict.fromkeys(wanted)
      if name in stored
    ]


def copy(path: pathlib.Path, out: IO[bytes], name: str, piece_bytes: int) -> None:
  """Writes the numbers of a data set into ``out``, a piece at a time."""
  with readable(path), h5py.File(path, **_CHUNKS) as file:
    source = file[name]
    target = np.memmap(out, source.dtype, "r+", shape=source.shape)
    row_bytes = target[:1].nbytes
    for rows, *columns in _pieces(source, piece_bytes):
      piece = source[rows, *columns]
      if piece.nbytes == len(piece) * row_bytes:  # Faster than mapped pages.
        out.seek(rows.start * row_bytes)
        out.write(np.ascontiguousarray(piece))
      else:
        target[rows, *columns] = piece
    out.flush()


def _written(
  path: pathlib.Path, out: IO[bytes], name: str, value: Any, matlab: bool, large: int
) -> dict[str, Any]:
  """Writes one array, unless it is a large data set."""
  where = f"{path}: {name}"
  kind, size = value.dtype, math.prod(value.shape) * value.dtype.itemsize
  expected = f"at most {TIMES} times the file's size"
  require(size <= largest(path), where, f"{size} bytes of numbers", expected)
  if isinstance(value, h5py.Dataset) and not matlab and kind.kind in "biuf":
    if size >= large:
      shape = list(value.shape)
      return {"name": name, "dtype": kind.str, "shape": shape, "offset": None}
    value = value[()]
  array = _from_matlab(value) if matlab else _plain(value)
  found = f"{array.dtype} of shape {array.shape}"
  require(array.dtype.kind in "biufcU", where, found, "numbers or texts")
  array = np.asarray(array)
  turned = array.flags.f_contiguous and not array.flags.c_contiguous
  out.seek(-(-out.tell() // 64) * 64)
  offset = out.tell()
  with explained(pathlib.Path("temporary files (TMPDIR)")):
    out.write(np.ascontiguousarray(array.T if turned else array))
  return {
    "name": name,
    "dtype": array.dtype.str,
    "shape": list(array.shape),
    "offset": offset,
    "reversed": bool(turned),
  }


def _open_hdf5(path: pathlib.Path, attributes: Sequence[str]) -> dict[str, Any]:
  """Data sets of a file, and those of the attributes that it has."""
  file = h5py.File(path)
  for name in file:
    _require_own(path, file, name)
  stored = {
    name: np.array(file.attrs[name]) for name in attributes if name in file.attrs
  }
  return stored | {k: v for k, v in file.items() if isinstance(v, h5py.Dataset)}


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


def _pieces(source: h5py.Dataset, piece_bytes: int) -> Iterator[tuple[slice, ...]]:
  """Rows and columns of parts of bounded size that cut few chunks."""
  count, width = (*source.shape, 1)[:2]
  rows, some = (*source.chunks, 1)[:2] if source.chunks else (1, width)
  size = max(1, math.prod(source.shape[2:]) * source.dtype.itemsize)
  some = min(some, width)
  if rows * some * size <= piece_bytes:
    some = min(width, piece_bytes // (rows * size) // some * some)
    rows *= max(1, piece_bytes // (rows * some * size))
  else:
    some = max(1, min(some, piece_bytes // size))
    rows = max(1, piece_bytes // (some * size))
  for start in range(0, count, rows):
    for first in range(0, width, some):
      place = slice(start, start + rows), slice(first, first + some)
      yield place[: source.ndim]


def _plain(value: Any) -> Any:
  """Numbers as they are stored, texts as ``np.str_``."""
  if isinstance(value, h5py.Dataset):
    if h5py.check_string_dtype(value.dtype):
      return np.asarray(value.asstr(errors="replace")[()], np.str_)
    return value[()]
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
