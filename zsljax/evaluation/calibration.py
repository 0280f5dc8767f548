"""Calibrated stacking: how the seen classes' advantage is taken away.

References:
  Chao, Changpinyo, Gong, Sha, "An Empirical Study and Analysis of Generalized
  Zero-Shot Learning for Object Recognition in the Wild" (ECCV 2016):
  the class is ``argmax_c s_c - gamma [c seen]``, and the area under the
  seen-unseen accuracy curve that gamma draws.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

from zsljax.evaluation.decisions import Decisions
from zsljax.evaluation.metrics import class_weights, harmonic_mean


@dataclasses.dataclass(frozen=True)
class Curve:
  """Accuracies for every gamma that makes a difference, ascending in gamma.

  Attributes:
    margins: where they change, ``[m - 1]``.
    gamma: one value inside each interval between two changes, ``[m]``.
    unseen: U at that gamma, in [0, 1], ``[m]``.
    seen: S at that gamma, in [0, 1], ``[m]``.
  """

  margins: np.ndarray
  gamma: np.ndarray
  unseen: np.ndarray
  seen: np.ndarray

  def area(self) -> float:
    """AUSUC, in [0, 1]: trapezoids under S over U."""
    return float(np.trapezoid(self.seen, self.unseen))

  def best_gamma(self) -> float:
    """A gamma of the highest harmonic mean; the lowest where several reach it."""
    return shared_gamma([self])[0]


def shared_gamma(curves: Sequence[Curve]) -> tuple[float, float]:
  """The gamma with the highest mean of H over several curves, and that mean.

  The lowest such gamma, where there are several.
  """
  gamma = _between(np.unique(np.concatenate([curve.margins for curve in curves])))
  total = np.zeros(len(gamma))
  for curve in curves:
    at = np.searchsorted(curve.margins, gamma)
    total += harmonic_mean(curve.unseen, curve.seen)[at]
  best = int(np.argmax(total))
  return float(gamma[best]), float(total[best] / len(curves))


def seen_unseen_curve(
  decisions: Decisions, seen: np.ndarray, per_class: bool = True
) -> Curve:
  """The exact curve: one sort, then cumulative sums.

  Args:
    decisions: of n images of seen and unseen classes.
    seen: ``[C]`` bool, of the class space.
    per_class: accuracies are means over classes; else over images.
  """
  label_seen = seen[decisions.label]
  weight = np.zeros(len(decisions.label))
  for side in (label_seen, ~label_seen):
    count = max(side.sum(), 1)
    weight[side] = class_weights(decisions.label[side]) if per_class else 1 / count
  right_if_seen = weight * (decisions.seen_class == decisions.label)
  right_if_unseen = weight * (decisions.unseen_class == decisions.label)
  # The image leaves the seen classes when gamma passes this margin.
  margin = decisions.seen_score.astype(np.float64) - decisions.unseen_score
  order = np.argsort(margin, kind="stable")
  margin = margin[order]
  last = np.append(np.flatnonzero(np.diff(margin)), len(margin) - 1)
  total = right_if_seen.sum()
  lost = np.cumsum(right_if_seen[order])[last]
  won = np.cumsum(right_if_unseen[order])[last]
  steps = margin[last]
  return Curve(
    margins=steps,
    gamma=_between(steps),
    unseen=np.concatenate([[0], won]),
    seen=np.concatenate([[total], total - lost]),
  )


def _between(steps: np.ndarray) -> np.ndarray:
  """A value below, between each two, and above ascending ``steps``."""
  return np.concatenate([steps[:1] - 1, (steps[:-1] + steps[1:]) / 2, steps[-1:] + 1])
