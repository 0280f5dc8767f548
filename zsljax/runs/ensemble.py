"""Runs of sweeps joined into one, whose scores are averaged.

The chosen settings of every sweep are trained once more on its class folds, with the
seeds of its runs. There the mean over folds chooses how scores are made comparable, and
the calibration of their average. Test images decide nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import pathlib
import statistics
from typing import Any

import jax.numpy as jnp
import numpy as np

from zsljax.data.folds import Fold, class_folds, official_fold
from zsljax.devices.precision import computed_in
from zsljax.errors import ZsljaxError, require
from zsljax.evaluation import Calibration, decide, make_evaluator, protocols_for
from zsljax.evaluation.calibration import best_share, margin_rows, of_share
from zsljax.evaluation.temperature import (
  ScoredImages,
  best_temperature_share,
  probabilities,
)
from zsljax.evaluation.thresholds import choose_thresholds
from zsljax.io.files import locked, write_json
from zsljax.io.progress import step_bar
from zsljax.models import MULTI_LABEL
from zsljax.models.ensemble import NORMALIZATIONS, joined, normalized
from zsljax.reporting.rows import CHOSEN, RULE, Row, add_rows, read_chosen
from zsljax.runs.evaluate import Scored
from zsljax.runs.evaluation_set import EvaluationSet
from zsljax.runs.experiment import Experiment
from zsljax.runs.selection import with_values
from zsljax.runs.sweep import OFFICIAL, pieces_of
from zsljax.runs.vmapped import RunSettings, VmappedRuns
from zsljax.runs.workdir import open_workdir, read_manifest
from zsljax.training.checkpoints import Checkpoints


@dataclasses.dataclass(frozen=True)
class _Scores:
  """Scores of one run on a fold: of validation images ``[N, C]``, and of training."""

  val: np.ndarray
  trained: np.ndarray
  margin: float


@dataclasses.dataclass(frozen=True)
class _FoldImages:
  """Images of a fold, which all runs score: for validation, and of training."""

  val: EvaluationSet
  trained: EvaluationSet

  @property
  def seen(self) -> np.ndarray:
    return np.asarray(self.val.classes.seen)

  @property
  def several(self) -> bool:
    """True where images have several labels."""
    return self.val.labels.ndim == 2


@dataclasses.dataclass(frozen=True)
class _Sweep:
  """A sweep that has ended: its experiment with what it chose, and its runs."""

  folder: pathlib.Path
  run: Experiment
  chosen: dict[str, Any]
  runs: list[pathlib.Path]

  @classmethod
  def open(cls, folder: pathlib.Path) -> _Sweep:
    """Reads a sweep.

    Raises:
      ZsljaxError: the folder holds none, or one that has not ended.
    """
    config = read_manifest(folder, sweep=True)["config"]
    chosen = read_chosen(folder)
    runs = sorted(folder.glob("seed_*"), key=lambda path: int(path.name[5:]))
    if chosen is None or not runs:
      raise ZsljaxError(f"{folder}: no run, expected a sweep that has ended")
    point = {"data.train_split": "trainval", **chosen["point"]}
    return cls(folder, Experiment.build(with_values(config, point)), chosen, runs)

  @property
  def seeds(self) -> list[int]:
    return [int(path.name.removeprefix("seed_")) for path in self.runs]

  @property
  def temperature(self) -> float:
    return self.chosen.get("temperature_share") or 1.0

  def folds(self, labels: np.ndarray) -> list[Fold]:
    folds, dataset = self.chosen["folds"], self.run.dataset
    if folds == OFFICIAL:
      return [official_fold(dataset)]
    seed = self.run.config["selection"]["seed"]
    return class_folds(labels, dataset.classes, int(folds), seed)

  def on_folds(self) -> Iterator[tuple[_FoldImages, list[_Scores]]]:
    """Trains the runs on each fold; gives its images, and the scores of every run."""
    config, step = self.run.config, self.chosen["step"]
    total = self.run.training_data().total_steps(config["epochs"])
    runs = VmappedRuns(self.run, total)
    folds = self.folds(runs.labels)
    with (
      computed_in(config["matmul_precision"]),
      step_bar(
        len(folds) * len(self.runs) * step, f"{self.folder.name} on folds"
      ) as bar,
    ):
      for fold in folds:
        val = runs.images(fold, fold.val, len(fold.val))
        places = fold.train[margin_rows(len(fold.train))]
        images = _FoldImages(val, runs.images(fold, places, len(places)))
        found: list[_Scores] = []
        for seeds in pieces_of(self.seeds, config["selection"]["together"]):
          settings = [RunSettings(seed, fold=fold) for seed in seeds]
          ((_, state, _),) = runs.states(
            settings, [step], lambda n, seeds=seeds: bar.update(n * len(seeds))
          )
          both = [
            [out[x.mask] for out in runs.outputs(settings, [x.of_scores()], state)]
            for x in (images.val, images.trained)
          ]
          for own, trained in zip(*both, strict=True):
            margin = 1.0
            if not images.several:
              margin = decide(trained, images.seen).mean_margin()
            found.append(_Scores(own, trained, margin))
        yield images, found


def ensemble(sweeps: Sequence[pathlib.Path], workdir: pathlib.Path) -> list[Row]:
  """Joins the runs of sweeps into a run, and tests it.

  ``workdir`` is as that of a run: ``eval``, ``predict`` and ``table`` take it. Sweeps
  count alike, and so do the runs of one.

  Args:
    sweeps: folders of sweeps of one dataset, in any of its forms.
    workdir: the folder of the ensemble, new.

  Returns:
    Rows without and, for images with one label, with the chosen calibration.

  Raises:
    ZsljaxError: sweeps do not belong together, or have one run in all.
  """
  members = [_Sweep.open(folder) for folder in sweeps]
  _check(members)
  require(not workdir.exists(), f"--workdir={workdir}", "a folder", "a new one")
  found = [list(member.on_folds()) for member in members]
  images = [own for own, _ in found[0]]
  # Of each fold, the scores of all runs.
  scores = [
    [run for _, runs in of_sweeps for run in runs]
    for of_sweeps in zip(*found, strict=True)
  ]
  shares = [1 / len(members) / len(m.runs) for m in members for _ in m.runs]
  temperatures = [m.temperature for m in members for _ in m.runs]
  choices = {}
  for how in NORMALIZATIONS:
    if how != "probabilities" or not images[0].several:
      average = functools.partial(
        _average, how, weights=shares, temperatures=temperatures
      )
      choices[how] = _values(images, scores, average)
  how = max(choices, key=lambda name: choices[name]["value"])
  chosen = choices[how] | {
    "rule": RULE,
    "metric": images[0].val.metric,
    "settings": len(choices),
    "reselected": [],
    "folds": members[0].chosen["folds"],
    "values": {name: round(one["value"], 4) for name, one in choices.items()},
  }
  run, params, step = _join(members, how, shares, temperatures)
  chosen |= {"step": step, "point": {"system.normalization": how}}
  with locked(workdir / ".lock", f"{workdir}: another process writes there"):
    meta, classes = run.dataset.metadata, run.dataset.classes
    open_workdir(workdir, run.config, meta, classes)
    checkpoints = Checkpoints(workdir, run.identity())
    checkpoints.save(step, params, {"step": jnp.asarray(step)})
    checkpoints.close()
    return _test(run, chosen, workdir)


def _check(members: Sequence[_Sweep]) -> None:
  """Raises unless runs have the same images, classes and folds, and are several."""
  first = members[0]
  for one in members[1:]:
    for what, of in (
      ("dataset", lambda m: m.run.dataset.metadata["name"]),
      ("split", lambda m: m.run.dataset.metadata["split_version"]),
      ("classes", lambda m: list(m.run.classes.names)),
      ("descriptions", lambda m: np.asarray(m.run.classes.embeddings).tolist()),
      ("task", lambda m: m.run.system.task),
      ("folds", lambda m: m.chosen["folds"]),
      ("seed of folds", lambda m: m.run.config["selection"]["seed"]),
      ("width of features", lambda m: m.run.spec.feature_shape[-1]),
      ("images", lambda m: m.run.dataset.source_rows(_everything(m)).tolist()),
    ):
      found, expected = of(one), of(first)
      if found != expected:
        shown = found if isinstance(found, str | int) else f"other {what}"
        raise ZsljaxError(
          f"{one.folder}: {what}: found {shown}, expected those of {first.folder}"
        )
  count = sum(len(one.runs) for one in members)
  require(count > 1, str(first.folder), "one run", "two or more, as of sweep --seeds=8")


def _everything(member: _Sweep) -> tuple[str, ...]:
  dataset = member.run.dataset
  return (*dataset.training_splits("trainval"), *dataset.test_splits)


def _average(
  how: str,
  scores: Sequence[np.ndarray],
  margins: Sequence[float],
  weights: Sequence[float],
  temperatures: Sequence[float],
) -> np.ndarray:
  """Scores of several runs as ``Ensemble`` averages them."""
  runs = zip(scores, margins, weights, temperatures, strict=True)
  return sum(w * np.asarray(normalized(s, how, m, t)) for s, m, w, t in runs)


def _values(images, scores, average) -> dict[str, Any]:
  """What one normalization reaches on the folds, and the calibration it wants."""
  values, h, chances, labelled = [], [], [], []
  for own, runs in zip(images, scores, strict=True):
    margins = [run.margin for run in runs]
    val = average([run.val for run in runs], margins)
    seen, kind = own.seen, own.val.calibration.kind
    if own.several:
      report = own.val.evaluator.report(val, own.val.labels, seen)
      labelled.append((val, own.val.labels, own.val.classes.names, seen))
    else:
      trained = decide(average([run.trained for run in runs], margins), seen)
      report = own.val.evaluator.report(
        decide(val, seen), own.val.labels, seen, own.val.calibration
      )
      h.append(report.curve.h_of_shares(trained.mean_margin(kind)))
      chances.append((own, val, trained))
    values.append(report.metrics[own.val.metric])
  error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
  chosen: dict[str, Any] = {"value": statistics.mean(values), "standard_error": error}
  chosen |= {"highest": chosen["value"], "share": None, "h": None}
  if labelled:
    return chosen | {"thresholds": dataclasses.asdict(choose_thresholds(labelled))}
  share, best = best_share(np.array(h))
  scored = []
  for own, val, trained in chances:
    kind = own.val.calibration.kind
    gamma = of_share(share, trained.mean_margin(kind), kind)
    lowered = np.asarray(gamma.lowered(val, own.seen))
    scored.append(ScoredImages(lowered, own.val.labels, trained.mean_margin()))
  temperature = best_temperature_share(scored)
  return chosen | {"share": share, "h": best, "temperature_share": temperature}


def _join(members, how, weights, temperatures) -> tuple[Experiment, Any, int]:
  """The ensemble's experiment, its parameters, and the steps of the longest run."""
  base = max(members, key=lambda member: len(member.run.spec.feature_shape))
  axes = len(base.run.spec.feature_shape)
  params, margins, systems, on_means, steps = [], [], [], [], []
  for member in members:
    for folder in member.runs:
      run = Experiment.of_run(folder)
      usual, *_ = protocols_for(run.system)
      scored = Scored(make_evaluator(usual), folder, run, "test")
      several = run.system.task == MULTI_LABEL
      margins.append(1.0 if several else scored.mean_margin("additive"))
      params.append(scored.params)
      systems.append(run.config["system"])
      on_means.append(len(run.spec.feature_shape) < axes)
      steps.append(scored.step)
  system = {
    "name": "ensemble",
    "members": systems,
    "on_means": on_means,
    "margins": margins,
    "temperatures": temperatures,
    "weights": weights,
    "normalization": how,
  }
  run = Experiment.build(base.run.config | {"system": system, "grid": {}})
  return run, joined(params), max(steps)


