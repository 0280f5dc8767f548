"""Compares systems on a dataset, and names the best.

Sweeps every system that the stored set can use, the quickest first, and compares
what they reach on class folds, which hold out some of the seen classes. Then joins
the best with up to two others, whose scores are averaged, if the folds gain by it;
for that the best five are trained on the folds once more. Test images decide
nothing. The same command again continues.

Examples:
  zsljax fit digits --workdir=W
  zsljax fit birds --data_dir=DATA --workdir=W --minutes=30
"""

from zsljax.cli.common import add_data_dir, add_folds, add_path

GROUP = "train"


def add_arguments(parser) -> None:
  parser.add_argument("dataset", help="name of a set, as in train")
  add_path(parser, "--workdir", "where results and runs go", "DIR")
  add_data_dir(parser, "where datasets were imported to")
  parser.add_argument(
    "--minutes",
    type=float,
    default=10.0,
    metavar="M",
    help="after which no further system is begun, before systems are joined "
    "(default: %(default)g)",
  )
  add_folds(parser)
  parser.set_defaults(fields=[])


def run(args) -> None:
  from zsljax.runs.fit import fit

  options = args.data_dir, args.minutes, args.folds, args.fields
  print(f"\n{fit(args.dataset, args.workdir, *options)}")
