"""Elementary losses: pure functions that return one value for each example."""

from zsljax.losses.classification import (
  class_cross_entropy,
  jensen_shannon,
  probability_distance,
  unseen_cross_entropy,
  unseen_log_mass,
  weighted_score_distance,
)
from zsljax.losses.generalized_softmax import (
  FAMILY,
  RECONSTRUCTIONS,
  GeneralizedSoftmax,
  make_loss,
)
from zsljax.losses.semantic_diversity import (
  matrix_variance,
  pairwise_ranking,
  semantic_diversity,
)

__all__ = [
  "FAMILY",
  "RECONSTRUCTIONS",
  "GeneralizedSoftmax",
  "class_cross_entropy",
  "jensen_shannon",
  "make_loss",
  "matrix_variance",
  "pairwise_ranking",
  "probability_distance",
  "semantic_diversity",
  "unseen_cross_entropy",
  "unseen_log_mass",
  "weighted_score_distance",
]
