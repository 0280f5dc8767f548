"""Imports COCO: 48 classes seen, 17 unseen.

Checks COCO's annotated instances and features of its images, and stores them as
TFRecord shards. The split is that of zero-shot detection.

Example:
  zsljax data import-coco --train=instances_train2014.json \\
      --test=instances_val2014.json --features=coco.h5 \\
      --word_vectors=glove.6B.300d.txt --dest=DATA
"""

from zsljax.cli.common import add_annotated, add_path, annotated, store

GROUP = "data"


def add_arguments(parser) -> None:
  add_path(parser, "--train", "instances_train*.json")
  add_path(parser, "--test", "instances_val*.json")
  add_annotated(parser, "coco")


def run(args) -> None:
  from zsljax.data import read_coco

  store(args, read_coco(args.train, args.test, *annotated(args)))
