"""Small numerical functions that several systems share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array

# Sums of squares of numbers up to this are finite in float32.
LARGEST = 1e15
# PyTorch's initial values of a linear layer's weights.
PYTORCH_LINEAR = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


@jax.custom_jvp
def inverse_length(x: Array) -> Array:
  """Computes 1 / |x| along the last axis, which stays with size 1.

  The value and the gradient are 0 for x = 0. The input is read once: squares are summed
  on three scales, of which one neither overflows nor vanishes.

  >>> print(inverse_length(jnp.array([[3.0, 4.0], [0.0, 0.0]])).ravel())
  [0.2 0. ]
  """
  half = jnp.finfo(x.dtype).maxexp // 2
  up, down = 2.0**half, 2.0 ** (-half - half // 8)

  def inverse(scale: float) -> Array:
    return _inverse_root(jnp.sum((x * scale) ** 2, -1, keepdims=True)) * scale

  usual = inverse(1.0)
  exact = (usual > 0) & (usual < 2.0 ** (half // 2))
  found = jnp.where(exact, usual, inverse(up))
  # Zero stands for an infinite sum too.
  return jnp.where(found > 0, found, inverse(down))


@inverse_length.defjvp
def _change_of_inverse_length(primals, tangents):
  (x,), (change,) = primals, tangents
  inverse = inverse_length(x)
  along = jnp.sum((x * inverse) * (change * inverse), -1, keepdims=True)
  return inverse, -inverse * along


def l2_normalize(x: Array) -> Array:
  """Scales vectors along the last axis to unit length; a zero vector stays zero.

  >>> print(l2_normalize(jnp.array([2e19, 0.0])))
  [1. 0.]
  """
  x = x * _toward_one(x)
  return x * _inverse_root(jnp.sum(x * x, -1, keepdims=True))


def _toward_one(x: Array) -> Array:
  """Powers of two that take the largest number of each vector near one, ``[..., 1]``.

  Squares of scaled numbers neither overflow nor vanish, and scaling changes no bit.
  """
  largest = jnp.max(jnp.abs(jax.lax.stop_gradient(x)), -1, keepdims=True)
  half = jnp.finfo(largest.dtype).maxexp // 2
  exponent = jnp.clip(jnp.frexp(largest)[1], -half, half + half // 2)
  return jnp.ldexp(jnp.ones_like(largest), -exponent)


def _inverse_root(squares: Array) -> Array:
  """Computes one over the root, 0 where ``squares`` are 0."""
  positive = squares > 0
  return jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, squares, 1)), 0)


def pooled(features: Array) -> Array:
  """Averages features over regions: ``[B, R, D]`` to ``[B, D]``."""
  if features.ndim == 2:
    return features
  # A power of two below 1 / R: no sum of finite numbers overflows.
  scale = 0.5 ** (features.shape[1] - 1).bit_length()
  return (features * scale).mean(1) / scale


def unit_rows(features: Array) -> Array:
  """Averages features over regions and scales the rows to length one, ``[B, D]``."""
  return l2_normalize(pooled(features))


def masked_mean(values: Array, mask: Array) -> Array:
  """Averages ``values`` [B] over the rows where ``mask`` [B] is true.

  The mean of no row is 0, so that a batch of nothing but padding stays finite.

  >>> print(masked_mean(jnp.array([1.0, 3.0, 9.0]), jnp.array([True, True, False])))
  2.0
  """
  total = jnp.sum(jnp.where(mask, values, 0))
  return total / jnp.maximum(jnp.sum(mask), 1)


def masked_log_mean(logs: Array, mask: Array) -> Array:
  """Computes the logarithm of the mean of ``exp(logs)`` [B] over ``mask`` [B].

  The result is -inf where there is no row.

  >>> print(masked_log_mean(jnp.zeros(2), jnp.array([True, True])))
  0.0
  """
  total = jax.nn.logsumexp(logs, where=mask)
  return total - jnp.log(jnp.maximum(jnp.sum(mask), 1).astype(logs.dtype))


def minimize(objective: Callable[[Any], Array], params: Any, steps: int) -> Any:
  """Takes ``steps`` of L-BFGS on ``objective`` from ``params``; can be jitted.

  >>> x = minimize(lambda x: (x - 2.0) ** 2, jnp.array(0.0), 5)
  >>> print(f"{x:.3f}")
  2.000
  """
  import optax

  optimizer = optax.lbfgs()

  def step(_, carry):
    params, state = carry
    value, gradient = jax.value_and_grad(objective)(params)
    updates, state = optimizer.update(
      gradient, state, params, value=value, grad=gradient, value_fn=objective
    )
    return optax.apply_updates(params, updates), state

  carry = params, optimizer.init(params)
  return jax.lax.fori_loop(0, steps, step, carry)[0]
