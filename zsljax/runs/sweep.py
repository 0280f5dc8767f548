"""A sweep: settings chosen on validation classes, then trained and tested once.

Every point of the config's grid is trained without the validation classes (and without
a fifth of the other images) and evaluated on them at several numbers of steps. The best
point, number of steps and gamma are kept; runs with several seeds are then trained on
all of trainval for that number of steps and scored on the test images.

Both use the schedule of a training run on trainval, so that a number of steps means the
same in both. The test images never decide anything but the rows called ``test_oracle``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import copy
import dataclasses
import itertools
import json
import pathlib
import shutil
import time
from typing import Any

import jax
import numpy as np
import tqdm

from zsljax import training
from zsljax.devices.precision import computed_in
from zsljax.errors import ZsljaxError, did_you_mean, require
from zsljax.evaluation import Report, make_evaluator
from zsljax.evaluation.evaluator import selection_value
from zsljax.evaluation.protocols import EMBEDDINGS, XIAN
from zsljax.io.files import append_line, locked, read_lines, write_json
from zsljax.io.progress import step_bar
from zsljax.models import Embeds
from zsljax.reporting.curves import write_curve
from zsljax.reporting.rows import CHOSEN, Row, add_rows, read_chosen, read_rows
from zsljax.runs.evaluation_set import EvaluationSet
from zsljax.runs.experiment import Experiment
from zsljax.runs.vmapped import RunSettings, VmappedRuns, vmappable_fields
from zsljax.runs.workdir import flat, open_workdir
from zsljax.training.checkpoints import Checkpoints

Point = dict[str, Any]

_SEARCH, _TIME = "search.jsonl", "time.json"


def sweep(config: Mapping[str, Any], seeds: int, workdir: pathlib.Path) -> list[Row]:
  """Chooses, trains and tests; an interrupted sweep goes on where it was.

  In ``workdir``: ``search.jsonl`` has what every point reached on the validation
  classes, ``chosen.json`` what was chosen, ``results.jsonl`` the rows, and ``seed_0``,
  ``seed_1``, ... are the chosen runs, as ``train.py`` would have left them.

  Args:
    config: all fields, nested, plain values; ``data.train_split`` is not looked at.
    seeds: number of runs that are tested, the first with ``config.seed``.
    workdir: the sweep's folder.

  Returns:
    Rows of each seed: ``val_selected`` without and with the chosen gamma, ``last``
    (after all steps), and ``test_oracle`` (steps and gamma best on the test images).

  Raises:
    ZsljaxError: a field of the config does not fit; all points diverge.
  """
  require(seeds >= 1, "--seeds", seeds, "1 or more")
  selection = config["selection"]
  for field in ("stops", "seeds", "together"):
    value = selection[field]
    require(value >= 1, f"config.selection.{field}", value, "1 or more")
  points = grid_points(config)
  whole = Experiment.build(_on(config, "trainval"))
  total = whole.training_data().total_steps(config["epochs"])
  stops = _stops(total, selection["stops"])
  with (
    locked(workdir / ".lock", f"{workdir}: another process is training there"),
    computed_in(config["matmul_precision"]),
  ):
    recorded = {**whole.config, "data": {**whole.config["data"], "train_split": None}}
    open_workdir(workdir, recorded, whole.dataset.metadata, sweep=True)
    begin = time.perf_counter()
    chosen = _chosen(config, points, stops, workdir)
    config = with_values(_on(config, "trainval"), chosen["point"])
    rows = read_rows(workdir)
    found = {row["seed"] for row in rows}
    wanted = {config["seed"] + i for i in range(seeds)}
    if missing := sorted(wanted - found):
      for some in _pieces(missing, selection["together"]):
        _test(Experiment.build(config), some, stops, chosen, workdir)
      rows = read_rows(workdir)
      seconds = seconds_of(workdir) + time.perf_counter() - begin
      write_json(workdir / _TIME, {"seconds": seconds})
    return [row for row in rows if row["seed"] in wanted]


def seconds_of(workdir: pathlib.Path) -> float:
  """Duration of the sweep in ``workdir``: of all its starts that came to an end."""
  path = workdir / _TIME
  return json.loads(path.read_text())["seconds"] if path.exists() else 0.0


def grid_points(config: Mapping[str, Any]) -> list[Point]:
  """All combinations of the grid's values, each by its dotted fields.

  Raises:
    ZsljaxError: a field is not the system's or the optimizer's, or has no values.
  """
  grid, fields = flat(config["grid"]), flat(config)
  known = [field for field in fields if field.startswith(("system.", "optimizer."))]
  for field, values in grid.items():
    if field not in known:
      raise ZsljaxError(
        f"config.grid.{field}: no field of the system or the optimizer. "
        f"{did_you_mean(field, known)}"
      )
    require(
      isinstance(values, tuple | list) and len(values) > 0,
      f"config.grid.{field}",
      repr(values),
      "values to try, as in (1e-4, 1e-3)",
    )
  return [
    dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
  ]


def with_values(config: Mapping[str, Any], point: Point) -> dict[str, Any]:
  """The config with some of its fields, named by their dots, set."""
  config = copy.deepcopy(dict(config))
  for field, value in point.items():
    *parts, name = field.split(".")
    part = config
    for key in parts:
      part = part[key]
    part[name] = value
  return config


def _on(config: Mapping[str, Any], split: str) -> dict[str, Any]:
  return with_values(config, {"data.train_split": split})


def _stops(total: int, count: int) -> list[int]:
  """Up to ``count`` numbers of steps, evenly spaced, the last ``total``."""
  return sorted({-(-total * (i + 1) // count) for i in range(count)})


def _pieces(items: Sequence, size: int) -> Iterator[Sequence]:
  for start in range(0, len(items), size):
    yield items[start : start + size]


def _chosen(
  config: Mapping[str, Any],
  points: Sequence[Point],
  stops: Sequence[int],
  workdir: pathlib.Path,
) -> dict[str, Any]:
  """The best point, steps and gamma; tries first what was not tried yet."""
  if chosen := read_chosen(workdir):
    return chosen
  config = _on(config, "train")
  tried = _tried(workdir)
  left = [p for p in points if any((_key(p), stop) not in tried for stop in stops)]
  groups = list(_groups(config, left))
  with step_bar(
    len(points) * stops[-1],
    f"choosing among {len(points)} settings",
    (len(points) - len(left)) * stops[-1],
  ) as bar:
    for run, group in groups:
      _try(run, group, stops, workdir, bar)
  finite = [line for line in _tried(workdir).values() if line["value"] is not None]
  if not finite:
    raise ZsljaxError(
      f"{workdir}: the loss of all {len(points)} settings is not finite: lower the "
      "learning rates of config.grid"
    )
  best = max(finite, key=lambda line: line["value"])
  chosen = best | {"settings": len(points), "stops": len(stops)}
  write_json(workdir / CHOSEN, chosen)
  return chosen


def _tried(workdir: pathlib.Path) -> dict[tuple, dict[str, Any]]:
  lines = read_lines(workdir / _SEARCH)
  return {(_key(line["point"]), line["step"]): line for line in lines}


def _key(point: Point) -> str:
  return json.dumps(point, sort_keys=True)


def _groups(
  config: Mapping[str, Any], points: Sequence[Point]
) -> Iterator[tuple[Experiment, list[Point]]]:
  """Points that can be trained as one program, with the experiment of the first."""
  grouped: dict[str, tuple[Experiment, list[Point]]] = {}
  for point in points:
    run = Experiment.build(with_values(config, point))  # Checks the point's values.
    numbers = vmappable_fields(run.system)
    fixed = {field: value for field, value in point.items() if field not in numbers}
    _, group = grouped.setdefault(_key(fixed), (run, []))
    group.append(point)
  together = max(1, config["selection"]["together"] // config["selection"]["seeds"])
  for run, group in grouped.values():
    for some in _pieces(group, together):
      yield run, list(some)


def _try(
  run: Experiment,
  points: Sequence[Point],
  stops: Sequence[int],
  workdir: pathlib.Path,
  bar: tqdm.tqdm,
) -> None:
  """Trains the points together and writes their values to ``search.jsonl``."""
  config = run.config
  images, count = EvaluationSet.placed(run, "val"), config["selection"]["seeds"]
  numbers = vmappable_fields(run.system)
  variants = [
    RunSettings(config["seed"] + i, {k: v for k, v in point.items() if k in numbers})
    for point in points
    for i in range(count)
  ]
  runs = VmappedRuns(run, variants, stops[-1])
  lines = []
  for stop, state in runs.states(stops, lambda n: bar.update(n * len(points))):
    reports = _reports(runs, images, state)
    for i, point in enumerate(points):
      of_seeds = reports[i * count : (i + 1) * count]
      value, calibration = selection_value(of_seeds, images.metric)
      lines.append(
        {
          "point": point,
          "step": stop,
          "metric": images.metric,
          "value": value if np.isfinite(value) else None,
          "gamma": calibration and calibration.gamma,
          "seeds": [config["seed"] + seed for seed in range(count)],
          "metrics": [report and report.metrics for report in of_seeds],
        }
      )
  for line in lines:
    append_line(workdir / _SEARCH, line)


def _test(
  run: Experiment,
  seeds: Sequence[int],
  stops: Sequence[int],
  chosen: Mapping[str, Any],
  workdir: pathlib.Path,
) -> None:
  """Trains on trainval, and adds the runs and their rows to ``workdir``."""
  images = EvaluationSet.placed(run, "test")
  embedded = dataclasses.replace(images, evaluator=make_evaluator(EMBEDDINGS))
  runs = VmappedRuns(run, [RunSettings(seed) for seed in seeds], stops[-1])
  of_stop: dict[int, list[Report]] = {}
  rows: list[Row] = []
  with step_bar(len(seeds) * stops[-1], f"training {len(seeds)} seeds") as bar:
    for stop, state in runs.states(stops, lambda n: bar.update(n * len(seeds))):
      reports = _reports(runs, images, state)
      if None in reports:
        raise ZsljaxError(
          f"{workdir}: the loss of seed {seeds[reports.index(None)]} is not finite "
          f"by step {stop} on trainval, with what was chosen on the validation classes"
        )
      of_stop[stop] = reports
      if stop == chosen["step"]:
        _save(run, seeds, state, workdir)
        if images.evaluator.protocol == XIAN and isinstance(run.system, Embeds):
          for seed, report in zip(seeds, _reports(runs, embedded, state), strict=True):
            one = run.with_seed(seed)
            rows.append(_row(one, embedded, report, stop, "val_selected", chosen))
  for i, seed in enumerate(seeds):
    own = {stop: reports[i] for stop, reports in of_stop.items()}
    of_seed = _rows_of_seed(run.with_seed(seed), own, images, chosen)
    if curve := own[chosen["step"]].curve:
      marked = [row for row in of_seed if row["selection"] == "val_selected"]
      write_curve(workdir / f"seed_{seed}", "test", curve, marked)
    rows += of_seed
  add_rows(workdir, rows)


def _reports(runs: VmappedRuns, images: EvaluationSet, state) -> list[Report | None]:
  """The report of each run; None of those that are not finite."""
  return [
    None if outputs is None else images.report(outputs)
    for outputs in runs.outputs(images, state)
  ]


def _rows_of_seed(
  run: Experiment,
  reports: Mapping[int, Report],
  images: EvaluationSet,
  chosen: Mapping[str, Any],
) -> list[Row]:
  """Rows of one seed, from its reports by number of steps."""
  best = max(reports, key=lambda n: selection_value([reports[n]], images.metric)[0])
  _, oracle = selection_value([reports[best]], images.metric)
  at, last = chosen["step"], max(reports)
  rows = [_row(run, images, reports[at], at, "val_selected", chosen)]
  if oracle is None:
    rows.append(_row(run, images, reports[last], last, "last", chosen))
    return [*rows, _row(run, images, reports[best], best, "test_oracle", chosen)]
  of_val, of_test = reports[at].calibrated, reports[best].calibrated
  assert of_val is not None and of_test is not None
  gamma = dataclasses.replace(images.calibration, gamma=chosen["gamma"])
  report, origin = of_val(gamma), "highest mean H on val"
  rows.append(_row(run, images, report, at, "val_selected", chosen, origin))
  rows.append(_row(run, images, reports[last], last, "last", chosen))
  report, origin = of_test(oracle), "highest H on test"
  return [*rows, _row(run, images, report, best, "test_oracle", chosen, origin)]


def _row(
  run: Experiment,
  images: EvaluationSet,
  report: Report,
  stop: int,
  selection: str,
  chosen: Mapping[str, Any],
  gamma_from: str = "no calibration",
) -> Row:
  """A result row that also says how its settings were chosen."""
  return run.row(
    images.evaluator.protocol,
    report,
    step=stop,
    selection=selection,
    gamma_from=gamma_from,
    chosen={k: chosen[k] for k in ("point", "step", "metric", "value", "settings")},
  )


def _save(run: Experiment, seeds: Sequence[int], state, workdir: pathlib.Path) -> None:
  """The runs as ``train.py`` leaves them, each with what it was chosen by."""
  for i, seed in enumerate(seeds):
    own = jax.tree.map(lambda x, i=i: x[i], state)
    one = run.with_seed(seed)
    folder = workdir / f"seed_{seed}"
    meta, classes = one.dataset.metadata, one.dataset.classes
    open_workdir(folder, one.config, meta, classes)
    checkpoints = Checkpoints(folder, one.identity())
    if checkpoints.latest_step() is None:
      checkpoints.save(int(own.step), own.params, training.without_params(own))
    checkpoints.close()
    shutil.copyfile(workdir / CHOSEN, folder / CHOSEN)
