"""Runs of sweeps joined into one, whose scores are averaged.

The chosen settings of every sweep are trained once more on its class folds, with the
seeds of its runs. There the mean over folds chooses how scores are made comparable, and
the calibration of their average. Test images decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import itertools
import pathlib
import statistics
import time
from typing import Any

from absl import logging
import jax.numpy as jnp
import numpy as np

from zsljax.devices.precision import computed_in
from zsljax.errors import ZsljaxError, require
from zsljax.evaluation import (
  make_evaluator,
  protocols_for,
)
from zsljax.io.files import locked, write_json
from zsljax.models import CLOSED_SET, MULTI_LABEL, Stage
from zsljax.models.ensemble import NORMALIZATIONS, average, joined
from zsljax.numerics import pooled
from zsljax.reporting.rows import CHOSEN, RULE, Row, read_chosen, read_rows
from zsljax.runs.evaluate import Scored, evaluate
from zsljax.runs.experiment import Experiment
from zsljax.runs.on_folds import (
  FoldLabels,
  FoldScores,
  calibrated,
  drawn_folds,
  scored_on_folds,
)
from zsljax.runs.sweep import add_seconds
from zsljax.runs.vmapped import VmappedRuns
from zsljax.runs.workdir import open_workdir, read_manifest
from zsljax.training.checkpoints import Checkpoints


@dataclasses.dataclass(frozen=True)
class EndedSweep:
  """A sweep that has ended.

  Attributes:
    folder: its own.
    chosen: what it chose.
    folders: of its runs.
    runs: their experiments.
  """

  folder: pathlib.Path
  chosen: dict[str, Any]
  folders: list[pathlib.Path]
  runs: list[Experiment]

  @classmethod
  def open(
    cls, folder: pathlib.Path, data_dir: pathlib.Path | None = None
  ) -> EndedSweep:
    """Reads a sweep.

    Args:
      folder: its own.
      data_dir: where the dataset is now, when it was moved.

    Raises:
      ZsljaxError: the folder holds none, or one that has not ended; a dataset is
        another, or not there.
    """
    read_manifest(folder, sweep=True)
    chosen = read_chosen(folder)
    seeds = sorted({row["seed"] for row in read_rows(folder)})
    folders = [folder / f"seed_{seed}" for seed in seeds]
    if chosen is None or not folders:
      raise ZsljaxError(f"{folder}: no run, expected a sweep that has ended")
    runs = [Experiment.of_run(one, data_dir) for one in folders]
    return cls(folder, chosen, folders, runs)

  @property
  def run(self) -> Experiment:
    return self.runs[0]

  @property
  def several_labels(self) -> bool:
    return self.run.system.task == MULTI_LABEL

  @property
  def temperature(self) -> float:
    return self.chosen.get("temperature_share") or 1.0

  @functools.cached_property
  def on_folds(self) -> tuple[list[FoldLabels], list[list[FoldScores]]]:
    """Labels of each fold, and the scores of every run that was trained on it."""
    config, seeds = self.run.config, [one.config["seed"] for one in self.runs]
    runs = VmappedRuns(self.run, self.run.training_data().total_steps(config["epochs"]))
    folds = drawn_folds(self.run, runs.labels, self.chosen["folds"])
    what = f"{self.folder.name} on the folds"
    with computed_in(config["matmul_precision"]):
      return scored_on_folds(runs, folds, seeds, self.chosen["step"], what)


def ensemble(members: Sequence[EndedSweep], workdir: pathlib.Path) -> list[Row]:
  """Joins the runs of sweeps into a run, and tests it.

  ``workdir`` is as that of a run: ``eval``, ``predict`` and ``table`` take it. Sweeps
  count alike, and so do the runs of one.

  Args:
    members: sweeps of one dataset, in any of its forms.
    workdir: the folder of the ensemble, new.

  Returns:
    Rows without and, for images with one label, with the chosen calibration.

  Raises:
    ZsljaxError: sweeps do not belong together, or have one run in all.
  """
  began = time.perf_counter()
  require(not workdir.exists(), f"--workdir={workdir}", "a folder", "a new one")
  _check(members)
  params, margins, step = _restored(members)
  choices = _choices(members)
  how, best = _best(choices)
  runs, base = [run for m in members for run in m.runs], _base(members)
  shape = base.spec.feature_shape
  system = {
    "name": "ensemble",
    "members": [run.config["system"] for run in runs],
    "on_means": [run.spec.feature_shape != shape for run in runs],
    "margins": margins,
    **_each(members),
    "normalization": how,
  }
  own = {
    "system": system,
    "stage": dataclasses.asdict(Stage()),  # Each run has its own.
    "evaluation": base.config["evaluation"] | {"gamma": None},
  }
  run = Experiment.build(base.config | own)
  means = {name: statistics.mean(one.of_folds) for name, one in choices.items()}
  chosen = best.calibrated() | {
    "value": means[how],
    "standard_error": _standard_error(best.of_folds),
    "of_folds": best.of_folds,
    "rule": RULE,
    "metric": members[0].chosen["metric"],
    "settings": len(choices),
    "reselected": [],
    "folds": members[0].chosen["folds"],
    "values": {name: round(mean, 4) for name, mean in means.items()},
    "step": step,
    "point": {"system.normalization": how},
    "sweeps": [member.folder.name for member in members],
  }
  with locked(workdir / ".lock", f"{workdir}: another process writes there"):
    meta, classes = run.dataset.metadata, run.dataset.classes
    open_workdir(workdir, run.config, meta, classes)
    checkpoints = Checkpoints(workdir, run.identity())
    checkpoints.save(step, params, {"step": jnp.asarray(step)})
    checkpoints.close()
    write_json(workdir / CHOSEN, chosen)
    rows = evaluate(workdir)
    if chosen["share"] is not None:
      said = rows[-1]["provenance"]
      temperature = said["probabilities"]["temperature"]
      own = {"gamma": said["gamma"], "temperature": temperature}
      write_json(workdir / CHOSEN, chosen | own)
    add_seconds(workdir, time.perf_counter() - began)
  return rows


def gathered(sweeps: Sequence[EndedSweep], most: int) -> list[EndedSweep]:
  """Adds to the first sweep one by one those with which it gains most on the folds.

  Caruana et al., "Ensemble Selection from Libraries of Models" (ICML 2004); here each
  counts once, and the mean gain must be more than its standard error over the folds.
  Sweeps that do not belong to the first are passed over, with a warning.

  Args:
    sweeps: of one dataset, in any of its forms, the best first.
    most: the largest number of sweeps that are joined.

  Returns:
    The first and what was added: nothing, where none gains.
  """
  members, others = list(sweeps[:1]), []
  for other in sweeps[1:]:
    try:
      _check([*members, other])
    except ZsljaxError as error:
      logging.warning("not joined: %s", error)
    else:
      others.append(other)
  if not others:
    return members
  values = _best(_choices(members))[1].of_folds
  while others and len(members) < most:
    found = [_best(_choices([*members, other]))[1].of_folds for other in others]
    best = int(np.argmax([statistics.mean(one) for one in found]))
    gains = np.subtract(found[best], values).tolist()
    if statistics.mean(gains) <= _standard_error(gains):
      break
    values = found[best]
    members.append(others.pop(best))
  return members


def _best(choices: Mapping[str, _Choice]) -> tuple[str, _Choice]:
  return max(choices.items(), key=lambda choice: statistics.mean(choice[1].of_folds))


def _standard_error(values: Sequence[float]) -> float:
  """The standard error of a mean; 0 for a single value."""
  return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def _choices(members: Sequence[EndedSweep]) -> dict[str, _Choice]:
  """The normalizations of scores among which the folds choose."""
  (folds, *_), found = zip(*[member.on_folds for member in members], strict=True)
  # Of each fold, the scores of all runs.
  scores = [list(itertools.chain(*of_sweeps)) for of_sweeps in zip(*found, strict=True)]
  return {
    how: _Choice(
      folds, scores, functools.partial(average, normalization=how, **_each(members))
    )
    for how in NORMALIZATIONS
    if how != "probabilities" or not members[0].several_labels
  }


@dataclasses.dataclass(frozen=True)
class _Choice:
  """The runs' scores on the folds, averaged after one normalization.

  Attributes:
    folds: their labels.
    scores: of each fold, those of all runs.
    average: see ``models.ensemble.average``.
  """

  folds: Sequence[FoldLabels]
  scores: Sequence[Sequence[FoldScores]]
  average: Callable

  def _averages(self, part: str) -> list[np.ndarray]:
    """The average on each fold of the runs' scores ``val`` or ``trained``."""
    return [
      np.asarray(
        self.average(
          [getattr(run, part) for run in runs],
          fold.seen,
          margins=[run.margin for run in runs],
        )
      )
      for fold, runs in zip(self.folds, self.scores, strict=True)
    ]

  @functools.cached_property
  def _on_val(self) -> list[np.ndarray]:
    return self._averages("val")

  @functools.cached_property
  def of_folds(self) -> list[float]:
    """The folds' metric on each of them."""
    averages = zip(self.folds, self._on_val, strict=True)
    return [fold.report(val).metrics[fold.metric] for fold, val in averages]

  def calibrated(self) -> dict[str, Any]:
    """The calibration that is best on the folds; thresholds of several labels."""
    trained: list[Any] = [None] * len(self.folds)
    if self.scores[0][0].trained is not None:
      trained = self._averages("trained")
    averages = zip(self._on_val, trained, strict=True)
    scores = [FoldScores(val, own, 1.0) for val, own in averages]
    return {"share": None} | calibrated(self.folds, scores)


