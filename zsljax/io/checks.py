"""Checks of files before they are read: there, whole, no larger than they claim."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import pathlib
from typing import Any

from zsljax.errors import ZsljaxError, line_of, require

# Numbers in a file may be this many times as large as the file, or this many bytes.
TIMES, LEAST_BYTES = 100, 2**30


def largest(path: pathlib.Path) -> int:
  """Bytes that the numbers in a file may have."""
  return max(LEAST_BYTES, TIMES * path.stat().st_size)


def require_fields(
  path: pathlib.Path, stored: Mapping[str, Any], needed: Sequence[str]
) -> None:
  """Raises unless a file has all fields that are needed."""
  require(
    stored.keys() >= set(needed),
    str(path),
    f"no field {', '.join(f for f in needed if f not in stored)} (it has "
    f"{line_of(', '.join(stored) or 'none')})",
    f"{', '.join(needed)}: is it another file, or was the download cut off?",
  )


def require_file(path: pathlib.Path, expected: str) -> None:
  """Raises unless ``path`` is a file; the message lists similar files beside it."""
  if not path.is_file():
    beside = sorted(p.name for p in path.parent.glob(f"*{path.suffix or '.'}"))
    more = f"; the folder holds {', '.join(beside[:9])}" if beside else ""
    require(False, str(path), "no such file", f"{expected}{more}")


@contextlib.contextmanager
def readable(path: pathlib.Path, expected: str = "") -> Iterator[None]:
  """Turns any failure to read ``path`` into a ``ZsljaxError`` that names it."""
  expected = expected or f"a complete {path.suffix} file (was the download cut off?)"
  try:
    yield
  except ZsljaxError:
    raise
  except Exception as error:  # Zip, zlib, HDF5, SciPy and NumPy have each their own.
    reason = line_of(error)
    if isinstance(error, MemoryError):
      reason = f"it asks for far more memory than it has bytes: {reason}"
    if "pickle" in reason or "Python objects" in reason:
      reason = "it holds Python objects, which are never read; store texts as dtype=str"
    raise ZsljaxError(
      f"{path}: not readable ({path.stat().st_size if path.exists() else 0} bytes; "
      f"{reason}), expected {expected}"
    ) from error
