"""Class folds: divisions of the training images, on which choices are made.

A fold holds out some of the seen classes, which play the unseen ones, and a fifth of
the images of every other class, which play the test images of seen classes. Test images
and unseen classes take no part in it.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import itertools
import math

import numpy as np

from zsljax.classes import ClassSpace
from zsljax.data import sampling
from zsljax.data.feature_set import NONE_PUBLISHED
from zsljax.data.store import StoredDataset
from zsljax.errors import ZsljaxError, require

# Times that the classes of folds are drawn before none are found.
_TRIES = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Fold:
  """A division of the N training images.

  Attributes:
    held_out: ids of the seen classes that play the unseen ones, ascending.
    train: rows of the images that are trained on, ascending.
    val: rows of the others, ascending.
  """

  held_out: np.ndarray
  train: np.ndarray
  val: np.ndarray

  def batches(
    self, labels: np.ndarray, drawn: str, size: int, seed: int
  ) -> Iterator[np.ndarray]:
    """Yields the rows of each batch of a training run, without end; -1 is padding.

    Args:
      labels: class ids of the N training images, ``[N]`` or ``[N, M]``.
      drawn: of ``sampling.SAMPLINGS``, see ``TrainingData``.
      size: images in a batch.
      seed: of their order.
    """
    rows = len(self.train)
    if drawn in sampling.IN_EPOCHS:
      steps = sampling.steps_per_epoch(rows, size, drawn)
      for epoch in itertools.count():
        order = sampling.permuted(seed, epoch, 0, rows)
        for batch in sampling.cut(order, steps * size).reshape(steps, size):
          yield np.where(batch < 0, -1, self.train[batch])
    elif drawn == "independent":
      for step in itertools.count():
        yield self.train[sampling.independent(seed, step, 0, rows, size)]
    own = labels[self.train]
    rows_of = {int(c): self.train[own == c] for c in np.unique(own)}
    classes, images = sampling.balanced(size, len(rows_of))
    for step in itertools.count():
      yield sampling.class_balanced(seed, step, 0, rows_of, classes, 1, images)


def official_fold(dataset: StoredDataset) -> Fold:
  """Returns the stored cut into ``train`` and ``val``, with the published classes.

  Rows are those of ``train`` and ``val`` in stored order, one after the other.

  Raises:
    ZsljaxError: the source of the dataset names no validation classes.
  """
  notes = dataset.metadata["notes"]
  require(
    not any(note.startswith(NONE_PUBLISHED) for note in notes),
    "--folds",
    f"official, but {dataset.metadata['name']} has validation classes drawn at random",
    "a number of class folds, as in --folds=5",
  )
  held_out = np.sort(np.array(dataset.metadata["validation_classes"], int))
  train, val = dataset.size("train"), dataset.size("val")
  return Fold(held_out, np.arange(train), train + np.arange(val))


def class_folds(
  labels: np.ndarray, classes: ClassSpace, count: int, seed: int = 0
) -> list[Fold]:
  """Draws folds, a pure function of its arguments.

  Each holds out as many seen classes as the share of unseen ones among all classes asks
  for. Every seen class is held out about equally often, and no two folds hold out the
  same classes. Images with several labels have no class of their own: a fold trains on
  four fifths of them, whatever their labels.

  Args:
    labels: class ids of the N training images, ``[N]``; ``[N, M]`` padded with -1 where
      they have several.
    classes: all classes.
    count: number of folds.
    seed: of the folds.

  Raises:
    ZsljaxError: too few seen classes, or too few images of one.
  """
  seen = np.asarray(classes.ids)[np.asarray(classes.seen)]
  number = max(1, round(len(seen) * (1 - len(seen) / len(classes))))
  rng = np.random.default_rng(seed)
  folds = []
  for held_out in _held_out(seen, number, count, rng):
    if labels.ndim == 2:
      val = rng.permutation(len(labels))[: len(labels) // 5]
    else:
      parts = [np.flatnonzero(np.isin(labels, held_out))]
      for label in np.setdiff1d(seen, held_out):
        own = np.flatnonzero(labels == label)
        require(
          len(own) >= 2,
          f"--folds: training images of class {label}",
          len(own),
          "2 or more, one of them to be held out; or take --folds=official",
        )
        parts.append(rng.permutation(own)[: max(1, len(own) // 5)])
      val = np.concatenate(parts)
    val = np.sort(val)
    train = np.setdiff1d(np.arange(len(labels)), val)
    folds.append(Fold(np.sort(held_out), train, val))
  return folds


def _held_out(
  seen: np.ndarray, number: int, count: int, rng: np.random.Generator
) -> list[np.ndarray]:
  """Draws ``count`` distinct sets of ``number`` classes, each class as often."""
  require(
    1 <= count <= math.comb(len(seen), number) and number <= len(seen) - 2,
    "--folds",
    f"{count} with {len(seen)} seen classes, of which each holds out {number}",
    "as many folds as classes can be held out, and two classes or more left to train "
    "on; or take --folds=official",
  )
  for _ in range(_TRIES):
    sets, left = [], np.array([], seen.dtype)
    for _ in range(count):
      own, left = left[:number], left[number:]
      if missing := number - len(own):
        fresh = rng.permutation(seen)
        repeated = np.isin(fresh, own)
        fresh = np.concatenate([fresh[~repeated], fresh[repeated]])
        own, left = np.concatenate([own, fresh[:missing]]), fresh[missing:]
      sets.append(own)
    if len({frozenset(own.tolist()) for own in sets}) == count:
      return sets
  raise ZsljaxError(
    f"--folds: {count} of {number} among {len(seen)} seen classes were not found, "
    "expected fewer folds, or official"
  )
