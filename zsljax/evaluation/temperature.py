"""Temperature: one number that makes a softmax say how often it is right.

Reference:
  Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks" (ICML 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses

import numpy as np

BINS = 15


@dataclasses.dataclass(frozen=True, eq=False)
class ScoredImages:
  """Scores of one run, on images whose classes are known.

  Attributes:
    scores: with the run's calibration, ``[N, C]``.
    labels: columns of the true classes, ``[N]``.
    mean_margin: additive, of the run's training images, see ``Decisions.mean_margin``.
  """

  scores: np.ndarray
  labels: np.ndarray
  mean_margin: float

  def temperature(self, share: float) -> float:
    """The temperature that is a share of the mean margin.

    As a gamma, a temperature belongs to the scale of one model's scores; its share of
    the margin carries over to a model that is trained on other classes.
    """
    return share * max(abs(self.mean_margin), 1e-6)

  def error(self, temperature: float = 1.0) -> float:
    """The expected calibration error in percent, over ``BINS`` bins of equal width.

    >>> sure = ScoredImages(np.array([[9.0, 0.0], [9.0, 0.0]]), np.array([0, 1]), 1.0)
    >>> round(sure.error()), round(sure.error(1e6))
    (50, 0)
    """
    logits = self._logits(temperature)
    confidence = np.exp(logits.max(1))
    right = logits.argmax(1) == self.labels
    bins = np.minimum((BINS * confidence).astype(int), BINS - 1)
    gaps = np.bincount(bins, confidence - right)
    return float(100 * np.abs(gaps).sum() / len(right))

  def loss(self, temperature: float) -> float:
    """The mean negative log-likelihood of the true classes."""
    own = self._logits(temperature)[np.arange(len(self.labels)), self.labels]
    return float(-own.mean())

  def _logits(self, temperature: float) -> np.ndarray:
    """Logarithms of the probabilities, ``[N, C]``."""
    from scipy.special import log_softmax

    return log_softmax(np.asarray(self.scores, np.float64) / temperature, 1)


def best_temperature_share(runs: Sequence[ScoredImages]) -> float:
  """The share of the mean margin with the lowest mean loss over runs."""
  from scipy.optimize import minimize_scalar

  def loss(log_share):
    share = np.exp(log_share)
    return np.mean([run.loss(run.temperature(share)) for run in runs])

  found = minimize_scalar(loss, bounds=np.log([1e-3, 1e3]), method="bounded")
  return float(f"{np.exp(found.x):.4g}")


def probabilities(run: ScoredImages, share: float) -> dict[str, float]:
  """The temperature of a run with the errors before and after, as rows keep them."""
  temperature = run.temperature(share)
  return {
    "temperature": temperature,
    "ece_before": round(run.error(), 4),
    "ece": round(run.error(temperature), 4),
  }
