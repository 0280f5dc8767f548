"""Says what a stored dataset holds, and what is odd.

Prints sizes, splits, classes and sources of each set in DIR or below, and
warnings: doubled images, classes that nothing tells apart, few or uneven
images, attributes and dimensions that say nothing. Reads all features.

Example:
  zsljax data describe DATA/birds
"""

from zsljax.cli.common import path

GROUP = "data"


def add_arguments(parser) -> None:
  parser.add_argument("folder", type=path, metavar="DIR")


def run(args) -> None:
  from zsljax.data.data_warnings import data_warnings
  from zsljax.data.describe import describe
  from zsljax.data.store import all_below

  pages = (describe(stored, data_warnings(stored)) for stored in all_below(args.folder))
  print("\n\n".join(pages))
