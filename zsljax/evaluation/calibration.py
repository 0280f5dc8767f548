"""Calibrated stacking: a penalty on the scores of seen classes.

References:
  Chao, Changpinyo, Gong, Sha, "An Empirical Study and Analysis of Generalized
  Zero-Shot Learning for Object Recognition in the Wild" (ECCV 2016): additive, and the
  area under the seen-unseen accuracy curve that gamma draws.

  Skorokhodov & Elhoseiny (ICLR 2021), released code: seen scores times 0.95.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from zsljax.errors import require
from zsljax.evaluation.metrics import harmonic_mean

CALIBRATIONS = ("additive", "multiplicative")
# The most training images whose margins are averaged, evenly spaced among all.
MARGIN_IMAGES = 2000


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
    ZsljaxError: no such kind, a gamma that is not finite, or a multiplicative one
      outside (0, 2).

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
    finite = self.gamma is None or np.isfinite(self.gamma)
    require(finite, "gamma", self.gamma, "a finite number")
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

  @property
  def text(self) -> str:
    """The name with gamma."""
    return self.name if self.gamma is None else f"{self.kind} {self.gamma:.4g}"

  def lowered(self, scores: jax.Array, seen: jax.Array) -> jax.Array:
    """Scores ``[B, C]`` with those of the classes ``seen`` [C] made smaller."""
    unit = 1.0 if self.kind == "additive" else jnp.abs(scores)
    return jnp.where(seen[None, :], scores - self.penalty * unit, scores)


UNCALIBRATED = Calibration()


def gamma_of(penalty, kind: str):
  """The gamma of a penalty, and the other way round."""
  return penalty if kind == "additive" else 1 - penalty


# Shares of the mean training margin among which one is chosen.
SHARES = np.linspace(-1.0, 3.0, 401)


def of_share(share: float, mean_margin: float, kind: str) -> Calibration:
  """The calibration whose penalty is a share of a model's mean training margin.

  A gamma belongs to the scale of one model's scores. Its share of the mean margin (best
  seen minus best unseen score, see ``Decisions.margins``) of that model's training
  images has no unit, and carries over to a model that is trained on other classes.

  >>> of_share(0.5, 3.0, "additive")
  Calibration(kind='additive', gamma=1.5)

  Args:
    share: of ``best_share``.
    mean_margin: ``Decisions.mean_margin`` of up to ``MARGIN_IMAGES`` training images.
    kind: of ``CALIBRATIONS``; a multiplicative penalty ends short of -1 and 1.
  """
  return Calibration(kind, float(gamma_of(_penalties(share, mean_margin, kind), kind)))


def _penalties(shares, mean_margin: float, kind: str):
  """Penalties of shares; the multiplicative gamma ends short of 0 and 2."""
  penalties = shares * mean_margin
  return penalties if kind == "additive" else np.clip(penalties, -0.999, 0.999)


def margin_rows(count: int) -> np.ndarray:
  """Places of the training images, of ``count``, whose margins are averaged."""
  places = np.linspace(0, count - 1, min(count, MARGIN_IMAGES))
  return np.unique(places.astype(int))


def best_share(h: np.ndarray) -> tuple[float, float]:
  """The share with the highest mean of H over runs, the lowest of equals; that mean.

  >>> h = np.zeros((2, len(SHARES)))
  >>> h[:, 150] = 40.0, 50.0
  >>> best_share(h)
  (0.5, 45.0)

  Args:
    h: of each run at each of ``SHARES``, see ``Curve.h_of_shares``, ``[R, 401]``.
  """
  mean = np.mean(h, 0)
  best = int(np.argmax(mean))
  return round(float(SHARES[best]), 2), float(mean[best])


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

  def points(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gamma, and U and S in percent; a multiplicative gamma is between 0 and 2."""
    ends = np.inf if self.kind == "additive" else 1.0
    inside = np.abs(self.penalty) < ends
    return self.gamma[inside], 100 * self.unseen[inside], 100 * self.seen[inside]

  def area(self) -> float:
    """AUSUC, in [0, 1]: trapezoids under S over U."""
    return float(np.trapezoid(self.seen, self.unseen))

  def h_of_shares(self, mean_margin: float) -> np.ndarray:
    """H in percent at each of ``SHARES`` of a mean training margin, ``[401]``."""
    penalties = _penalties(SHARES, mean_margin, self.kind)
    at = np.searchsorted(self.margins, penalties)
    return 100 * harmonic_mean(self.unseen, self.seen)[at]

  def best(self) -> Calibration:
    """The calibration of the highest harmonic mean; of equals the lowest penalty.

    >>> margins, penalty = np.array([1.0, 3.0]), np.array([0.0, 2.0, 4.0])
    >>> up, down = np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.5, 0.0])
    >>> Curve(margins, penalty, unseen=up, seen=down).best()
    Calibration(kind='additive', gamma=2.0)
    """
    penalty = self.penalty
    if self.kind == "multiplicative":  # Between its ends.
      inside = self.margins[np.abs(self.margins) < 1]
      penalty = between(np.concatenate([[-1], inside, [1]]))[1:-1]
    at = np.searchsorted(self.margins, penalty)
    best = int(np.argmax(harmonic_mean(self.unseen, self.seen)[at]))
    return Calibration(self.kind, float(gamma_of(penalty[best], self.kind)))


def between(steps: np.ndarray) -> np.ndarray:
  """A value below, between each two, and above ascending ``steps``.

  >>> between(np.array([1.0, 3.0])).tolist()
  [0.0, 2.0, 4.0]
  """
  return np.concatenate([steps[:1] - 1, (steps[:-1] + steps[1:]) / 2, steps[-1:] + 1])
