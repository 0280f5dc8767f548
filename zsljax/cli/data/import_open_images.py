"""Imports Open Images: image-level labels, 400 unseen.

Checks Open Images' label files (labels present and absent; 7186 seen, 400
unseen) and features of any of its images, and stores the images that have both
as TFRecord shards.

Example:
  zsljax data import-open-images --train_labels=train.csv --test_labels=test.csv \\
      --descriptions=class-descriptions.csv --seen=seen.txt --unseen=unseen.txt \\
      --features=train.h5 test.h5 --word_vectors=glove.6B.300d.txt --dest=DATA
"""

from zsljax.cli.common import add_annotated, add_path, annotated, store

GROUP = "data"


def add_arguments(parser) -> None:
  csv = ".csv with ImageID,Source,LabelName,Confidence"
  add_path(parser, "--train_labels", csv)
  add_path(parser, "--test_labels", f"{csv} of the test images")
  add_path(parser, "--descriptions", ".csv with LabelName,DisplayName")
  add_path(parser, "--seen", "text file, one LabelName such as /m/01g317 a line")
  add_path(parser, "--unseen", "the same of the unseen labels")
  add_annotated(parser, "open_images")


def run(args) -> None:
  from zsljax.data import read_open_images

  store(
    args,
    read_open_images(
      args.train_labels,
      args.test_labels,
      args.descriptions,
      args.seen,
      args.unseen,
      *annotated(args),
    ),
  )
