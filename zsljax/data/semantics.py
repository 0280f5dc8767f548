"""Classes described by vectors of their names."""

import argparse
import textwrap

from zsljax.data.files.class_table import write_class_table
from zsljax.data.files.word_vectors import label_vectors
from zsljax.data.importers.multilabel import read_names


def semantics_command(args: argparse.Namespace) -> None:
  """The verb ``semantics``: names and a file of vectors in, a class table out."""
  found = label_vectors(
    read_names(args.names.expanduser()),
    args.word_vectors,
    args.multiword,
    args.unknown,
  )
  width = found.vectors.shape[1]
  write_class_table(
    args.dest.expanduser(),
    found.names,
    [f"dimension_{i:0{len(str(width))}d}" for i in range(width)],
    found.vectors,
  )
  print(f"{len(found.names)} classes, {width} numbers each, in {args.dest}")
  for note in found.notes:
    note = note.replace("Labels", "Names", 1)
    print(textwrap.fill(f"note: {note}", 88, subsequent_indent="      "))
