"""Calibrated stacking: how the seen classes' advantage is taken away.

Additive: the class is ``argmax_c s_c - gamma [c seen]``. Multiplicative: the score of a
seen class becomes ``s - (1 - gamma) |s|``, which is ``gamma s`` where it is positive
and ``(2 - gamma) s`` where it is negative, so that a gamma below 1 always takes away.
With gamma in (0, 2) it keeps the order of the seen classes.

References:
  Chao, Changpinyo, Gong, Sha, "An Empirical Study and Analysis of Generalized
  Zero-Shot Learning for Object Recognition in the Wild" (ECCV 2016): additive, and the
  area under the seen-unseen accuracy curve that gamma draws.

  Skorokhodov & Elhoseiny (ICLR 2021), released code: seen scores times 0.95.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from zsljax.errors import require
from zsljax.evaluation.decisions import Decisions
from zsljax.evaluation.metrics import class_weights, harmonic_mean

CALIBRATIONS = ("additive", "multiplicative")


@dataclasses.dataclass(frozen=True)
class Curve:
  """Accuracies for every gamma that makes a difference, ascending in the penalty.

  Attributes:
    margins: penalties of the seen classes at which they change, ``[m - 1]``; of an
      additive calibration a penalty is gamma, of a multiplicative one 1 - gamma.
    penalty: one value inside each interval between two changes, ``[m]``.
    unseen: U there, in [0, 1], ``[m]``.
    seen: S there, in [0, 1], ``[m]``.
    calibration: of ``CALIBRATIONS``.
  """

  margins: np.ndarray
  penalty: np.ndarray
  unseen: np.ndarray
  seen: np.ndarray
  calibration: str = "additive"

  @property
  def gamma(self) -> np.ndarray:
    """The penalties as gamma, ``[m]``."""
    return gamma_of(self.penalty, self.calibration)

  def area(self) -> float:
    """AUSUC, in [0, 1]: trapezoids under S over U."""
    return float(np.trapezoid(self.seen, self.unseen))

  def best_gamma(self) -> float:
    """A gamma of the highest harmonic mean; the lowest penalty where several do."""
    return shared_gamma([self])[0]


def gamma_of(penalty, calibration: str):
  """The gamma of a penalty, and the other way round."""
  return penalty if calibration == "additive" else 1 - penalty


def shared_gamma(curves: Sequence[Curve]) -> tuple[float, float]:
  """The gamma with the highest mean of H over several curves, and that mean.

  That with the lowest penalty, where there are several.
  """
  calibration = curves[0].calibration
  steps = np.unique(np.concatenate([c.margins for c in curves]))
  if calibration == "multiplicative":  # Between its ends.
    inside = steps[np.abs(steps) < 1]
    penalty = _between(np.concatenate([[-1], inside, [1]]))[1:-1]
  else:
    penalty = _between(steps)
  total = np.zeros(len(penalty))
  for curve in curves:
    at = np.searchsorted(curve.margins, penalty)
    total += harmonic_mean(curve.unseen, curve.seen)[at]
  best = int(np.argmax(total))
  return float(gamma_of(penalty[best], calibration)), float(total[best] / len(curves))


def calibrated(
  scores: jax.Array, seen: jax.Array, gamma: float, calibration: str
) -> jax.Array:
  """Scores ``[B, C]`` with those of the classes ``seen`` [C] made smaller."""
  _check(calibration)
  if calibration == "additive":
    lower = scores - gamma
  else:
    lower = scores - (1 - gamma) * jnp.abs(scores)
  return jnp.where(seen[None, :], lower, scores)


def as_additive(
  decisions: Decisions, gamma: float, calibration: str
) -> tuple[Decisions, float]:
  """Decisions and a penalty with which the additive rule decides as ``calibration``.

  Raises:
    ZsljaxError: no such calibration, or a multiplicative gamma outside (0, 2).
  """
  _check(calibration)
  if calibration == "additive":
    return decisions, gamma
  require(0 < gamma < 2, "gamma", gamma, "between 0 and 2 where it is multiplicative")
  return _relative(decisions), 1 - gamma


def _check(calibration: str) -> None:
  require(
    calibration in CALIBRATIONS,
    "calibration",
    repr(calibration),
    f"one of {', '.join(CALIBRATIONS)}",
  )


def _relative(decisions: Decisions) -> Decisions:
  """Seen scores as the share of themselves by which they lead, unseen ones 0.

  A lead of a score of 0 has no share: it stands for every gamma.
  """
  seen = decisions.seen_score.astype(np.float64)
  lead = seen - decisions.unseen_score
  share = np.divide(lead, np.abs(seen), out=np.zeros_like(lead), where=seen != 0)
  share = np.where(seen == 0, 2 * np.sign(lead), share)
  return dataclasses.replace(
    decisions, seen_score=share, unseen_score=np.zeros_like(lead)
  )


def seen_unseen_curve(
  decisions: Decisions,
  seen: np.ndarray,
  per_class: bool = True,
  calibration: str = "additive",
) -> Curve:
  """The exact curve: one sort, then cumulative sums.

  Args:
    decisions: of n images of seen and unseen classes.
    seen: ``[C]`` bool, of the class space.
    per_class: accuracies are means over classes; else over images.
    calibration: of ``CALIBRATIONS``. A multiplicative curve ends where gamma does.
  """
  _check(calibration)
  if calibration == "multiplicative":
    decisions = _relative(decisions)
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
    penalty=_between(steps),
    unseen=np.concatenate([[0], won]),
    seen=np.concatenate([[total], total - lost]),
    calibration=calibration,
  )


def _between(steps: np.ndarray) -> np.ndarray:
  """A value below, between each two, and above ascending ``steps``."""
  return np.concatenate([steps[:1] - 1, (steps[:-1] + steps[1:]) / 2, steps[-1:] + 1])
