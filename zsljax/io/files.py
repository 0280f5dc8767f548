"""Files and locks that survive a kill: no file is left half-written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import csv
import fcntl
import io
import json
import os
import pathlib
from typing import Any

from zsljax.errors import ZsljaxError, line_of
from zsljax.io.json_files import OBJECT, check_json


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a draft beside ``path`` that replaces it once it is written whole.

  Raises:
    ZsljaxError: it cannot be written; the old file stands.
  """
  draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
  with explained(path):
    try:
      yield draft
      with draft.open("rb") as file:
        os.fsync(file.fileno())
      os.replace(draft, path)
    finally:
      draft.unlink(missing_ok=True)


def write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
  """Replaces ``path`` by ``value`` as JSON, all at once."""
  write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
  """Replaces ``path`` by ``text``, all at once.

  Raises:
    ZsljaxError: it cannot be written; the old file stands.
  """
  with replacing(path) as draft:
    draft.write_text(text)


def write_csv(path: pathlib.Path, rows: Iterable[Iterable[Any]]) -> None:
  """Replaces ``path`` by ``rows`` as CSV, all at once, and makes its folder."""
  with explained(path):
    path.parent.mkdir(parents=True, exist_ok=True)
  write_text(path, csv_text(rows))


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
  """``rows`` as CSV."""
  text = io.StringIO()
  csv.writer(text, lineterminator="\n").writerows(rows)
  return text.getvalue()


def append_line(path: pathlib.Path, value: Mapping[str, Any]) -> None:
  """Adds one JSON line to ``path``, after closing a line cut off by a kill."""
  line = json.dumps(value) + "\n"
  with explained(path), path.open("ab+") as file:
    if file.tell():
      file.seek(-1, os.SEEK_END)
      if file.read(1) != b"\n":
        line = "\n" + line
    file.write(line.encode())


def read_lines(
  path: pathlib.Path, schema: Mapping[str, Any] = OBJECT, whole: bool = False
) -> list[dict[str, Any]]:
  """Reads the JSON lines of ``path``.

  Args:
    path: the file; none has no lines.
    schema: of a line, see ``read_json``.
    whole: the file was written at once; others are without lines that a kill cut off.

  Raises:
    ZsljaxError: a line is not what the schema says.
  """
  rows = []
  if path.exists():
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
      where, expected = f"{path}: line {number}", "a line as zsljax writes it"
      try:
        row = json.loads(line)
      except (ValueError, RecursionError) as error:
        if line.startswith(b"{") and not whole:  # Begun, and cut off.
          continue
        reason = f"no JSON ({line_of(error)})"
        raise ZsljaxError(f"{where}: found {reason}, expected {expected}") from error
      check_json(row, schema, where, expected)
      rows.append(row)
  return rows


@contextlib.contextmanager
def locked(path: pathlib.Path, or_else: str | None = None) -> Iterator[None]:
  """Holds the lock file ``path``; the system frees it when the process dies.

  Args:
    path: made when absent.
    or_else: error to raise where another process holds it; None waits.

  Raises:
    ZsljaxError: ``or_else``, or the file cannot be made.
  """
  with explained(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if or_else else 0))
    except BlockingIOError as error:
      raise ZsljaxError(or_else) from error
    yield


@contextlib.contextmanager
def explained(path: pathlib.Path) -> Iterator[None]:
  """Turns an operating system error at ``path`` into a ``ZsljaxError``."""
  try:
    yield
  except OSError as error:
    raise ZsljaxError(
      f"{path}: could not be written ({error.strerror or error}), expected a "
      "writable folder with room"
    ) from error
