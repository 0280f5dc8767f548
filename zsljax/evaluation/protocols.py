"""Protocols: which images are scored among which classes, and what is reported."""

from __future__ import annotations

import numpy as np

from zsljax.evaluation.calibration import as_additive, seen_unseen_curve
from zsljax.evaluation.decisions import Decisions
from zsljax.evaluation.metrics import harmonic_mean, per_class_accuracy


def generalized_predictions(
  decisions: Decisions, gamma: float, calibration: str = "additive"
) -> np.ndarray:
  """The class of each image among all classes, calibrated with ``gamma``, ``[n]``.

  Ties go to the class that comes first, as with a plain argmax.
  """
  decisions, penalty = as_additive(decisions, gamma, calibration)
  seen = decisions.seen_score.astype(np.float64) - penalty
  to_seen = (seen > decisions.unseen_score) | (
    (seen == decisions.unseen_score) & (decisions.seen_class < decisions.unseen_class)
  )
  return np.where(to_seen, decisions.seen_class, decisions.unseen_class)


def single_label_metrics(
  decisions: Decisions,
  seen: np.ndarray,
  gamma: float = 0.0,
  calibration: str = "additive",
) -> dict[str, float]:
  """T1, U, S, H and AUSUC in percent.

  ``t1``: images of unseen classes scored among the unseen classes only.
  ``u`` and ``s``: images of unseen and of seen classes scored among all, seen
  scores lowered by ``gamma``. ``h``: their harmonic mean. ``ausuc``: the area
  under the curve that they draw over all additive gamma. All are means over classes;
  ``ausuc_micro``, of curves whose accuracies are means over images, as class-norm's
  code has it.

  Args:
    decisions: of images of seen and unseen classes.
    seen: ``[C]`` bool, of the class space.
    gamma: of calibrated stacking; 0 is none where it is additive.
    calibration: ``additive`` or ``multiplicative``.
  """
  label_seen = seen[decisions.label]
  predicted = generalized_predictions(decisions, gamma, calibration)
  label = decisions.label
  u = per_class_accuracy(predicted[~label_seen], label[~label_seen])
  s = per_class_accuracy(predicted[label_seen], label[label_seen])
  fractions = {
    "t1": per_class_accuracy(decisions.unseen_class[~label_seen], label[~label_seen]),
    "u": u,
    "s": s,
    "h": float(harmonic_mean(u, s)),
    "ausuc": seen_unseen_curve(decisions, seen).area(),
    "ausuc_micro": seen_unseen_curve(decisions, seen, per_class=False).area(),
  }
  return {name: 100 * value for name, value in fractions.items()}
