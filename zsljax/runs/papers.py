"""Published results trained again, with their settings and nothing chosen here."""

from __future__ import annotations

from collections.abc import Sequence
import math
import pathlib
from typing import Any

from zsljax.data import StoredDataset
from zsljax.data.store import variants
from zsljax.errors import counted, require
from zsljax.io.files import write_text
from zsljax.reporting.published import Published, Training, names, read_published
from zsljax.reporting.rows import Summary, aligned, column_name, data_of, summarize
from zsljax.reporting.tables import fitted
from zsljax.runs.config import read_config
from zsljax.runs.evaluate import evaluate
from zsljax.runs.train import train


def replay(
  paper: Published,
  dest: pathlib.Path,
  seeds: int,
  data_dir: pathlib.Path | None,
  fields: Sequence[str] = (),
) -> str:
  """Trains with the published settings and compares the last step's test results.

  Args:
    paper: the published result.
    dest: runs go to ``dest/<system>_<dataset>``; an interrupted command continues them.
    seeds: number of runs of each training.
    data_dir: the folder of stored datasets.
    fields: of the config, as in ``--config.matmul_precision=bfloat16``, which go before
      the published ones.

  Returns:
    The comparison as text: expected, got, deviation and verdict of each metric.

  Raises:
    ZsljaxError: the data are not there, or no number can be had again.
  """
  require(seeds >= 1, "--seeds", seeds, "1 or more")
  where = f"--paper={paper.name}"
  reason = _only_in_tables(paper)
  require(not reason, where, reason, "a result that can be trained again, see --list")
  require(
    bool(_forms(paper, data_dir)),
    f"{where} --data_dir={data_dir}",
    f"no {paper.dataset}",
    f"an import of it ({paper.features}), by `{paper.imported_by}`",
  )
  folder = dest.expanduser().absolute() / paper.name.replace("/", "_")
  lines, summary = [], None
  for i, training in enumerate(paper.trainings):
    of_training = None
    if training.not_replayed is None:
      config = _config(paper, training, data_dir, fields)
      runs = [folder / f"training_{i}_seed_{seed}" for seed in range(seeds)]
      of_training = summary = _trained(config, paper.protocol, runs)
    for metric in training.metrics:
      lines.append(_line(paper, training, of_training, metric))
  assert summary is not None
  text = _described(paper, lines, summary, fields)
  write_text(folder / "verdict.txt", text)
  return text


def overview(data_dir: pathlib.Path | None) -> str:
  """All published results, and what is missing here to train each again."""
  parts = []
  for paper in map(read_published, names()):
    values = ", ".join(f"{column_name(k)} {v:g}" for k, v in paper.metrics.items())
    text = f"{paper.name} ({paper.status}): {values}; {_here(paper, data_dir)}"
    parts.append(fitted(text, "    "))
  return "\n".join(parts)


def _here(paper: Published, data_dir: pathlib.Path | None) -> str:
  """Readiness of a result, or what it lacks."""
  if reason := _only_in_tables(paper):
    return f"{reason}: in tables alone"
  forms = _forms(paper, data_dir)
  if any(paper.of_same_data(form.metadata) for form in forms):
    return "ready"
  importing = f"needs {paper.features}, by {paper.imported_by}"
  if paper.stored_as is None:
    importing = f"no import has {paper.features}; others by {paper.imported_by}"
  if forms:
    there = ", ".join(form.variant for form in forms)
    return f"other features: no verdict (here {there}); {importing}"
  return importing


def _only_in_tables(paper: Published) -> str:
  """Reason why nothing of a result can be trained again; empty where something can."""
  if paper.config is None:
    return "no such system in zsljax"
  reasons = [training.not_replayed for training in paper.trainings]
  return "; ".join(filter(None, reasons)) if all(reasons) else ""


def _forms(paper: Published, data_dir: pathlib.Path | None) -> list[StoredDataset]:
  return [] if data_dir is None else variants(data_dir.expanduser(), paper.dataset)


def _config(
  paper: Published,
  training: Training,
  data_dir: pathlib.Path | None,
  fields: Sequence[str],
) -> dict[str, Any]:
  """The config of a training, on the published features where they are stored."""
  same = [f for f in _forms(paper, data_dir) if paper.of_same_data(f.metadata)]
  config = read_config(
    paper.config,
    [
      f"--config.data.dir={data_dir}",
      *(f"--config.data.features={form.variant}" for form in same[:1]),
      *(f"--config.{field}={value}" for field, value in training.fields.items()),
      *fields,
    ],
  )
  if not same:
    config["data"]["num_channels"] = None  # The config's is of the published features.
  return config


def _trained(
  config: dict[str, Any], protocol: str, workdirs: Sequence[pathlib.Path]
) -> Summary:
  """Results of runs with a seed each, calibrated where the config has a gamma."""
  rows = []
  for seed, workdir in enumerate(workdirs):
    train(config | {"seed": seed}, workdir)
    rows.append(evaluate(workdir, protocol=protocol)[-1])
  (summary,) = summarize(rows)
  return summary


def _line(
  paper: Published, training: Training, summary: Summary | None, metric: str
) -> tuple[str, ...]:
  """A metric's name, expected, got, deviation and verdict."""
  expected, got = training.metrics[metric], math.nan
  if summary is not None:
    got = summary.mean.get(metric, math.nan)
  if summary is None:
    verdict = f"{training.not_replayed}: no verdict"
  elif not paper.of_same_data(summary.row):
    verdict = "other features: no verdict"
  elif not paper.of_same_images(summary.row):
    verdict = "other images: no verdict"
  elif not math.isfinite(got):
    verdict = "not measured: no verdict"
  else:
    close = abs(got - expected) <= paper.tolerance
    verdict = "reproduced" if close else "not reproduced"
  cell = "-" if summary is None else summary.cell(metric)
  deviation = f"{got - expected:+.2f}" if math.isfinite(got) else "-"
  return column_name(metric), f"{expected:g}", cell, deviation, verdict


def _described(
  paper: Published,
  lines: Sequence[tuple[str, ...]],
  summary: Summary,
  fields: Sequence[str],
) -> str:
  seeds = len(summary.seeds)
  split = f"{paper.features} features, classes by {paper.class_embedding}, split "
  changed = f"changed here: {' '.join(fields)}\n" if fields else ""
  header = ("metric", "expected", "got", "deviation", "verdict")
  numbers, verdicts = [header[:-1]], [header[-1]]
  numbers += [line[:-1] for line in lines]
  verdicts += [line[-1] for line in lines]
  table = aligned(numbers, left=1).splitlines()
  return (
    f"{paper.name}: {paper.paper}\n"
    f"numbers: {paper.source} ({paper.status}), selected on: {paper.selection}\n"
    f"published on: {split}{paper.split}\n"
    f"here: {data_of(summary.row)}; the last step of {counted(seeds, 'seed')}, mean "
    "(standard deviation), in percent\n"
    f"{changed}\n"
    + "".join(f"{a}  {b}\n" for a, b in zip(table, verdicts, strict=True))
    + f"\nreproduced: within {paper.tolerance:g} of what is published\n"
    + (f"note: {paper.note}\n" if paper.note else "")
  )
