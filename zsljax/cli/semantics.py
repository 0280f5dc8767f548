"""Describes classes by vectors of their names.

Looks names up in a file of word vectors, or takes the rows of a matrix from any
text encoder, and writes them as CLASSES.csv, which `data build` and `predict`
take. A name is looked up as it stands, with _ for spaces, in lower case, and
then word by word.

Examples:
  zsljax semantics --names=classes.txt --word_vectors=glove.6B.300d.txt \\
      --dest=classes.csv
  zsljax semantics --names=classes.txt --word_vectors=clip_text.npy \\
      --dest=classes.csv
"""

import textwrap

from zsljax.cli.common import add_path, add_word_vectors

GROUP = "data"


def add_arguments(parser) -> None:
  add_path(parser, "--names", "text file, one class name a line")
  add_word_vectors(parser, "names")
  add_path(parser, "--dest", "CSV file that is written")


def run(args) -> None:
  from zsljax.data.semantics import describe_names

  found = describe_names(args.names, args.word_vectors, args.dest, args.unknown)
  count, width = found.vectors.shape
  print(f"{count} classes, {width} numbers each, in {args.dest}")
  for note in found.notes:
    note = note.replace("Labels", "Names", 1)
    print(textwrap.fill(f"note: {note}", 88, subsequent_indent="      "))
