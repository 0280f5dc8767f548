"""Uncertainty that comes from the choice of test images: a bootstrap.

References:
  Efron & Tibshirani, "An Introduction to the Bootstrap" (1993): percentile intervals.

  Holm, "A Simple Sequentially Rejective Multiple Test Procedure" (1979).
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses

import numpy as np

from zsljax.evaluation.metrics import class_weights, harmonic_mean

DRAWS = 1000
_AT_ONCE = 100


@dataclasses.dataclass(frozen=True, eq=False)
class Hits:
  """Right and wrong decisions of R runs on the same n images.

  Attributes:
    among_all: right among all classes, ``[R, n]`` bool.
    among_unseen: right among the unseen classes alone, ``[R, n]`` bool; without a
      meaning for images of seen classes.
    labels: true classes, ``[n]``.
    seen: images of seen classes, ``[n]`` bool.
  """

  among_all: np.ndarray
  among_unseen: np.ndarray
  labels: np.ndarray
  seen: np.ndarray


def resampled(hits: Hits, draws: int = DRAWS) -> dict[str, np.ndarray]:
  """Metrics of test sets that are drawn anew, in percent, each the mean over runs.

  Each draw takes as many images of every class as there are, with replacement. Equal
  labels and draws give equal test sets, so that systems compare in pairs.

  Args:
    hits: of the runs.
    draws: number of test sets.

  Returns:
    ``t1``, ``u``, ``s`` and ``h``, each ``[draws]``.
  """
  rng = np.random.default_rng(0)
  parts: dict[str, list[np.ndarray]] = {name: [] for name in ("t1", "u", "s", "h")}
  for start in range(0, draws, _AT_ONCE):
    size = min(_AT_ONCE, draws - start)
    seen, unseen = (
      _times(hits.labels[side], size, rng) * class_weights(hits.labels[side])
      for side in (hits.seen, ~hits.seen)
    )
    s = seen @ hits.among_all[:, hits.seen].T
    u = unseen @ hits.among_all[:, ~hits.seen].T
    means = {"t1": unseen @ hits.among_unseen[:, ~hits.seen].T, "u": u, "s": s}
    for name, values in (means | {"h": harmonic_mean(u, s)}).items():
      parts[name].append(100 * values.mean(1))
  return {name: np.concatenate(values) for name, values in parts.items()}


def resampled_means(
  values: np.ndarray, groups: np.ndarray, draws: int = DRAWS
) -> np.ndarray:
  """Means of columns over images that are drawn anew, ``[draws, k]``.

  >>> resampled_means(np.eye(2), np.array([0, 1]), draws=1).tolist()
  [[0.5, 0.5]]

  Args:
    values: of n images, ``[n, k]``.
    groups: of the images, ``[n]``; each draw takes as many of every group as there are,
      with replacement.
    draws: number of test sets.
  """
  rng = np.random.default_rng(0)
  sizes = (min(_AT_ONCE, draws - start) for start in range(0, draws, _AT_ONCE))
  parts = [_times(groups, size, rng) @ values / len(values) for size in sizes]
  return np.concatenate(parts)


def _times(groups: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
  """The number of times each image is drawn, by as many draws in a group as it has.

  Returns:
    ``[size, n]``.
  """
  times = np.empty((size, len(groups)))
  for group in np.unique(groups):
    own = np.flatnonzero(groups == group)
    times[:, own] = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size)
  return times


def interval(values: np.ndarray) -> tuple[float, float]:
  """The interval that holds 95 % of resampled values.

  >>> interval(np.arange(1001.0))
  (25.0, 975.0)
  """
  low, high = np.percentile(values, (2.5, 97.5))
  return float(low), float(high)


def like_the_best(values: Mapping[str, np.ndarray], mean: Mapping[str, float]) -> set:
  """Names that cannot be told apart from the one with the highest mean.

  Each is compared with the best in pairs, on equal test sets; its two-sided share of
  draws in which the difference has the other sign is corrected by Holm's procedure for
  the number of comparisons. Names stay together at 5 %.

  >>> draws = np.random.default_rng(0).normal(size=1000)
  >>> apart = {"a": draws, "b": draws + 0.1 * draws[::-1], "c": draws - 9}
  >>> sorted(like_the_best(apart, {"a": 0.0, "b": -0.1, "c": -9.0}))
  ['a', 'b']

  Args:
    values: by name, a metric on equal resampled test sets, ``[draws]``.
    mean: by name, the metric on the test set itself.
  """
  best = max(mean, key=lambda name: mean[name])
  chances = {}
  for name in values:
    if name != best:
      lead = values[best] - values[name]
      beyond = min(np.sum(lead <= 0), np.sum(lead >= 0))
      chances[name] = min(1.0, 2 * (beyond + 1) / (len(lead) + 1))
  together, left = {best}, len(chances)
  for name in sorted(chances, key=lambda name: chances[name]):
    if len(together) > 1 or chances[name] * left > 0.05:
      together.add(name)
    left -= 1
  return together