def _test(run: Experiment, chosen: dict[str, Any], workdir: pathlib.Path) -> list[Row]:
  """Writes what was chosen, and the rows of the test images."""
  write_json(workdir / CHOSEN, chosen)
  usual, *_ = protocols_for(run.system)
  evaluator = make_evaluator(usual, run.config["evaluation"]["top_k"])
  scored = Scored(evaluator, workdir, run, "test")
  kind = run.config["evaluation"]["calibration"]
  report = scored.report(Calibration(kind))
  kept = {"chosen": {k: v for k, v in chosen.items() if k != "thresholds"}}
  rows = [scored.row(report, **kept)]
  if chosen["share"] is not None:
    margin = scored.mean_margin(kind)
    calibration = of_share(chosen["share"], margin, kind)
    share = chosen["temperature_share"]
    said = probabilities(scored.images(calibration, margin), share)
    origin = f"{chosen['share']:g} of the mean training margin, highest H on folds"
    assert report.calibrated is not None
    report = report.calibrated(calibration)
    rows.append(scored.row(report, gamma_from=origin, probabilities=said, **kept))
    chosen |= {"gamma": calibration.gamma, "temperature": said["temperature"]}
    write_json(workdir / CHOSEN, chosen)
  add_rows(workdir, rows)
  return rows