def _each(members: Sequence[EndedSweep]) -> dict[str, list[float]]:
  """Weight and temperature of every run."""
  runs = [(m, len(members) * len(m.runs)) for m in members for _ in m.runs]
  return {
    "weights": [1 / count for _, count in runs],
    "temperatures": [member.temperature for member, _ in runs],
  }


def _base(members: Sequence[EndedSweep]) -> Experiment:
  """The run whose form of the dataset all are scored on: regions where there are."""
  return max((m.run for m in members), key=lambda run: len(run.spec.feature_shape))


def _check(members: Sequence[EndedSweep]) -> None:
  """Raises unless runs have the same images, classes and folds, and are several."""
  first, base = members[0], _base(members)
  for one in members:
    where, run = f"{one.folder}", one.run
    task = run.system.task
    require(task != CLOSED_SET, where, "learned class weights", "scores of new classes")
    for what, of in _EQUAL.items():
      found, expected = of(one), of(first)
      if found != expected:
        shown = found if isinstance(found, str | int) else "others"
        raise ZsljaxError(
          f"{where}: {what}: found {shown}, expected those of {first.folder}"
        )
    if run.dataset.fingerprint != base.dataset.fingerprint:
      require(
        run.spec.feature_shape == base.spec.feature_shape[1:] and _are_means(run, base),
        f"{where}: features",
        f"other features than {base.dataset.variant}",
        "the same, or their mean over regions",
      )
  folders = [folder.resolve() for one in members for folder in one.folders]
  where, once = f"{first.folder}", len(set(folders)) == len(folders)
  require(once, where, "a run twice", "each once")
  require(len(folders) > 1, where, "one run", "two or more, as of sweep --seeds=8")


