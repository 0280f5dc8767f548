"""Tabulates runs and sweeps with published numbers.

Means over seeds of the rows in each folder's results.jsonl, in blocks that
compare: one dataset, features, class embedding, split and protocol. Published
numbers of the dataset follow in blocks of their own. Sweeps with the same test
images are compared in pairs.

Example:
  zsljax table W1 W2 --format=markdown
"""

from zsljax.cli.common import add_choice, path

GROUP = "judge"


def add_arguments(parser) -> None:
  parser.add_argument("workdirs", type=path, nargs="+", metavar="WORKDIR")
  add_choice(parser, "--format", ["terminal", "markdown", "latex"], "of the table")


def run(args) -> None:
  from zsljax.reporting.tables import find_rows, make_blocks, render, sweeps_below
  from zsljax.runs.comparison import compared

  blocks = make_blocks(find_rows(args.workdirs))
  blocks += compared(sweeps_below(args.workdirs))
  print(render(blocks, args.format), end="")
