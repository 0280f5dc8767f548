"""Evaluation: decisions, metrics, calibration and protocols."""

from zsljax.evaluation.calibration import (
  CALIBRATIONS,
  Curve,
  seen_unseen_curve,
  shared_gamma,
)
from zsljax.evaluation.class_retrieval import class_retrieval
from zsljax.evaluation.decisions import (
  Decisions,
  class_scores,
  decide,
  decide_all,
  decisions_of,
  require_numbers,
  scores_of,
)
from zsljax.evaluation.embeddings import (
  Embedded,
  cosine_statistics,
  embed_all,
  embedded,
  embedding_metrics,
  pair_similarities,
  pair_verification,
  read_pairs,
  retrieval,
  verification,
)
from zsljax.evaluation.metrics import harmonic_mean, per_class_accuracy
from zsljax.evaluation.multilabel import (
  MULTI_LABEL_PROTOCOLS,
  PUBLISHED_DENSITY,
  MultiLabelProtocol,
  average_precisions,
  dense_labels,
  multi_label_metrics,
  precision_and_recall,
  score_all,
)
from zsljax.evaluation.protocols import generalized_predictions, single_label_metrics

__all__ = [
  "CALIBRATIONS",
  "MULTI_LABEL_PROTOCOLS",
  "PUBLISHED_DENSITY",
  "Curve",
  "Decisions",
  "Embedded",
  "MultiLabelProtocol",
  "average_precisions",
  "class_retrieval",
  "class_scores",
  "cosine_statistics",
  "decide",
  "decide_all",
  "decisions_of",
  "dense_labels",
  "embed_all",
  "embedded",
  "embedding_metrics",
  "generalized_predictions",
  "harmonic_mean",
  "multi_label_metrics",
  "pair_similarities",
  "pair_verification",
  "read_pairs",
  "require_numbers",
  "per_class_accuracy",
  "precision_and_recall",
  "retrieval",
  "score_all",
  "scores_of",
  "seen_unseen_curve",
  "shared_gamma",
  "single_label_metrics",
  "verification",
]
