"""Writes a stored dataset in the xlsa17 layout.

The files have the xlsa17 layout, which other code reads. With --croissant they
are also described in Croissant (JSON-LD: files with their hashes, splits and
classes), which needs the extra zsljax[croissant].

Example:
  zsljax data export-xlsa17 DATA/birds --dest=xlsa17/data/BIRDS
"""

from zsljax.cli.common import add_path, path
from zsljax.errors import require

GROUP = "data"


def add_arguments(parser) -> None:
  parser.add_argument("folder", type=path, metavar="DIR")
  add_path(parser, "--dest", "where the files go", "DIR")
  parser.add_argument(
    "--croissant",
    action="store_true",
    help="also write croissant.json, images.csv and classes.csv",
  )
  parser.add_argument(
    "--license", help="with --croissant: of the data, as a name or URL"
  )


def run(args) -> None:
  from zsljax.data.croissant import write_croissant
  from zsljax.data.export import export_xlsa17
  from zsljax.data.store import only_below

  stored = only_below(args.folder)
  require(args.croissant or not args.license, "--license", args.license, "--croissant")
  files = export_xlsa17(stored, args.dest)
  if args.croissant:
    files += write_croissant(stored, files, args.dest, args.license)
  print(f"wrote {' and '.join(str(file) for file in files)}")
