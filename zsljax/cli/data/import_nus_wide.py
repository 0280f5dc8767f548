"""Imports NUS-WIDE: 925 tags seen, 81 concepts unseen.

Checks NUS-WIDE's official label files and features of its images, and stores
them as TFRecord shards.

Example:
  zsljax data import-nus-wide --source=NUS-WIDE --features=nus.h5 \\
      --word_vectors=glove.6B.300d.txt --dest=DATA
"""

from zsljax.cli.common import add_annotated, add_path, annotated, store

GROUP = "data"


def add_arguments(parser) -> None:
  add_path(parser, "--source", "folder of the unpacked label files", "DIR")
  add_annotated(parser, "nus_wide")


def run(args) -> None:
  from zsljax.data import read_nus_wide

  store(args, read_nus_wide(args.source, *annotated(args)))
