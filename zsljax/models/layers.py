"""Small pieces that several networks share."""

import flax.linen as nn
import jax

# PyTorch's initial values of a linear layer's weights.
PYTORCH_LINEAR = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def pooled(features: jax.Array) -> jax.Array:
  """[B, D] features; the mean over regions of [B, R, D]."""
  return features.mean(1) if features.ndim == 3 else features
