"""Chooses settings on validation classes, tests seeds.

Tries all combinations of the config's grid (config.grid) without the validation
classes, and judges them there after several numbers of steps; trains --seeds
runs with the best on all training images, and tests them. Seeds are trained as
one program. The same command again continues an interrupted sweep.

Example:
  zsljax sweep --config=cosine:digits,cosface --seeds=3 --workdir=W
"""

from collections.abc import Sequence
import pathlib

from zsljax.cli.arguments import add_config, add_number, add_path

GROUP = "train"


def add_arguments(parser) -> None:
  add_config(parser, "cosine:digits")
  add_path(parser, "--workdir", "where results and runs go", "DIR")
  add_number(parser, "--seeds", 5, "runs that are tested")


def run(args) -> None:
  from zsljax.cli.flags import read_config
  from zsljax.reporting.rows import aligned, column_name, summarize
  from zsljax.runs.sweep import sweep

  workdir = args.workdir.absolute()
  rows = sweep(read_config(args.config, args.fields), args.seeds, workdir)
  print(f"{heading(rows)}\n{_choice(workdir)}\n")
  fields = ("protocol", "selection", "calibration")
  summaries = summarize(rows)
  for protocol in dict.fromkeys(s.row["protocol"] for s in summaries):
    group = [s for s in summaries if s.row["protocol"] == protocol]
    names = list(dict.fromkeys(name for s in group for name in s.mean))
    lines = [[*fields, "seeds", *map(column_name, names)]]
    lines += [
      [*(s.row[field] for field in fields), str(len(s.seeds)), *map(s.cell, names)]
      for s in group
    ]
    print(f"{aligned(lines, left=3)}\n")
  print(f"rows in {workdir / 'results.jsonl'}, runs in {workdir}/seed_*")


def heading(rows: Sequence[dict]) -> str:
  """A sentence on the system, the data and the seeds of a sweep's rows."""
  row = rows[0]
  seeds = len({row["seed"] for row in rows})
  return (
    f"{row['system']} on {row['dataset']} ({row['features']} features, classes by "
    f"{row['class_embedding']}, split {row['split_version']}), test images; percent, "
    f"mean (standard deviation) of {seeds} seed{'s' if seeds > 1 else ''}"
  )


def _choice(workdir: pathlib.Path) -> str:
  from zsljax.reporting.rows import read_chosen

  chosen = read_chosen(workdir)
  point = ", ".join(f"{k}={v}" for k, v in chosen["point"].items()) or "the config's"
  gamma = "" if chosen["gamma"] is None else f", gamma {chosen['gamma']:.4g}"
  return (
    f"chosen on the validation classes, of {chosen['settings']} settings after "
    f"{chosen['stops']} numbers of steps each, for {chosen['metric']} "
    f"{chosen['value']:.2f} there: {point}; {chosen['step']} steps{gamma}"
  )
