"""Small numerical pieces that several systems share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Array = jax.Array


def inverse_length(x: Array, axis: int = -1) -> Array:
  """1 / |x| along ``axis``, which stays with size 1; 0, with gradient 0, for x = 0."""
  squares = jnp.sum(x * x, axis, keepdims=True)
  positive = squares > 0
  return jnp.where(positive, jax.lax.rsqrt(jnp.where(positive, squares, 1)), 0)


def l2_normalize(x: Array, axis: int = -1) -> Array:
  """Scales vectors along ``axis`` to unit length; a zero vector stays zero."""
  return x * inverse_length(x, axis)


def masked_mean(values: Array, mask: Array) -> Array:
  """The mean of ``values`` [B] over the rows where ``mask`` [B] is true.

  0 where no row is, so that a batch of nothing but padding stays finite.
  """
  total = jnp.sum(jnp.where(mask, values, 0))
  return total / jnp.maximum(jnp.sum(mask), 1)


def masked_log_mean(logs: Array, mask: Array) -> Array:
  """The logarithm of the mean of ``exp(logs)`` [B] over the rows of ``mask`` [B].

  -inf where there is no row.
  """
  total = jax.nn.logsumexp(logs, where=mask)
  return total - jnp.log(jnp.maximum(jnp.sum(mask), 1).astype(logs.dtype))


def minimize(objective: Callable[[Any], Array], params: Any, steps: int) -> Any:
  """``params`` after ``steps`` of L-BFGS on ``objective``; can be jitted."""
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
