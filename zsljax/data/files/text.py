"""Text files: a name a line, and CSV."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Sequence
import csv
import json
import pathlib

from zsljax.errors import require
from zsljax.io.checks import readable, require_file
from zsljax.io.progress import task_bar


def read_names(path: pathlib.Path, distinct: bool = False) -> list[str]:
  """The lines of a UTF-8 text file, stripped, without those that are empty.

  Raises:
    ZsljaxError: the file is missing or no text, or has a line twice where they must be
      ``distinct``.
  """
  require_file(path, "a text file, one name a line")
  with readable(path):
    lines = path.read_text("utf-8-sig").splitlines()
  names = [line.strip() for line in lines if line.strip()]
  if distinct:
    check_distinct(names, str(path))
  return names


def read_image_list(path: pathlib.Path) -> list[str]:
  """The images that a file lists: text, one a line; or JSON.

  JSON is a list, an object whose keys are the images, or one of both as ``images``.

  Raises:
    ZsljaxError: the file is something else, lists none, or one twice.
  """
  if path.suffix.lower() != ".json":
    names = read_names(path, distinct=True)
  else:
    require_file(path, "a list of images")
    with readable(path):
      listed = json.loads(path.read_text("utf-8"))
    listed = listed.get("images", listed) if isinstance(listed, dict) else listed
    whole = isinstance(listed, list | dict) and all(
      isinstance(name, str | int) for name in listed
    )
    require(whole, str(path), "other content", "a list of images, or an object of them")
    names = [str(name) for name in listed]
    check_distinct(names, str(path))
  require(bool(names), str(path), "no images", "some")
  return names


def check_distinct(names: Iterable[str], where: str) -> None:
  """Raises if one of the names occurs twice."""
  twice = [name for name, count in collections.Counter(names).items() if count > 1]
  require(not twice, where, f"{twice[:3]} more than once", "each name once")


def read_csv(path: pathlib.Path) -> Iterator[list[str]]:
  """The cells of each line of a CSV file, UTF-8 with commas."""
  require_file(path, "a CSV file")
  with readable(path), path.open(encoding="utf-8-sig", newline="") as file:
    with task_bar(path.stat().st_size, f"reading {path.name}", "B") as bar:
      yield from csv.reader(_counted(file, bar), strict=True)


def quoted(names: Sequence[str]) -> str:
  """The first three names in quotes, and whether there are more."""
  return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")


def _counted(lines: Iterable[str], bar) -> Iterator[str]:
  for line in lines:
    bar.update(len(line))
    yield line
