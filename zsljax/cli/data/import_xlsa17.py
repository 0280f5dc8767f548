"""Imports res101.mat and att_splits.mat (AWA, CUB, ...).

Checks a dataset in the xlsa17 layout and stores it as TFRecord shards. The
folder's name (AWA1, AWA2, CUB, SUN, APY or FLO) names the published set.

Example:
  zsljax data import-xlsa17 --source=xlsa17/data/CUB --dest=DATA
"""

from zsljax.cli.common import add_choice, add_path, add_storage, store

GROUP = "data"


def add_arguments(parser) -> None:
  add_path(parser, "--source", "folder of both .mat files", "DIR")
  parser.add_argument(
    "--features",
    default="res101.mat",
    metavar="FILE",
    help="file with features and labels (default: %(default)s)",
  )
  parser.add_argument(
    "--splits",
    default="att_splits.mat",
    metavar="FILE",
    help="file with class embeddings and splits; sent_splits.mat for CUB sentences "
    "(default: %(default)s)",
  )
  add_choice(
    parser,
    "--attributes",
    ["att", "original_att"],
    "att: scaled to length one, what published numbers use; original_att: as annotated",
  )
  add_storage(parser, "the folder's name")


def run(args) -> None:
  from zsljax.data import read_xlsa17

  store(
    args,
    read_xlsa17(args.source, args.features, args.splits, args.name, args.attributes),
  )
