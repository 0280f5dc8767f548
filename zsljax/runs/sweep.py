"""A sweep: settings chosen on class folds, then trained and tested once.

Every point of the config's grid is trained on each class fold (see ``data.folds``) and
evaluated there at several numbers of steps. The mean over folds chooses the point, the
number of steps and the calibration, by the rule of ``selection``; runs with several
seeds are then trained on all of trainval for that number of steps and scored on the
test images.

Folds and runs use the schedule of a training run on trainval, so that a number of steps
means the same in both. The test images never decide anything but the rows called
``test_oracle``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
import pathlib
import time
from typing import Any

import numpy as np
import tqdm

from zsljax import training
from zsljax.data.folds import Fold
from zsljax.devices.precision import computed_in
from zsljax.errors import ZsljaxError, counted, require
from zsljax.evaluation import Report, make_evaluator, with_thresholds
from zsljax.evaluation.calibration import Calibration, margin_rows, of_share
from zsljax.evaluation.protocols import EMBEDDINGS, XIAN
from zsljax.evaluation.temperature import probabilities
from zsljax.io.files import append_line, locked, read_lines, write_json
from zsljax.io.json_files import (
  COUNT,
  NUMBER,
  OBJECT,
  TEXT,
  list_of,
  object_of,
  or_none,
  read_json,
)
from zsljax.io.progress import step_bar
from zsljax.models import MULTI_LABEL, Embeds
from zsljax.reporting.class_accuracy import write_class_accuracy
from zsljax.reporting.curves import write_curve
from zsljax.reporting.rows import (
  CHOSEN,
  RULE,
  Row,
  add_rows,
  kept_choice,
  read_chosen,
  read_rows,
)
from zsljax.runs.comparison import save_hits
from zsljax.runs.evaluation_set import EvaluationSet
from zsljax.runs.experiment import Experiment
from zsljax.runs.on_folds import (
  OFFICIAL,
  calibrated,
  drawn_folds,
  in_programs,
  pieces_of,
  scored_on_folds,
  trained_images,
  val_images,
)
from zsljax.runs.selection import Point, choose, grid_points, point_key, with_values
from zsljax.runs.vmapped import RunSettings, VmappedRuns, one_of, vmappable_fields
from zsljax.runs.workdir import open_workdir
from zsljax.training.checkpoints import Checkpoints

# Reports and mean training margins of one run by number of steps, by point.
_ByPoint = dict[str, dict[int, tuple[Report, float]]]
# Reselections, each on as many folds drawn from those there are.
RESELECTIONS = 5

_TIME = "time.json"
_LINE = object_of(
  point=OBJECT, fold=COUNT, seed=COUNT, step=COUNT, metric=TEXT, value=or_none(NUMBER)
)
_LINE["properties"]["h"] = list_of(NUMBER)


def sweep(
  config: Mapping[str, Any],
  seeds: int,
  workdir: pathlib.Path,
  folds: str = "5",
  part: tuple[int, int] | None = None,
) -> list[Row]:
  """Chooses, trains and tests; an interrupted sweep goes on where it was.

  In ``workdir``: ``search.jsonl``, of a part ``search_1_of_4.jsonl``, has what points
  reached on the folds, ``chosen.json`` what was chosen, ``results.jsonl`` the rows, and
  ``seed_0``, ``seed_1``, ... are the chosen runs, as ``train.py`` would have left them.

  Args:
    config: all fields, nested, plain values; ``data.train_split`` is not looked at.
    seeds: number of runs that are tested, the first with ``config.seed``.
    workdir: the sweep's folder.
    folds: number of class folds; or ``official``, the dataset's own validation classes.
    part: I and N: only tries, of the programs on folds, the I-th of N parts, counted
      from 1, beside other processes; the sweep without it then does the rest.

  Returns:
    Rows of each seed: ``val_selected`` without and with the chosen gamma, ``last``
    (after all steps), and ``test_oracle`` (steps and gamma best on the test images).
    None of a part.

  Raises:
    ZsljaxError: a field of the config does not fit; all points diverge.
  """
  require(seeds >= 1, "--seeds", seeds, "1 or more")
  require(
    folds == OFFICIAL or (folds.isdecimal() and int(folds) >= 2),
    "--folds",
    repr(folds),
    f"2 or more, or {OFFICIAL}",
  )
  number, count = part or (1, 1)
  require(1 <= number <= count, "--part", f"{number}/{count}", "1/N to N/N")
  of_part = f"_{number}_of_{count}" if part else ""
  selection = config["selection"]
  for field in ("stops", "seeds", "together"):
    value = selection[field]
    require(value >= 1, f"config.selection.{field}", value, "1 or more")
  config = with_values(config, {"data.train_split": "trainval"})
  points = grid_points(config)
  whole = Experiment.build(config)
  total = whole.training_data().total_steps(config["epochs"])
  stops = _stops(total, selection["stops"])
  with (
    locked(
      workdir / f".lock{of_part}", f"{workdir}: another process is training there"
    ),
    computed_in(config["matmul_precision"]),
  ):
    recorded = with_values(
      whole.config, {"data.train_split": None, "selection.folds": folds}
    )
    open_workdir(workdir, recorded, whole.dataset.metadata, sweep=True)
    begin = time.perf_counter()
    rows = read_rows(workdir)
    search = _Search(config, points, stops, workdir, folds, whole.system.task)
    search.tries(workdir / f"search{of_part}.jsonl", number, count)
    if part:
      return []
    chosen = search.chosen()
    found = {row["seed"] for row in rows}
    wanted = {config["seed"] + i for i in range(seeds)}
    if missing := sorted(wanted - found):
      spread = {
        row["calibration"]: row["spread"]["selections"]
        for row in rows
        if "selections" in row.get("spread", {})
      }
      others = {} if spread else _others(config, chosen, missing[0], stops)
      run = Experiment.build(with_values(config, chosen["point"]))
      final = _Final(run, stops, chosen)
      for some in pieces_of(missing, selection["together"]):
        spread = _test(final, some, chosen, others, spread, workdir)
      rows = read_rows(workdir)
      add_seconds(workdir, time.perf_counter() - begin)
    return [row for row in rows if row["seed"] in wanted]


def seconds_of(workdir: pathlib.Path) -> float:
  """Duration of a sweep, of all its starts that came to an end; or of an ensemble.

  With ``add_seconds``, ``fit`` counts its sweeps and their choice to an ensemble.
  """
  path = workdir / _TIME
  if not path.exists():
    return 0.0
  return read_json(path, object_of(seconds=NUMBER), "a sweep's seconds")["seconds"]


def add_seconds(workdir: pathlib.Path, seconds: float) -> None:
  """Adds to what ``seconds_of`` gives."""
  write_json(workdir / _TIME, {"seconds": seconds_of(workdir) + seconds})


def _stops(total: int, count: int) -> list[int]:
  """Up to ``count`` numbers of steps, evenly spaced, the last ``total``."""
  return sorted({-(-total * (i + 1) // count) for i in range(count)})


def _groups(
  config: Mapping[str, Any], points: Sequence[Point]
) -> Iterator[tuple[Experiment, list[Point]]]:
  """Points that can be trained as one program, with the experiment of the first."""
  grouped: dict[str, tuple[Experiment, list[Point]]] = {}
  for point in points:
    run = Experiment.build(with_values(config, point))  # Checks the point's values.
    numbers = vmappable_fields(run.system)
    fixed = {field: value for field, value in point.items() if field not in numbers}
    _, group = grouped.setdefault(point_key(fixed), (run, []))
    group.append(point)
  yield from grouped.values()


def _settings(
  run: Experiment, point: Point, seed: int, fold: Fold | None = None
) -> RunSettings:
  numbers = vmappable_fields(run.system)
  return RunSettings(seed, {k: v for k, v in point.items() if k in numbers}, fold)


@dataclasses.dataclass(frozen=True)
class _Search:
  """The choice of a sweep, in ``workdir``."""

  config: Mapping[str, Any]
  points: Sequence[Point]
  stops: Sequence[int]
  workdir: pathlib.Path
  folds: str
  task: str

  def tries(self, path: pathlib.Path, number: int = 1, count: int = 1) -> None:
    """Tries what was not tried yet of a part, and writes it to ``path``."""
    if read_chosen(self.workdir):
      return
    runs = len(self.points) * self._count * self.config["selection"]["seeds"]
    own = (program % count == number - 1 for program in itertools.count())
    groups = list(_groups(self.config, self.points))  # Or it raises, before the work.
    with step_bar(
      runs * self.stops[-1],
      f"choosing among {len(self.points)} settings on {self._count} folds",
    ) as bar:
      for run, points in groups:
        self._try(run, points, own, path, bar)

  def _lines(self) -> list[dict[str, Any]]:
    """Lines of all parts, in the order of the grid."""
    paths = sorted(self.workdir.glob("search*.jsonl"))
    lines = [line for path in paths for line in read_lines(path, _LINE)]
    places = {point_key(point): i for i, point in enumerate(self.points)}

    def place(line: Mapping[str, Any]) -> tuple[int, ...]:
      point = places.get(point_key(line["point"]), len(places))
      return point, line["step"], line["fold"], line["seed"]

    return sorted(lines, key=place)

  def chosen(self) -> dict[str, Any]:
    """The choice, of all that was tried."""
    if chosen := read_chosen(self.workdir):
      return chosen
    lines = self._lines()
    metric, everything = lines[0]["metric"], list(range(self._count))
    try:
      chosen = choose(lines, everything)
    except ZsljaxError as error:
      raise ZsljaxError(f"{self.workdir}: {error}") from error
    rng = np.random.default_rng(0)
    reselected = []
    if self._count > 1:
      draws = [rng.choice(everything, self._count) for _ in range(RESELECTIONS)]
      reselected = [choose(lines, draw.tolist()) for draw in draws]
    chosen |= {
      "rule": RULE,
      "metric": metric,
      "settings": len(self.points),
      "stops": len(self.stops),
      "folds": self.folds,
      "reselected": [{k: r[k] for k in ("point", "step", "share")} for r in reselected],
    }
    if chosen["share"] is not None or self.task == MULTI_LABEL:
      run = Experiment.build(with_values(self.config, chosen["point"]))
      runs = VmappedRuns(run, self.stops[-1])
      folds = drawn_folds(run, runs.labels, self.folds)
      seeds, what = [self.config["seed"]], "choosing a calibration on the folds"
      labels, scores = scored_on_folds(runs, folds, seeds, chosen["step"], what)
      chosen |= calibrated(labels, [own for (own,) in scores], chosen["share"])
    write_json(self.workdir / CHOSEN, chosen)
    return chosen

  @property
  def _count(self) -> int:
    return 1 if self.folds == OFFICIAL else int(self.folds)

  def _try(
    self,
    run: Experiment,
    points: Sequence[Point],
    own: Iterator[bool],
    path: pathlib.Path,
    bar: tqdm.tqdm,
  ) -> None:
    """Trains the points on all folds, in ``own`` programs, and writes their values.

    The same runs share a program however often a search is interrupted, and in how many
    parts it is made, so that it comes to the same choice.
    """
    selection = self.config["selection"]
    seeds = [self.config["seed"] + i for i in range(selection["seeds"])]
    pieces = in_programs(run.config, points, range(self._count), seeds)
    tried = {
      (point_key(line["point"]), line["fold"], line["seed"], line["step"])
      for line in self._lines()
    }

    def done(point, fold, seed):
      return all((point_key(point), fold, seed, stop) in tried for stop in self.stops)

    left = [x for x in pieces if next(own) and not all(done(*one) for one in x)]
    bar.update((sum(map(len, pieces)) - sum(map(len, left))) * self.stops[-1])
    if not left:
      return
    runs = VmappedRuns(run, self.stops[-1])
    drawn = drawn_folds(run, runs.labels, self.folds)
    val, trained = val_images(runs, drawn), None
    if val[0].evaluator.protocol == XIAN:
      trained = trained_images(runs, drawn)
    for piece in left:
      settings = [_settings(run, point, seed, drawn[f]) for point, f, seed in piece]
      lines, size = [], len(piece)
      for stop, state, finite in runs.states(
        settings, self.stops, lambda n, size=size: bar.update(n * size)
      ):
        used = [fold for _, fold, _ in piece]
        reports = _reports(runs, settings, [val[f] for f in used], state, finite)
        margins = [None] * len(piece)
        if trained is not None:
          margins = _margins(runs, settings, [trained[f] for f in used], state)
        for (point, fold, seed), report, margin in zip(
          piece, reports, margins, strict=True
        ):
          line = {"point": point, "fold": fold, "seed": seed, "step": stop}
          lines.append(line | _value(report, val[0].metric, margin))
      for line in lines:
        append_line(path, line)


def _value(
  report: Report | None, metric: str, mean_margin: float | None
) -> dict[str, Any]:
  """The results of a run on a fold; without a value where it is not finite."""
  line: dict[str, Any] = {"metric": metric, "value": None, "metrics": None}
  if report is not None and np.isfinite(report.metrics[metric]):
    line |= {"value": report.metrics[metric], "metrics": report.metrics}
    if report.curve is not None:
      assert mean_margin is not None
      line["h"] = np.round(report.curve.h_of_shares(mean_margin), 3).tolist()
  return line


def _reports(
  runs: VmappedRuns,
  settings: Sequence[RunSettings],
  images: Sequence[EvaluationSet],
  state: training.TrainState,
  finite: np.ndarray,
) -> list[Report | None]:
  """The report of each run on its images; None of those that are not finite."""
  outputs = runs.outputs(settings, images, state)
  return [
    own.report(out) if ok else None
    for own, out, ok in zip(images, outputs, finite, strict=True)
  ]


def _margins(
  runs: VmappedRuns,
  settings: Sequence[RunSettings],
  images: Sequence[EvaluationSet],
  state: training.TrainState,
  kind: str | None = None,
) -> list[float]:
  """The mean margin of each run on its images."""
  outputs = runs.outputs(settings, images, state)
  return [own.mean_margin(out, kind) for own, out in zip(images, outputs, strict=True)]


class _Final:
  """Runs on trainval, scored on the test images at every stop.

  Mean training margins are computed at the steps that ``chosen`` or a reselection has.
  """

  def __init__(self, run: Experiment, stops: Sequence[int], chosen: Mapping[str, Any]):
    self.run, self.stops = run, stops
    self._steps = {one["step"] for one in (chosen, *chosen["reselected"])}
    self.runs = VmappedRuns(run, stops[-1])
    self.images = EvaluationSet.placed(run, "test")
    self.trained: EvaluationSet | None = None
    if self.images.evaluator.protocol == XIAN:
      places = margin_rows(len(self.runs.labels))
      self.trained = self.runs.images(None, places, len(places))

  def scored(
    self, settings: Sequence[RunSettings], what: str = "run"
  ) -> Iterator[tuple[int, training.TrainState, list[Report | None], list[float]]]:
    """Yields each stop with the states, the reports and the mean training margins.

    ``what`` is one of the runs, as the progress names it.
    """
    everyone, trained = len(settings), self.trained
    with step_bar(
      everyone * self.stops[-1], f"training {counted(everyone, what)}"
    ) as bar:
      for stop, state, finite in self.runs.states(
        settings, self.stops, lambda n: bar.update(n * everyone)
      ):
        images = [self.images] * everyone
        reports = _reports(self.runs, settings, images, state, finite)
        margins = [0.0] * everyone
        if trained is not None and stop in self._steps:
          margins = _margins(self.runs, settings, [trained] * everyone, state)
        yield stop, state, reports, margins


def _others(
  config: Mapping[str, Any],
  chosen: Mapping[str, Any],
  seed: int,
  stops: Sequence[int],
) -> _ByPoint:
  """Test results of the points that only reselections choose."""
  points = {point_key(one["point"]): one["point"] for one in chosen["reselected"]}
  points.pop(point_key(chosen["point"]), None)
  results: _ByPoint = {}
  for run, group in _groups(config, list(points.values())):
    settings = [_settings(run, point, seed) for point in group]
    for stop, _, reports, margins in _Final(run, stops, chosen).scored(
      settings, "other setting"
    ):
      for point, report, margin in zip(group, reports, margins, strict=True):
        if report is not None:
          results.setdefault(point_key(point), {})[stop] = report, margin
  return results


def _spread(
  reselected: Sequence[Mapping[str, Any]], results: _ByPoint, kind: str
) -> dict[str, dict[str, float]]:
  """Standard deviations of test metrics over the reselections.

  Returns:
    Without a calibration (``none``) and with one (``kind``): by metric, in points.
  """
  found: dict[str, list[dict[str, float]]] = {}
  for one in reselected:
    if own := results.get(point_key(one["point"]), {}).get(one["step"]):
      report, margin = own
      found.setdefault("none", []).append(report.metrics)
      if report.calibrated is not None:
        calibrated = report.calibrated(of_share(one["share"], margin, kind))
        found.setdefault(kind, []).append(calibrated.metrics)
  return {
    name: {m: round(float(np.std([x[m] for x in of], ddof=1)), 6) for m in of[0]}
    for name, of in found.items()
    if len(of) > 1
  }


def _test(
  final: _Final,
  seeds: Sequence[int],
  chosen: Mapping[str, Any],
  others: _ByPoint,
  spread: Mapping[str, Mapping[str, float]],
  workdir: pathlib.Path,
) -> Mapping[str, Mapping[str, float]]:
  """Trains on trainval, and adds the runs and their rows to ``workdir``.

  Args:
    final: of the chosen point.
    seeds: of the runs.
    chosen: the choice.
    others: test results of points that reselections choose, with the first seed.
    spread: over selections; computed with the first of ``seeds`` when empty.
    workdir: the sweep's folder.

  Returns:
    The spread.
  """
  run, images = final.run, final.images
  embedded = dataclasses.replace(images, evaluator=make_evaluator(EMBEDDINGS))
  settings = [RunSettings(seed) for seed in seeds]
  of_stop: dict[int, list[Report]] = {}
  of_first: dict[int, tuple[Report, float]] = {}
  embeddings: list[Report] = []
  at_chosen: list[Report] = []
  gammas: list[Calibration | None] = [None] * len(seeds)
  chances: list[dict[str, float]] = [{}] * len(seeds)
  for stop, state, reports, margins in final.scored(settings):
    if None in reports:
      raise ZsljaxError(
        f"{workdir}: the loss of seed {seeds[reports.index(None)]} is not finite "
        f"by step {stop} on trainval, with what was chosen on the folds"
      )
    of_stop[stop], of_first[stop] = reports, (reports[0], margins[0])
    if stop == chosen["step"]:
      if images.evaluator.protocol == XIAN:
        kind = images.calibration.kind
        gammas = [of_share(chosen["share"], margin, kind) for margin in margins]
        chances = _chances(final, settings, state, gammas, chosen)
      _save(run, seeds, state, gammas, chances, chosen, workdir)
      if "thresholds" in chosen:
        evaluator = with_thresholds(images.evaluator, chosen, images.classes)
        own_images = dataclasses.replace(images, evaluator=evaluator)
        finite, everyone = np.ones(len(seeds), bool), [own_images] * len(seeds)
        reports = _reports(final.runs, settings, everyone, state, finite)
      at_chosen = reports
      if images.evaluator.protocol == XIAN and isinstance(run.system, Embeds):
        outputs = final.runs.outputs(settings, [embedded], state)
        embeddings = [embedded.report(out) for out in outputs]
  if not spread:
    results = {**others, point_key(chosen["point"]): of_first}
    spread = _spread(chosen["reselected"], results, images.calibration.kind)
  make_row = functools.partial(_row, chosen=chosen, spread=spread)
  rows: list[Row] = []
  for i, seed in enumerate(seeds):
    one, own = run.with_seed(seed), {n: reports[i] for n, reports in of_stop.items()}
    if embeddings:
      step = chosen["step"]
      row = make_row(one, embedded, embeddings[i], step, "val_selected", spread={})
      rows.append(row)
    at, last = chosen["step"], max(own)
    plain = make_row(one, images, at_chosen[i], at, "val_selected")
    rows.append(plain)
    rows.append(make_row(one, images, own[last], last, "last"))
    calibration, calibrated = gammas[i], own[at].calibrated
    if calibration is None or calibrated is None:
      best = max(own, key=lambda n: own[n].metrics[images.metric])
      rows.append(make_row(one, images, own[best], best, "test_oracle"))
      continue
    report = calibrated(calibration)
    origin = f"{chosen['share']:g} of the mean training margin, highest H on folds"
    lowered = make_row(
      one, images, report, at, "val_selected", origin, chances=chances[i]
    )
    rows.append(lowered)
    save_hits(workdir / f"seed_{seed}", run.dataset, report.hits)
    oracles = {n: _at_its_best(report) for n, report in own.items()}
    best = max(oracles, key=lambda n: oracles[n].metrics["h"])
    origin = "highest H on test"
    rows.append(make_row(one, images, oracles[best], best, "test_oracle", origin))
    folder, names = workdir / f"seed_{seed}", images.classes.names
    write_curve(folder, "test", own[at].curve, [plain, lowered])
    write_class_accuracy(folder, "test", [own[at], report], names, plain)
  add_rows(workdir, rows)
  return spread


def _chances(
  final: _Final,
  settings: Sequence[RunSettings],
  state: training.TrainState,
  gammas: Sequence[Calibration],
  chosen: Mapping[str, Any],
) -> list[dict[str, float]]:
  """The temperature of each run, and its calibration error on the test images."""
  share = chosen.get("temperature_share")
  if share is None:
    return [{}] * len(settings)
  images = final.images
  scores = final.runs.outputs(settings, [images.of_scores()], state)
  trained = [final.trained] * len(settings)
  margins = _margins(final.runs, settings, trained, state, "additive")
  return [
    probabilities(images.scored(out, gamma, margin), share)
    for out, gamma, margin in zip(scores, gammas, margins, strict=True)
  ]


def _at_its_best(report: Report) -> Report:
  """A report with the gamma of its highest H."""
  assert report.calibrated is not None and report.curve is not None
  return report.calibrated(report.curve.best())


def _row(
  run: Experiment,
  images: EvaluationSet,
  report: Report,
  stop: int,
  selection: str,
  gamma_from: str = "no calibration",
  *,
  chosen: Mapping[str, Any],
  spread: Mapping[str, Mapping[str, float]],
  chances: Mapping[str, float] | None = None,
) -> Row:
  """A result row that also says how its settings were chosen, and how sure it is."""
  selections = None
  if selection == "val_selected":
    selections = spread.get(report.calibration.name, {})
    selections = {k: v for k, v in selections.items() if k in report.metrics}
  return run.row(
    images.evaluator.protocol,
    report,
    step=stop,
    selection=selection,
    gamma_from=gamma_from,
    selections=selections,
    chosen=kept_choice(chosen),
    **({"probabilities": chances} if chances else {}),
  )


def _save(
  run: Experiment,
  seeds: Sequence[int],
  state: training.TrainState,
  gammas: Sequence[Calibration | None],
  chances: Sequence[Mapping[str, float]],
  chosen: Mapping[str, Any],
  workdir: pathlib.Path,
) -> None:
  """The runs as ``train.py`` leaves them, each with what it was chosen by."""
  for i, seed in enumerate(seeds):
    own = one_of(state, i)
    one = run.with_seed(seed)
    folder = workdir / f"seed_{seed}"
    meta, classes = one.dataset.metadata, one.dataset.classes
    open_workdir(folder, one.config, meta, classes)
    checkpoints = Checkpoints(folder, one.identity())
    if checkpoints.latest_step() is None:
      checkpoints.save(int(own.step), own.params, training.without_params(own))
    checkpoints.close()
    calibration = gammas[i]
    gamma = None if calibration is None else calibration.gamma
    temperature = chances[i].get("temperature")
    own_choice = {"gamma": gamma, "temperature": temperature}
    write_json(folder / CHOSEN, chosen | own_choice)
