"""Classes described by vectors of their names or of sentences."""

from __future__ import annotations

from collections.abc import Sequence
import pathlib

import numpy as np

from zsljax.data.files.class_table import write_class_table
from zsljax.data.files.text import read_csv, read_names
from zsljax.data.files.word_vectors import LabelVectors, label_vectors
from zsljax.errors import require


def describe_names(
  names: pathlib.Path, word_vectors: pathlib.Path, dest: pathlib.Path, unknown: str
) -> LabelVectors:
  """Writes a class table of the names in a text file, described by their vectors.

  Args:
    names: text file, one class name a line.
    word_vectors: see ``label_vectors``, as ``unknown``.
    dest: CSV file that is written, see ``read_class_table``.
    unknown: what to do with names that have unknown words.

  Raises:
    ZsljaxError: a file cannot be used, or names have no vector.
  """
  found = label_vectors(read_names(names.expanduser()), word_vectors, unknown)
  write_vectors(dest, found.names, found.vectors)
  return found


def write_vectors(
  dest: pathlib.Path, names: Sequence[str], vectors: np.ndarray
) -> None:
  """Writes a class table of vectors ``[C, D]`` without names of their own."""
  width = vectors.shape[1]
  columns = [f"dimension_{i:0{len(str(width))}d}" for i in range(width)]
  write_class_table(dest, names, columns, vectors)


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
