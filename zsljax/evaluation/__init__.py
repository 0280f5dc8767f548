"""Evaluation: decisions, metrics, calibration and protocols."""

from zsljax.evaluation.calibration import Curve, seen_unseen_curve
from zsljax.evaluation.decisions import Decisions, decide, decide_all
from zsljax.evaluation.metrics import harmonic_mean, per_class_accuracy
from zsljax.evaluation.protocols import generalized_predictions, single_label_metrics

__all__ = [
  "Curve",
  "Decisions",
  "decide",
  "decide_all",
  "generalized_predictions",
  "harmonic_mean",
  "per_class_accuracy",
  "seen_unseen_curve",
  "single_label_metrics",
]
