"""Sweeps systems on datasets, or repeats a paper.

Sweeps every system on every dataset that it can use, and writes tables, curves
and a manifest into DEST. With --paper, trains with the settings of a published
result, chooses nothing, and says of each of its numbers whether it came out.
--config.FIELD=VALUE sets fields of all configs. The same command again continues.

Examples:
  zsljax reproduce --systems=eszsl,msdn --datasets=digits --seeds=3 --dest=results
  zsljax reproduce --list --data_dir=DATA
  zsljax reproduce --paper=msdn/cub --data_dir=DATA --dest=again
"""

from zsljax.cli.common import add_data_dir, add_folds, add_number, add_path

GROUP = "judge"


def add_arguments(parser) -> None:
  task = parser.add_mutually_exclusive_group()
  task.add_argument("--systems", default="all", help="recipes, NAME,NAME or all")
  task.add_argument(
    "--paper", metavar="NAME", help="a published result to train again, see --list"
  )
  task.add_argument(
    "--list",
    action="store_true",
    help="list published results, and what is missing here to train each again",
  )
  parser.add_argument(
    "--datasets",
    default="digits",
    help="NAME,NAME; digits stands for the embedded data (default: %(default)s)",
  )
  add_number(parser, "--seeds", 5, "of each")
  add_folds(parser)
  add_path(parser, "--dest", "where report and runs go", "DIR", required=False)
  add_data_dir(parser, "where datasets were imported to")
  parser.set_defaults(fields=[])


def run(args) -> None:
  from zsljax.errors import require

  options = vars(args)
  paper, listed = options.pop("paper"), options.pop("list")
  if paper or listed:
    for flag, usual in (("datasets", "digits"), ("folds", "5")):
      expected = "none with --paper and --list"
      require(options[flag] == usual, f"--{flag}", options[flag], expected)
  if listed:
    from zsljax.runs.papers import overview

    print(overview(args.data_dir))
    return
  require(args.dest is not None, "--dest", "nothing", "a folder for report and runs")
  if paper:
    from zsljax.reporting.published import read_published
    from zsljax.runs.papers import replay

    published = read_published(paper)
    print(replay(published, args.dest, args.seeds, args.data_dir, args.fields), end="")
    return
  from zsljax.runs.reproduce import reproduce

  print(f"report in {reproduce(**options)}")
