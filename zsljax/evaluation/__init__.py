"""Evaluation: one evaluator for each task, metrics, calibration and protocols."""

from zsljax.evaluation.calibration import Calibration
from zsljax.evaluation.evaluator import (
  Evaluator,
  Report,
  make_evaluator,
  over_batches,
  streamed_outputs,
  with_thresholds,
)
from zsljax.evaluation.multilabel import multi_label_metrics
from zsljax.evaluation.protocols import PROTOCOLS, protocols_for
from zsljax.evaluation.single_label import (
  Decisions,
  decide,
  generalized_predictions,
  seen_unseen_curve,
  single_label_metrics,
)

__all__ = [
  "PROTOCOLS",
  "Calibration",
  "Decisions",
  "Evaluator",
  "Report",
  "decide",
  "generalized_predictions",
  "make_evaluator",
  "multi_label_metrics",
  "over_batches",
  "protocols_for",
  "seen_unseen_curve",
  "single_label_metrics",
  "streamed_outputs",
  "with_thresholds",
]