# In which sweeps of an ensemble agree.
_EQUAL: dict[str, Callable[[EndedSweep], Any]] = {
  "dataset": lambda m: m.run.dataset.metadata["name"],
  "split": lambda m: m.run.dataset.metadata["split_version"],
  "classes": lambda m: list(m.run.dataset.classes.names),
  "descriptions": lambda m: np.asarray(m.run.dataset.classes.embeddings).tolist(),
  "task": lambda m: m.run.system.task,
  "folds": lambda m: m.chosen["folds"],
  "seed of folds": lambda m: m.run.config["selection"]["seed"],
  "metric": lambda m: m.chosen["metric"],
  "calibration": lambda m: m.run.config["evaluation"]["calibration"],
  "top_k": lambda m: list(m.run.config["evaluation"]["top_k"]),
  "precision": lambda m: m.run.config["matmul_precision"],
  "images": lambda m: m.run.dataset.source_rows(_splits(m.run)).tolist(),
}


def _splits(run: Experiment) -> tuple[str, ...]:
  return (*run.dataset.training_splits("trainval"), *run.dataset.test_splits)


def _are_means(run: Experiment, base: Experiment) -> bool:
  """True if some pooled features are the means of the base's regions."""
  some, splits = np.arange(8), run.dataset.training_splits("trainval")
  own = run.dataset.features_of(splits, some).astype(np.float32)
  regions = base.dataset.features_of(splits, some).astype(np.float32)
  return np.allclose(pooled(regions), own, rtol=0.02, atol=0.01 * np.abs(own).max())


def _restored(members: Sequence[EndedSweep]) -> tuple[Any, list[float], int]:
  """Parameters and margins of all runs, and the steps of the longest."""
  params, margins, steps = [], [], []
  for member in members:
    usual, *_ = protocols_for(member.run.system)
    for folder, run in zip(member.folders, member.runs, strict=True):
      scored = Scored(make_evaluator(usual), folder, run, "test")
      params.append(scored.params)
      margins.append(1.0 if member.several_labels else scored.mean_margin("additive"))
      steps.append(scored.step)
  return joined(params), margins, max(steps)
