"""Chooses settings on class folds, tests seeds.

Tries all combinations of the config's grid (config.grid) on class folds, which
hold out some of the seen classes, and judges them there after several numbers of
steps; trains --seeds runs with what was chosen on all training images, and tests
them. Folds, settings and seeds are trained as one program. The same command again
continues an interrupted sweep. Several processes or machines share the folds where
each has a --part; the command without it then does what is left.

Examples:
  zsljax sweep --config=cosine:digits,cosface --seeds=3 --workdir=W
  zsljax sweep --config=cosine:digits,cosface --workdir=W --part=2/4
"""

import argparse
import pathlib

from zsljax.cli.common import add_sweep
from zsljax.errors import counted

GROUP = "train"


def add_arguments(parser) -> None:
  add_sweep(parser)
  parser.add_argument(
    "--part",
    type=_part,
    metavar="I/N",
    help="only try settings, the I-th of N parts of them, and neither choose nor test",
  )


def _part(text: str) -> tuple[int, int]:
  number, _, count = text.partition("/")
  if not (number.isdecimal() and count.isdecimal()):
    raise argparse.ArgumentTypeError(f"found {text!r}, expected I/N as in 2/4")
  return int(number), int(count)


def run(args) -> None:
  from zsljax.reporting.tables import fitted, make_blocks, render, terminal_width
  from zsljax.runs.config import read_config
  from zsljax.runs.sweep import sweep

  workdir = args.workdir.absolute()
  config = read_config(args.config, args.fields)
  rows = sweep(config, args.seeds, workdir, args.folds, args.part)
  if args.part:
    number, count = args.part
    rest = "without --part, the same command does what is left, chooses and tests"
    print(fitted(f"part {number} of {count} is tried; {rest}"))
    return
  table = render(make_blocks(rows), "terminal", terminal_width())
  print(f"{fitted(_choice(workdir))}\n\n{table}")
  written = args.workdir / "results.jsonl"
  print(fitted(f"rows in {written}, runs in {args.workdir}/seed_*"))


def _choice(workdir: pathlib.Path) -> str:
  from zsljax.reporting.rows import read_chosen

  chosen = read_chosen(workdir)
  assert chosen is not None
  point = ", ".join(f"{k}={v}" for k, v in chosen["point"].items()) or "the config's"
  gamma = ""
  if chosen["share"] is not None:
    gamma = f"; gamma: {chosen['share']:g} of the mean training margin"
  if share := chosen.get("temperature_share"):
    gamma += f", temperature: {share:.3g} of it"
  where = "the dataset's own validation classes"
  value = f"{chosen['metric']} {chosen['value']:.2f}"
  if chosen["folds"] != "official":
    where = f"{chosen['folds']} class folds"
    value += f" (standard error {chosen['standard_error']:.2f})"
  return (
    f"chosen on {where}, of {counted(chosen['settings'], 'setting')} after "
    f"{counted(chosen['stops'], 'number')} of steps each, for {value} there: {point}; "
    f"{counted(chosen['step'], 'step')}{gamma}"
  )
