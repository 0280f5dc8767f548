"""Calibrated stacking: a penalty on the scores of seen classes.

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
from zsljax.evaluation.metrics import harmonic_mean

CALIBRATIONS = ("additive", "multiplicative")


@dataclasses.dataclass(frozen=True)
class Calibration:
  """A kind of calibration with its gamma.

  Additive: a score s of a seen class becomes ``s - gamma``. Multiplicative: it becomes
  ``s - (1 - gamma) |s|``, which is ``gamma s`` where s is positive and
  ``(2 - gamma) s`` where s is negative, so that a gamma below 1 always takes away. A
  gamma in (0, 2) keeps the order of the seen classes.

  Attributes:
    kind: of ``CALIBRATIONS``.
    gamma: None takes nothing away.

  Raises:
    ZsljaxError: no such kind, or a multiplicative gamma outside (0, 2).

  >>> scores, seen = np.array([[-3.0, 2.0, 1.0]]), np.array([True, True, False])
  >>> Calibration("additive", 0.5).lowered(scores, seen).tolist()
  [[-3.5, 1.5, 1.0]]
  >>> Calibration("multiplicative", 0.5).lowered(scores, seen).tolist()
  [[-4.5, 1.0, 1.0]]
  """

  kind: str = "additive"
  gamma: float | None = None

  def __post_init__(self):
    expected = f"one of {', '.join(CALIBRATIONS)}"
    require(self.kind in CALIBRATIONS, "calibration", repr(self.kind), expected)
    require(
      self.gamma is None or self.kind == "additive" or 0 < self.gamma < 2,
      "gamma",
      self.gamma,
      "between 0 and 2 where it is multiplicative",
    )

  @property
  def penalty(self) -> float:
    """Gamma of an additive calibration, 1 - gamma of a multiplicative; 0 of none."""
    return 0.0 if self.gamma is None else gamma_of(self.gamma, self.kind)

  @property
  def name(self) -> str:
    """The kind as result rows have it: ``none`` without a gamma."""
    return "none" if self.gamma is None else self.kind

  def lowered(self, scores: jax.Array, seen: jax.Array) -> jax.Array:
    """Scores ``[B, C]`` with those of the classes ``seen`` [C] made smaller."""
    unit = 1.0 if self.kind == "additive" else jnp.abs(scores)
    return jnp.where(seen[None, :], scores - self.penalty * unit, scores)


UNCALIBRATED = Calibration()


def gamma_of(penalty, kind: str):
  """The gamma of a penalty, and the other way round."""
  return penalty if kind == "additive" else 1 - penalty


@dataclasses.dataclass(frozen=True)
class Curve:
  """Accuracies for every gamma that makes a difference, ascending in the penalty.

  Attributes:
    margins: penalties (see ``Calibration.penalty``) at which they change, ``[m - 1]``.
    penalty: one value inside each interval between two changes, ``[m]``.
    unseen: U there, in [0, 1], ``[m]``.
    seen: S there, in [0, 1], ``[m]``.
    kind: of the calibration.
  """

  margins: np.ndarray
  penalty: np.ndarray
  unseen: np.ndarray
  seen: np.ndarray
  kind: str = "additive"

  @property
  def gamma(self) -> np.ndarray:
    """The penalties as gamma, ``[m]``."""
    return gamma_of(self.penalty, self.kind)

  def area(self) -> float:
    """AUSUC, in [0, 1]: trapezoids under S over U."""
    return float(np.trapezoid(self.seen, self.unseen))

  def best(self) -> Calibration:
    """The calibration of the highest harmonic mean, see ``best_calibration``."""
    return best_calibration([self])[0]


def best_calibration(curves: Sequence[Curve]) -> tuple[Calibration, float]:
  """The calibration with the highest mean of H over curves, and that mean, in [0, 1].

  The one with the lowest penalty, where there are several.

  >>> curve = Curve(
  ...   margins=np.array([1.0, 3.0]),
  ...   penalty=np.array([0.0, 2.0, 4.0]),
  ...   unseen=np.array([0.0, 0.5, 1.0]),
  ...   seen=np.array([1.0, 0.5, 0.0]),
  ... )
  >>> best_calibration([curve])
  (Calibration(kind='additive', gamma=2.0), 0.5)
  """
  kind = curves[0].kind
  steps = np.unique(np.concatenate([c.margins for c in curves]))
  if kind == "multiplicative":  # Between its ends.
    inside = steps[np.abs(steps) < 1]
    penalty = between(np.concatenate([[-1], inside, [1]]))[1:-1]
  else:
    penalty = between(steps)
  total = np.zeros(len(penalty))
  for curve in curves:
    at = np.searchsorted(curve.margins, penalty)
    total += harmonic_mean(curve.unseen, curve.seen)[at]
  best = int(np.argmax(total))
  gamma = float(gamma_of(penalty[best], kind))
  return Calibration(kind, gamma), float(total[best] / len(curves))


def between(steps: np.ndarray) -> np.ndarray:
  """A value below, between each two, and above ascending ``steps``.

  >>> between(np.array([1.0, 3.0])).tolist()
  [0.0, 2.0, 4.0]
  """
  return np.concatenate([steps[:1] - 1, (steps[:-1] + steps[1:]) / 2, steps[-1:] + 1])
