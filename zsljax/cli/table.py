"""Tabulates runs and sweeps with published numbers.

Means over seeds of the rows in each folder's results.jsonl, in blocks that
compare: one dataset, features, class embedding, split and protocol. Published
numbers of the dataset follow in blocks of their own. Sweeps with the same test
images are compared in pairs.

Example:
  zsljax table W1 W2 --format=markdown
"""

from zsljax.cli.common import add_choice, names, path

GROUP = "judge"


def add_arguments(parser) -> None:
  parser.add_argument("workdirs", type=path, nargs="+", metavar="WORKDIR")
  add_choice(
    parser,
    "--format",
    ["terminal", "markdown", "latex"],
    "of the table; LaTeX needs booktabs",
  )
  parser.add_argument(
    "--columns",
    type=names,
    default=[],
    metavar="NAME,NAME",
    help="metrics to show, as in h,accuracy (default: the protocol's usual ones, as "
    "many as the terminal has room for)",
  )
  parser.add_argument(
    "--no_published",
    action="store_false",
    dest="published",
    help="without the tables of published numbers",
  )
  parser.add_argument(
    "--standalone", action="store_true", help="a LaTeX document of its own"
  )


def run(args) -> None:
  from zsljax.errors import require
  from zsljax.reporting.rows import read_rows
  from zsljax.reporting.tables import (
    folders_with_rows,
    make_blocks,
    render,
    terminal_width,
  )
  from zsljax.runs.comparison import compared

  alone = args.standalone
  expected = "--format=latex with it"
  require(not alone or args.format == "latex", "--standalone", args.format, expected)
  folders = folders_with_rows(args.workdirs)
  rows = [row for folder in folders for row in read_rows(folder)]
  require(len(rows) > 0, "results.jsonl", "no rows", "those of eval.py or of a sweep")
  blocks = make_blocks(rows, args.columns, args.published) + compared(folders)
  print(render(blocks, args.format, terminal_width(), alone), end="")
