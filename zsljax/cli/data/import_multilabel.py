"""Imports images with several labels, from one .npz.

Checks a multi-label set in one .npz file (X_train, Y_train, X_test, Y_test,
labels, and vectors of the labels; Corel5k comes so) and stores it as TFRecord
shards.

Example:
  zsljax data import-multilabel --source=corel5k.npz --dest=DATA
"""

from zsljax.cli.common import add_path, add_storage, add_word_vectors, store

GROUP = "data"


def add_arguments(parser) -> None:
  add_path(parser, "--source", ".npz file")
  add_path(
    parser,
    "--unseen",
    "text file, one unseen label a line (default: the file's field `unseen`, or every "
    "fifth label in alphabetical order)",
    required=False,
  )
  add_word_vectors(parser, default="the file's own")
  add_storage(parser, "the file's name")


def run(args) -> None:
  from zsljax.data import read_multilabel

  store(
    args,
    read_multilabel(
      args.source, args.name, args.unseen, args.word_vectors, args.unknown
    ),
  )
