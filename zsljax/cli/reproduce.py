"""Sweeps systems on datasets, and writes a report.

Sweeps every system on every dataset that it can use, and writes tables, curves
and a manifest into DEST. --config.FIELD=VALUE sets fields of all configs. The
same command again continues.

Example:
  zsljax reproduce --systems=eszsl,msdn --datasets=digits --seeds=3 --dest=results
"""

from zsljax.cli.common import add_folds, add_number, add_path

GROUP = "judge"


def add_arguments(parser) -> None:
  parser.add_argument("--systems", default="all", help="NAME,NAME or all")
  parser.add_argument(
    "--datasets",
    default="digits",
    help="NAME,NAME; digits stands for the embedded data (default: %(default)s)",
  )
  add_number(parser, "--seeds", 5, "of each")
  add_folds(parser)
  add_path(parser, "--dest", "where the report goes", "DIR")
  add_path(
    parser, "--data_dir", "where datasets were imported to", "DIR", required=False
  )
  parser.set_defaults(fields=[])


def run(args) -> None:
  from zsljax.runs.reproduce import reproduce

  print(f"report in {reproduce(**vars(args))}")
