"""Thresholds of scores from which on an image is given a label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses

import numpy as np

# Images that a label must have for a threshold of its own. On class folds of Corel-5k
# (F1 of all labels, tested on a fold apart) 1 gives 20, 5 gives 36, 25 gives 41.
_LEAST = 25


@dataclasses.dataclass(frozen=True)
class Thresholds:
  """Thresholds of labels, chosen on images that no training has seen.

  Attributes:
    own: of the seen labels that enough images have, by name.
    seen: of other seen labels, one for all.
    unseen: of labels that were never trained on, one for all.
  """

  own: Mapping[str, float]
  seen: float
  unseen: float

  def of(self, names: Sequence[str], seen: np.ndarray) -> np.ndarray:
    """Thresholds ``[C]`` of labels by their names, ``seen`` [C] or not."""
    known = [self.own.get(name, self.seen) for name in names]
    return np.where(seen, known, self.unseen)


def best_threshold(scores: np.ndarray, present: np.ndarray) -> float:
  """The threshold of the highest F1, midway between two scores.

  >>> best_threshold(np.array([3.0, 2.0, 1.0]), np.array([True, True, False]))
  1.5

  Args:
    scores: of pairs of an image and a label, ``[n]``.
    present: whether the image has the label, ``[n]`` bool.
  """
  order = np.argsort(-scores, kind="stable")
  sorted_scores = np.append(scores[order], scores.min())
  hits = np.cumsum(present[order])
  f1 = 2 * hits / (np.arange(1, len(hits) + 1) + present.sum())
  apart = sorted_scores[:-1] > sorted_scores[1:]
  apart[-1] = True
  best = np.argmax(np.where(apart, f1, -1))
  return float(sorted_scores[best : best + 2].mean())


def choose_thresholds(
  folds: Iterable[tuple[np.ndarray, np.ndarray, Sequence[str], np.ndarray]],
) -> Thresholds:
  """Thresholds from class folds: of seen labels where they are seen.

  Args:
    folds: of each its scores ``[n, C]``; labels ``[n, C]``, 1 where present and 0 where
      unannotated, which are passed over; the labels' names; and which of them the fold
      has ``seen``, ``[C]`` bool. The others, which it held out, play the unseen ones.
  """
  pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
  held_out = []
  for scores, labels, names, seen in folds:
    for i, name in enumerate(names):
      annotated = labels[:, i] != 0
      pair = scores[annotated, i], labels[annotated, i] > 0
      (pairs.setdefault(name, []) if seen[i] else held_out).append(pair)
  pooled = {name: _joined(some) for name, some in pairs.items()}
  own = {
    name: best_threshold(*pair)
    for name, pair in pooled.items()
    if pair[1].sum() >= _LEAST
  }
  common = best_threshold(*_joined(list(pooled.values())))
  return Thresholds(own, common, best_threshold(*_joined(held_out)))


def _joined(
  pairs: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
  scores, present = zip(*pairs, strict=True)
  return np.concatenate(scores), np.concatenate(present)
