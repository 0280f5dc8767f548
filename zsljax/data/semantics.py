"""Classes described by vectors of their names."""

import pathlib

from zsljax.data.files.class_table import write_class_table
from zsljax.data.files.text import read_names
from zsljax.data.files.word_vectors import LabelVectors, label_vectors


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
  width = found.vectors.shape[1]
  columns = [f"dimension_{i:0{len(str(width))}d}" for i in range(width)]
  write_class_table(dest, found.names, columns, found.vectors)
  return found
