"""Small pieces that several networks share."""

import flax.linen as nn
import jax

from zsljax.numerics import l2_normalize

# PyTorch's initial values of a linear layer's weights.
PYTORCH_LINEAR = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def pooled(features: jax.Array) -> jax.Array:
  """Averages features over regions: ``[B, R, D]`` to ``[B, D]``."""
  return features.mean(1) if features.ndim == 3 else features


def unit_rows(features: jax.Array) -> jax.Array:
  """Averages features over regions and scales the rows to length one, ``[B, D]``."""
  return l2_normalize(pooled(features))
