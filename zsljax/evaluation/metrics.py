"""Accuracies of single-label zero-shot learning, as Xian et al. define them.

References:
  Xian, Lampert, Schiele, Akata, "Zero-Shot Learning: A Comprehensive
  Evaluation of the Good, the Bad and the Ugly" (TPAMI 2018).
"""

from __future__ import annotations

import numpy as np


def class_weights(labels: np.ndarray) -> np.ndarray:
  """Weights ``[n]`` with which a mean over images is a mean over classes.

  The classes are those that occur in ``labels`` [n]; the weights sum to 1.
  """
  _, index, count = np.unique(labels, return_inverse=True, return_counts=True)
  return 1 / (count[index] * len(count))


def per_class_accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
  """Mean over classes of the share of its images that is right, in [0, 1].

  NaN without images.
  """
  if not len(labels):
    return float("nan")
  return float(np.sum(class_weights(labels) * (predicted == labels)))


def harmonic_mean(unseen, seen):
  """H = 2US / (U + S), elementwise; 0 where both are 0."""
  total = unseen + seen
  return 2 * unseen * seen / np.where(total > 0, total, 1)
