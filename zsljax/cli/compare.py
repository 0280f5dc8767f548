"""Sweeps losses of the softmax family, side by side.

A sweep for each loss, in WORKDIR/<loss>, with the dataset of the config, and
one table.

Example:
  zsljax compare --config=cosine:digits --losses=normface,arcface --workdir=W
"""

from collections.abc import Sequence
import pathlib

from zsljax.cli.common import add_sweep, names

GROUP = "judge"
_ZERO_SHOT = ("t1", "u", "s", "h", "ausuc", "recall@1", "intra", "inter")
_CLOSED_SET = ("accuracy", "recall@1", "map", "eer", "tar@0.001", "intra", "inter")


def add_arguments(parser) -> None:
  add_sweep(parser)
  parser.add_argument(
    "--losses",
    type=names,
    metavar="LOSS,LOSS",
    help="members of the family (default: all)",
  )


def run(args) -> None:
  from zsljax.errors import counted, require_known
  from zsljax.losses import FAMILY, RECONSTRUCTIONS
  from zsljax.reporting.rows import aligned, column_name, data_of, summarize
  from zsljax.runs.config import read_config
  from zsljax.runs.sweep import sweep

  config, _, dataset = args.config.partition(":")
  losses = args.losses or tuple(FAMILY)
  for loss in losses:
    require_known(loss, FAMILY, "--losses")
  workdir = args.workdir.absolute()
  rows = {}
  for loss in losses:
    print(f"{loss}:", flush=True)
    fields = read_config(f"{config}:{dataset},{loss}", args.fields)
    rows[loss] = sweep(fields, args.seeds, workdir / loss, args.folds)
  closed_set = all(row["protocol"] == "embeddings" for row in rows[losses[0]])
  columns = _CLOSED_SET if closed_set else _ZERO_SHOT
  lines = [["loss", *map(column_name, columns), "chosen on folds"]]
  for loss in losses:
    star = "*" if loss in RECONSTRUCTIONS else ""
    cells = _cells(summarize(rows[loss]), columns)
    lines.append([loss + star, *cells, _settings(workdir / loss)])
  row = rows[losses[0]][0]
  print(
    f"\n{row['system']} on {row['dataset']} ({data_of(row)}), test images; percent, "
    f"mean (standard deviation) of {counted(args.seeds, 'seed')}\n\n"
    f"{aligned(lines, left=1)}\n"
  )
  if not closed_set:
    print(
      "t1, u, s, h, ausuc: calibrated as chosen on the folds; recall@1, "
      "intra, inter: of the same runs' embeddings of the test images"
    )
  print(
    "intra, inter: mean cosine, times 100, of two images of one class and of two "
    "classes\n* a reconstruction: the published formula was not at hand"
  )


def _cells(summaries: Sequence, columns: Sequence[str]) -> list[str]:
  """Numbers of ``val_selected``, calibrated where there is a calibration."""
  headline = [s for s in summaries if s.row["selection"] == "val_selected"]
  headline.sort(key=lambda s: s.row["calibration"] == "none")
  cells = []
  for name in columns:
    having = [s for s in headline if name in s.mean]
    cells.append(having[0].cell(name) if having else "-")
  return cells


def _settings(workdir: pathlib.Path) -> str:
  from zsljax.errors import counted
  from zsljax.reporting.rows import read_chosen, short

  chosen = read_chosen(workdir)
  fields = [f"{k.split('.')[-1]} {short(v)}" for k, v in chosen["point"].items()]
  if chosen["share"] is not None:
    fields.append(f"share {chosen['share']:g}")
  return ", ".join([*fields, counted(chosen["step"], "step")])
