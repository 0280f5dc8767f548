"""Joins runs of sweeps; their scores are averaged.

The runs of a sweep are those of its --seeds; sweeps may be of different systems, also
of regions and of their mean, on one dataset. How scores are made comparable, and the
calibration of their average, are chosen on the sweeps' class folds. The workdir is as
that of a run: eval, predict and table take it.

Example:
  zsljax sweep --config=cosine:flo --seeds=8 --workdir=S
  zsljax ensemble S --workdir=W
"""

from zsljax.cli.common import add_data_dir, add_path, path

GROUP = "train"


def add_arguments(parser) -> None:
  parser.add_argument("sweeps", nargs="+", type=path, metavar="SWEEP")
  add_path(parser, "--workdir", "a new folder, of the ensemble", "DIR")
  add_data_dir(parser, "where the dataset is now, when it was moved")


def run(args) -> None:
  from zsljax.reporting.rows import read_chosen
  from zsljax.reporting.tables import fitted, make_blocks, render, terminal_width
  from zsljax.runs.ensemble import EndedSweep, ensemble

  workdir = args.workdir.absolute()
  sweeps = [EndedSweep.open(x.absolute(), args.data_dir) for x in args.sweeps]
  rows = ensemble(sweeps, workdir)
  chosen = read_chosen(workdir)
  assert chosen is not None
  values = ", ".join(f"{name} {value:.2f}" for name, value in chosen["values"].items())
  told = f"{chosen['metric']} on folds by what makes scores comparable: {values}"
  print(f"{fitted(told)}\n")
  print(render(make_blocks(rows), "terminal", terminal_width()))
  print(f"predict and eval take --workdir={args.workdir}")
