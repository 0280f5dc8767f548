"""Classes described by vectors of their names or of sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import pathlib

import numpy as np

from zsljax.data.files.class_table import write_class_table
from zsljax.data.files.text import read_csv, read_names
from zsljax.errors import require
from zsljax.io.checksums import sha256_of
from zsljax.io.files import write_json
from zsljax.io.json_files import TEXT, read_json

# Ending of the file beside a class table that says what the table was made of.
_SOURCES = ".sources.json"


def write_vectors(
  dest: pathlib.Path, names: Sequence[str], vectors: np.ndarray
) -> None:
  """Writes a class table of vectors ``[C, D]`` without names of their own."""
  width = vectors.shape[1]
  columns = [f"dimension_{i:0{len(str(width))}d}" for i in range(width)]
  write_class_table(dest, names, columns, vectors)


def write_sources(table: pathlib.Path, files: Iterable[pathlib.Path | None]) -> None:
  """Writes the SHA-256 of a class table and of the files that it was made of."""
  paths = [path.expanduser().absolute() for path in (table, *files) if path]
  hashes = {f"{path.parent.name}/{path.name}": sha256_of(path) for path in paths}
  write_json(paths[0].with_suffix(_SOURCES), hashes)


def sources_of(table: pathlib.Path) -> dict[str, str]:
  """SHA-256 of the files that a class table was made of, where it is known.

  Raises:
    ZsljaxError: the file beside it is none of ``write_sources``.
  """
  path = table.with_suffix(_SOURCES)
  if not path.exists():
    return {}
  schema = {"type": "object", "additionalProperties": TEXT}
  hashes = read_json(path, schema, "SHA-256 by name, as semantics writes them")
  own = sha256_of(table)
  if own not in hashes.values():  # It was changed since.
    return {}
  return {name: digest for name, digest in hashes.items() if digest != own}


def prompts(
  names: pathlib.Path, templates: pathlib.Path | None = None
) -> dict[str, list[str]]:
  """Sentences of the class names in a text file, by class.

  Args:
    names: one class name a line.
    templates: one a line, with ``{}`` for the name; the name alone when None.

  Raises:
    ZsljaxError: a file is missing or empty, or a template has no ``{}``.
  """
  texts = ["{}"] if templates is None else read_names(templates.expanduser())
  lacking = [text for text in texts if "{}" not in text]
  require(bool(texts) and not lacking, str(templates), lacking[:1], "{} in each line")
  classes = read_names(names.expanduser(), distinct=True)
  require(bool(classes), str(names), "no names", "one class name a line")
  return {name: [text.replace("{}", name) for text in texts] for name in classes}


def read_sentences(path: pathlib.Path) -> dict[str, list[str]]:
  """Sentences of each class, from a CSV file ``class,sentence``.

  Raises:
    ZsljaxError: it is no such file, or a line lacks one of both.
  """
  lines = list(read_csv(path.expanduser()))
  header = ",".join(lines[0]) if lines else ""
  expected = "the header class,sentence"
  require(header.lower() == "class,sentence", f"{path}: line 1", repr(header), expected)
  sentences: dict[str, list[str]] = {}
  for number, line in enumerate(lines[1:], 2):
    whole = len(line) == 2 and all(cell.strip() for cell in line)
    found = repr(",".join(line)[:60])
    require(whole or not line, f"{path}: line {number}", found, "class,sentence")
    if line:
      sentences.setdefault(line[0].strip(), []).append(line[1].strip())
  require(bool(sentences), str(path), "no sentences", "a line for each sentence")
  return sentences
