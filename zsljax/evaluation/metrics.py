"""Means over classes, and what is refused in scores.

References:
  Xian, Lampert, Schiele, Akata, "Zero-Shot Learning: A Comprehensive
  Evaluation of the Good, the Bad and the Ugly" (TPAMI 2018).
"""

from __future__ import annotations

import numpy as np

from zsljax.errors import require


def class_weights(labels: np.ndarray) -> np.ndarray:
  """Weights ``[n]`` with which a mean over images is a mean over classes.

  The classes are those that occur in ``labels`` [n]; the weights sum to 1.

  >>> class_weights(np.array([7, 7, 2])).tolist()
  [0.25, 0.25, 0.5]
  """
  _, index, count = np.unique(labels, return_inverse=True, return_counts=True)
  return 1 / (count[index] * len(count))


def per_class_accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
  """Mean over classes of the share of its images that is right, in [0, 1].

  NaN without images.

  >>> per_class_accuracy(np.array([0, 1, 5]), np.array([0, 0, 5]))
  0.75
  """
  if not len(labels):
    return float("nan")
  return float(np.sum(class_weights(labels) * (predicted == labels)))


def harmonic_mean(unseen, seen):
  """H = 2US / (U + S), elementwise; 0 where both are 0.

  >>> float(harmonic_mean(0.5, 1.0)), float(harmonic_mean(0.0, 0.0))
  (0.6666666666666666, 0.0)
  """
  total = unseen + seen
  return 2 * unseen * seen / np.where(total > 0, total, 1)


def require_numbers(scores: np.ndarray) -> None:
  """Raises if one of ``scores`` [N, C] is NaN."""
  bad = np.isnan(scores).any(1)
  require(
    not bad.any(),
    "scores",
    f"NaN for {bad.sum()} of {len(bad)} images",
    "numbers: the parameters or features are not finite",
  )
