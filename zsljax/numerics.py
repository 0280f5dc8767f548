"""Small numerical pieces that several systems share."""

import jax
import jax.numpy as jnp

Array = jax.Array


def l2_normalize(x: Array, axis: int = -1, eps: float = 1e-12) -> Array:
  """Scales vectors along ``axis`` to unit length; a zero vector stays zero.

  ``eps`` stands inside the root, so that the gradient at zero is finite.
  """
  return x * jax.lax.rsqrt(jnp.sum(x * x, axis, keepdims=True) + eps)


def masked_mean(values: Array, mask: Array) -> Array:
  """The mean of ``values`` [B] over the rows where ``mask`` [B] is true.

  0 where no row is, so that a batch of nothing but padding stays finite.
  """
  total = jnp.sum(jnp.where(mask, values, 0))
  return total / jnp.maximum(jnp.sum(mask), 1)
