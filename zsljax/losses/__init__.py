"""Elementary losses: unreduced, one value per example, pure."""

from zsljax.losses.semantic_softmax import (
  bernoulli_divergence,
  class_cross_entropy,
  prototype_cross_term,
  prototype_distance,
)

__all__ = [
  "bernoulli_divergence",
  "class_cross_entropy",
  "prototype_cross_term",
  "prototype_distance",
]
