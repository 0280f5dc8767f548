"""The class folds of an experiment: their images, and what is chosen on them again.

A sweep's choice is trained on its folds once more, for the calibration of its scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import itertools
from typing import Any

import numpy as np

from zsljax.classes import ClassSpace
from zsljax.data.folds import Fold, class_folds, official_fold
from zsljax.evaluation import Calibration, Evaluator, Report, decide
from zsljax.evaluation.calibration import best_share, margin_rows, of_share
from zsljax.evaluation.temperature import ScoredImages, best_temperature_share
from zsljax.evaluation.thresholds import choose_thresholds
from zsljax.io.progress import step_bar
from zsljax.models import MULTI_LABEL
from zsljax.runs.evaluation_set import EvaluationSet
from zsljax.runs.experiment import Experiment
from zsljax.runs.vmapped import RunSettings, VmappedRuns

OFFICIAL = "official"


def drawn_folds(run: Experiment, labels: np.ndarray, folds: str) -> list[Fold]:
  """The folds of a sweep with ``--folds``, of training images with these labels."""
  if folds == OFFICIAL:
    return [official_fold(run.dataset)]
  seed = run.config["selection"]["seed"]
  return class_folds(labels, run.dataset.classes, int(folds), seed)


def pieces_of(items: Sequence, size: int) -> Iterator[Sequence]:
  """Parts of at most ``size`` items, as equal as they can be."""
  count = -(-len(items) // size)
  for i in range(count):
    yield items[len(items) * i // count : len(items) * (i + 1) // count]


def val_images(runs: VmappedRuns, folds: Sequence[Fold]) -> list[EvaluationSet]:
  """The validation images of each fold, in equal shapes."""
  return _placed(runs, folds, [fold.val for fold in folds])


def trained_images(runs: VmappedRuns, folds: Sequence[Fold]) -> list[EvaluationSet]:
  """The training images of each fold that tell its margin, in equal shapes."""
  return _placed(runs, folds, [f.train[margin_rows(len(f.train))] for f in folds])


def _placed(
  runs: VmappedRuns, folds: Sequence[Fold], rows: Sequence[np.ndarray]
) -> list[EvaluationSet]:
  padded = max(map(len, rows))
  return [runs.images(f, own, padded) for f, own in zip(folds, rows, strict=True)]


def in_programs(
  config: Mapping[str, Any],
  points: Sequence,
  folds: Sequence[int],
  seeds: Sequence[int],
) -> list[Sequence[tuple[Any, int, int]]]:
  """Gathers triples of points, folds and seeds: the runs of one program each.

  Runs that are given all images at once go one fold at a time, see ``VmappedRuns``.
  """
  together = [folds] if config["batch_size"] else [[fold] for fold in folds]
  return [
    piece
    for some in together
    for piece in pieces_of(
      list(itertools.product(points, some, seeds)), config["selection"]["together"]
    )
  ]


@dataclasses.dataclass(frozen=True)
class FoldLabels:
  """An ``EvaluationSet`` of a fold without its images, which take memory."""

  evaluator: Evaluator
  metric: str
  calibration: Calibration
  classes: ClassSpace
  labels: np.ndarray

  @property
  def seen(self) -> np.ndarray:
    """Marks of the classes that are seen on the fold, ``[C]`` bool."""
    return np.asarray(self.classes.seen)

  def report(self, scores: np.ndarray) -> Report:
    """Metrics of a run, from its scores ``[N, C]``."""
    single = self.labels.ndim == 1
    outputs = decide(scores, self.seen) if single else scores
    return self.evaluator.report(outputs, self.labels, self.seen, self.calibration)


@dataclasses.dataclass(frozen=True)
class FoldScores:
  """Scores of a run on a fold.

  Attributes:
    val: of validation images, ``[N, C]``.
    trained: of training images; None where images have several labels.
    margin: mean additive margin of the training images, or 1.
  """

  val: np.ndarray
  trained: np.ndarray | None
  margin: float


def scored_on_folds(
  runs: VmappedRuns, folds: Sequence[Fold], seeds: Sequence[int], step: int, what: str
) -> tuple[list[FoldLabels], list[list[FoldScores]]]:
  """Trains the config of ``runs`` on each fold with each seed, and scores its images.

  Args:
    runs: of the config.
    folds: the folds.
    seeds: of the runs.
    step: number of steps.
    what: is trained, as the progress names it.

  Returns:
    For each fold its labels, and the scores of each run.
  """
  val, trained = val_images(runs, folds), None
  if runs.run.system.task != MULTI_LABEL:
    trained = [images.of_scores() for images in trained_images(runs, folds)]
  scored = [images.of_scores() for images in val]
  labels = [
    FoldLabels(x.evaluator, x.metric, x.calibration, x.classes, x.labels) for x in val
  ]
  found: list[list[FoldScores]] = [[] for _ in folds]
  with step_bar(len(folds) * len(seeds) * step, what) as bar:
    for piece in in_programs(runs.run.config, [None], range(len(folds)), seeds):
      settings = [RunSettings(seed, fold=folds[f]) for _, f, seed in piece]
      ((_, state, _),) = runs.states(
        settings, [step], lambda n, piece=piece: bar.update(n * len(piece))
      )

      def scores(images, piece=piece, settings=settings, state=state):
        own = [images[f] for _, f, _ in piece]
        outputs = runs.outputs(settings, own, state)
        return [out[x.mask] for x, out in zip(own, outputs, strict=True)]

      of_val = scores(scored)
      of_trained = scores(trained) if trained else [None] * len(piece)
      for (_, f, _), own, train in zip(piece, of_val, of_trained, strict=True):
        margin = 1.0 if train is None else decide(train, labels[f].seen).mean_margin()
        found[f].append(FoldScores(own, train, margin))
  return labels, found


def calibrated(
  folds: Sequence[FoldLabels], scores: Sequence[FoldScores], share: float | None = None
) -> dict[str, Any]:
  """Chooses on the folds how the scores of a run are calibrated.

  Args:
    folds: their labels.
    scores: of the run on each.
    share: of the mean training margin, for gamma; the one with the highest mean H when
      None.

  Returns:
    Shares for gamma and for a temperature, or thresholds of several labels, as
    ``chosen.json`` has them.
  """
  if scores[0].trained is None:
    labelled = [
      (own.val, fold.labels, fold.classes.names, fold.seen)
      for fold, own in zip(folds, scores, strict=True)
    ]
    return {"thresholds": dataclasses.asdict(choose_thresholds(labelled))}
  kind = folds[0].calibration.kind
  trained = [
    decide(own.trained, fold.seen) for fold, own in zip(folds, scores, strict=True)
  ]
  margins = [decisions.mean_margin(kind) for decisions in trained]
  if share is None:
    h = []
    for fold, own, margin in zip(folds, scores, margins, strict=True):
      curve = fold.report(own.val).curve
      assert curve is not None
      h.append(curve.h_of_shares(margin))
    share, _ = best_share(np.array(h))
  scored = []
  for fold, own, decisions, margin in zip(folds, scores, trained, margins, strict=True):
    lowered = of_share(share, margin, kind).lowered(own.val, fold.seen)
    additive = decisions.mean_margin()
    scored.append(ScoredImages(np.asarray(lowered), fold.labels, additive))
  return {"share": share, "temperature_share": best_temperature_share(scored)}
