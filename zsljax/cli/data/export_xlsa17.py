"""Writes a stored dataset in the xlsa17 layout.

The files have the xlsa17 layout, which other code reads.

Example:
  zsljax data export-xlsa17 DATA/birds --dest=xlsa17/data/BIRDS
"""

from zsljax.cli.common import add_path, path
from zsljax.errors import ZsljaxError

GROUP = "data"


def add_arguments(parser) -> None:
  parser.add_argument("folder", type=path, metavar="DIR")
  add_path(parser, "--dest", "where the files go", "DIR")


def run(args) -> None:
  from zsljax.data.export import export_xlsa17
  from zsljax.data.store import all_below

  sets = all_below(args.folder)
  if len(sets) > 1:
    raise ZsljaxError(
      f"{args.folder}: found {len(sets)} datasets, expected the folder of one: "
      f"{', '.join(str(dataset.folder) for dataset in sets)}"
    )
  files = export_xlsa17(sets[0], args.dest)
  print(f"wrote {' and '.join(str(file) for file in files)}")
