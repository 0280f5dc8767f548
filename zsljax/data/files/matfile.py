"""MATLAB files, version 5 and version 7.3 (HDF5), read alike."""

from collections.abc import Collection
import pathlib
import struct
import zlib

import h5py
import numpy as np
import scipy.io

from zsljax.errors import ZsljaxError

# What the readers raise on a damaged file, beside OSError for a missing block.
_DAMAGED = (
  EOFError,
  IndexError,
  KeyError,
  NotImplementedError,
  OSError,
  OverflowError,
  MemoryError,
  TypeError,
  ValueError,
  struct.error,
  zlib.error,
  scipy.io.matlab.MatReadError,
)


def read_mat(
  path: pathlib.Path, fields: Collection[str]
) -> dict[str, np.ndarray | list[str]]:
  """The ``fields`` that the file holds, by name.

  Numeric arrays come as MATLAB shows them (``[rows, columns]``); cell arrays of
  text come as lists of str. Fields that the file lacks are left out.

  Raises:
    ZsljaxError: the file is missing, or cannot be read to its end.
  """
  if not path.is_file():
    beside = sorted(p.name for p in path.parent.glob("*.mat"))
    raise ZsljaxError(
      f"{path}: no such file; expected a MATLAB file. The folder holds "
      f"{', '.join(beside) or 'no .mat file'}."
    )
  try:
    if h5py.is_hdf5(path):
      return _read_hdf5(path, fields)
    content = scipy.io.loadmat(path, variable_names=list(fields))
    return {
      field: _text_or_numbers(content[field]) for field in fields if field in content
    }
  except _DAMAGED as error:
    size = path.stat().st_size
    raise ZsljaxError(
      f"{path}: not a readable MATLAB file ({size} bytes; the reader says: "
      f"{error}). Expected a complete version 5 or 7.3 file: was the download "
      "cut off?"
    ) from error


def _text_or_numbers(value: np.ndarray) -> np.ndarray | list[str]:
  if value.dtype == object:
    return [str(np.ravel(cell)[0]) if np.size(cell) else "" for cell in value.ravel()]
  if value.dtype.kind == "U":
    return [str(row).rstrip() for row in value]
  return value


def _read_hdf5(path, fields):
  result = {}
  with h5py.File(path, "r") as file:
    for field in fields:
      if field not in file:
        continue
      value = file[field][()]
      if value.dtype == h5py.ref_dtype:
        result[field] = [
          "".join(chr(c) for c in np.ravel(file[cell][()])) for cell in value.ravel()
        ]
      else:
        result[field] = value.T  # MATLAB writes columns first.
  return result
