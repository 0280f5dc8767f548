"""The class folds of an experiment: their images, and runs trained on them again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import itertools
from typing import Any

import numpy as np

from zsljax.data.folds import Fold, class_folds, official_fold
from zsljax.evaluation.calibration import margin_rows
from zsljax.io.progress import step_bar
from zsljax.runs.evaluation_set import EvaluationSet
from zsljax.runs.experiment import Experiment
from zsljax.runs.vmapped import RunSettings, VmappedRuns
from zsljax.training import TrainState

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


def again(
  runs: VmappedRuns, folds: Sequence[Fold], seeds: Sequence[int], step: int, what: str
) -> Iterator[tuple[list[int], list[RunSettings], TrainState]]:
  """Trains the config of ``runs`` on each fold with each seed.

  Yields:
    For some of the runs at a time the places of their folds, settings, and states.
  """
  places = range(len(folds))
  with step_bar(len(folds) * len(seeds) * step, what) as bar:
    for piece in in_programs(runs.run.config, [None], places, seeds):
      settings = [RunSettings(seed, fold=folds[f]) for _, f, seed in piece]
      ((_, state, _),) = runs.states(
        settings, [step], lambda n, piece=piece: bar.update(n * len(piece))
      )
      yield [f for _, f, _ in piece], settings, state
