"""Reads all files of a stored dataset, and checks them.

Compares the SHA-256 of every file of each set in DIR or below with that of the
import. Training does so when it reads a file for the first time; this command
also finds what decayed since.

Example:
  zsljax data verify DATA/birds
"""

from zsljax.cli.common import path

GROUP = "data"


def add_arguments(parser) -> None:
  parser.add_argument("folder", type=path, metavar="DIR")


def run(args) -> None:
  from zsljax.data.store import all_below
  from zsljax.errors import in_bytes

  for stored in all_below(args.folder):
    files = stored.checksums.files
    stored.checksums.check(files, again=True)
    size = in_bytes(sum(file["bytes"] for file in files.values()))
    print(f"{stored.folder}: {len(files)} files, {size}, as they were written")
