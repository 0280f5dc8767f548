"""Evaluation: one evaluator for each task, metrics, calibration and protocols."""

from zsljax.evaluation.calibration import (
  CALIBRATIONS,
  UNCALIBRATED,
  Calibration,
  Curve,
  best_calibration,
)
from zsljax.evaluation.class_retrieval import class_retrieval
from zsljax.evaluation.embeddings import (
  Embedded,
  embedding_metrics,
  mean_cosines,
  pair_similarities,
  pair_verification,
  read_pairs,
  retrieval,
  verification,
)
from zsljax.evaluation.evaluator import (
  Evaluator,
  Report,
  make_evaluator,
  over_batches,
  streamed_outputs,
)
from zsljax.evaluation.metrics import (
  per_class_accuracy,
)
from zsljax.evaluation.multilabel import (
  MULTI_LABEL_PROTOCOLS,
  PUBLISHED_DENSITY,
  MultiLabelProtocol,
  average_precisions,
  multi_label_metrics,
  precision_and_recall,
)
from zsljax.evaluation.protocols import (
  PROTOCOLS,
  protocols_for,
  selection_metric,
)
from zsljax.evaluation.selection import selection_value
from zsljax.evaluation.single_label import (
  Decisions,
  decide,
  generalized_predictions,
  seen_unseen_curve,
  single_label_metrics,
)

__all__ = [
  "CALIBRATIONS",
  "MULTI_LABEL_PROTOCOLS",
  "PROTOCOLS",
  "PUBLISHED_DENSITY",
  "UNCALIBRATED",
  "Calibration",
  "Curve",
  "Decisions",
  "Embedded",
  "Evaluator",
  "MultiLabelProtocol",
  "Report",
  "average_precisions",
  "best_calibration",
  "class_retrieval",
  "decide",
  "embedding_metrics",
  "generalized_predictions",
  "make_evaluator",
  "mean_cosines",
  "multi_label_metrics",
  "over_batches",
  "pair_similarities",
  "pair_verification",
  "per_class_accuracy",
  "precision_and_recall",
  "protocols_for",
  "read_pairs",
  "retrieval",
  "seen_unseen_curve",
  "selection_metric",
  "selection_value",
  "single_label_metrics",
  "streamed_outputs",
  "verification",
]
