"""The commands ``sweep`` and ``compare``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import pathlib

from zsljax.cli.flags import read_config
from zsljax.errors import ZsljaxError, did_you_mean
from zsljax.losses import FAMILY, RECONSTRUCTIONS
from zsljax.reporting.rows import (
  Row,
  Summary,
  aligned,
  column_name,
  read_chosen,
  short,
  summarize,
)
from zsljax.runs.sweep import sweep

_ZERO_SHOT = ("t1", "u", "s", "h", "ausuc", "recall@1", "intra", "inter")
_CLOSED_SET = ("accuracy", "recall@1", "map", "eer", "tar@0.001", "intra", "inter")


def sweep_command(args: argparse.Namespace) -> None:
  """One sweep, what it chose, and its rows as means over seeds."""
  workdir = args.workdir.expanduser().absolute()
  rows = sweep(read_config(args.config, args.fields), args.seeds, workdir)
  print(f"{_heading(rows)}\n{_choice(workdir)}\n")
  for summaries in _by_protocol(summarize(rows)):
    names = list(dict.fromkeys(name for s in summaries for name in s.mean))
    lines = [
      ["protocol", "selection", "calibration", "seeds", *map(column_name, names)]
    ]
    lines += [
      [
        s.row["protocol"],
        s.row["selection"],
        s.row["calibration"],
        str(len(s.seeds)),
        *map(s.cell, names),
      ]
      for s in summaries
    ]
    print(f"{aligned(lines, left=3)}\n")
  print(f"rows in {workdir / 'results.jsonl'}, runs in {workdir}/seed_*")


def compare_command(args: argparse.Namespace) -> None:
  """A sweep for each loss, and one line for each."""
  file, _, dataset = args.config.partition(":")
  losses = args.losses or tuple(FAMILY)
  for loss in losses:
    if loss not in FAMILY:
      raise ZsljaxError(f"--losses: unknown {loss!r}. {did_you_mean(loss, FAMILY)}")
  workdir = args.workdir.expanduser().absolute()
  rows = {}
  for loss in losses:
    print(f"{loss}:", flush=True)
    config = read_config(f"{file}:{dataset},{loss}", args.fields)
    rows[loss] = sweep(config, args.seeds, workdir / loss)
  closed_set = all(row["protocol"] == "embeddings" for row in rows[losses[0]])
  names = _CLOSED_SET if closed_set else _ZERO_SHOT
  lines = [["loss", *map(column_name, names), "chosen on validation"]]
  for loss in losses:
    star = "*" if loss in RECONSTRUCTIONS else ""
    cells = _cells(summarize(rows[loss]), names)
    lines.append([loss + star, *cells, _settings(workdir / loss)])
  print(f"\n{_heading(rows[losses[0]])}\n\n{aligned(lines, left=1)}\n")
  if not closed_set:
    print(
      "t1, u, s, h, ausuc: calibrated with the gamma chosen on validation; recall@1, "
      "intra, inter: of the same runs' embeddings of the test images"
    )
  print(
    "intra, inter: mean cosine, times 100, of two images of one class and of two "
    "classes\n* a reconstruction: the published formula was not at hand"
  )


def _cells(summaries: Sequence[Summary], names: Sequence[str]) -> list[str]:
  """Of the headline: ``val_selected``, calibrated where there is a calibration."""
  headline = [s for s in summaries if s.row["selection"] == "val_selected"]
  headline.sort(key=lambda s: s.row["calibration"] == "none")
  cells = []
  for name in names:
    having = [s for s in headline if name in s.mean]
    cells.append(having[0].cell(name) if having else "-")
  return cells


def _by_protocol(summaries: Sequence[Summary]) -> list[list[Summary]]:
  groups: dict[str, list[Summary]] = {}
  for summary in summaries:
    groups.setdefault(summary.row["protocol"], []).append(summary)
  return list(groups.values())


def _heading(rows: Sequence[Row]) -> str:
  row = rows[0]
  seeds = len({row["seed"] for row in rows})
  return (
    f"{row['system']} on {row['dataset']} ({row['features']} features, classes by "
    f"{row['class_embedding']}, split {row['split_version']}), test images; percent, "
    f"mean (standard deviation) of {seeds} seed{'s' if seeds > 1 else ''}"
  )


def _choice(workdir: pathlib.Path) -> str:
  chosen = read_chosen(workdir)
  point = ", ".join(f"{k}={v}" for k, v in chosen["point"].items()) or "the config's"
  gamma = "" if chosen["gamma"] is None else f", gamma {chosen['gamma']:.4g}"
  return (
    f"chosen on the validation classes, of {chosen['settings']} settings after "
    f"{chosen['stops']} numbers of steps each, for {chosen['metric']} "
    f"{chosen['value']:.2f} there: {point}; {chosen['step']} steps{gamma}"
  )


def _settings(workdir: pathlib.Path) -> str:
  chosen = read_chosen(workdir)
  fields = [f"{k.split('.')[-1]} {short(v)}" for k, v in chosen["point"].items()]
  if chosen["gamma"] is not None:
    fields.append(f"gamma {chosen['gamma']:.3g}")
  return ", ".join([*fields, f"{chosen['step']} steps"])
