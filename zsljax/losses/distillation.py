"""Distances of two classifiers of the same classes.

References:
  Chen et al., `MSDN: Mutually Semantic Distillation Network for Zero-Shot Learning
  <https://arxiv.org/abs/2203.03137>`_, CVPR 2022.
"""

import math

import chex
import jax
import jax.numpy as jnp

Array = jax.Array


def jensen_shannon(scores: Array, others: Array) -> Array:
  r"""Computes the Jensen-Shannon divergence of two softmaxes, in nats.

  .. math:: \tfrac12 KL(p \| m) + \tfrac12 KL(q \| m), \quad m = \tfrac12 (p + q)

  Args:
    scores: ``[B, C]``, whose softmax is p.
    others: ``[B, C]``, whose softmax is q.

  Returns:
    One value per example, ``[B]``, between 0 and log 2.

  Examples:
    >>> print(jensen_shannon(jnp.array([[99.0, 0.0]]), jnp.array([[0.0, 99.0]])))
    [0.6931472]
  """
  chex.assert_equal_shape([scores, others])
  log_p, log_q = jax.nn.log_softmax(scores), jax.nn.log_softmax(others)
  log_m = jnp.logaddexp(log_p, log_q) - math.log(2)
  return (
    jnp.sum(jnp.exp(log_p) * (log_p - log_m), -1)
    + jnp.sum(jnp.exp(log_q) * (log_q - log_m), -1)
  ) / 2


def probability_distance(scores: Array, others: Array) -> Array:
  r"""Computes the squared distance :math:`\|p - q\|^2` of two softmaxes.

  Args:
    scores: ``[B, C]``, whose softmax is p.
    others: ``[B, C]``, whose softmax is q.

  Returns:
    One value per example, ``[B]``.

  Examples:
    >>> print(probability_distance(jnp.array([[99.0, 0.0]]), jnp.array([[0.0, 99.0]])))
    [2.]
  """
  chex.assert_equal_shape([scores, others])
  return jnp.sum((jax.nn.softmax(scores) - jax.nn.softmax(others)) ** 2, -1)


def weighted_score_distance(scores: Array, others: Array) -> Array:
  r"""Computes the distance of the released code, differences weighted by their size.

  .. math:: \sum_c \frac{|d_c|^3}{\|d\|_2}, \quad d = s - t

  Where both agree it is 0 with gradient 0; the released code gives NaN there.

  Args:
    scores: s, ``[B, C]``.
    others: t, ``[B, C]``.

  Returns:
    One value per example, ``[B]``.

  Examples:
    >>> print(weighted_score_distance(jnp.array([[3.0, 0.0]]), jnp.zeros((1, 2))))
    [9.]
  """
  chex.assert_equal_shape([scores, others])
  difference = scores - others
  squares = jnp.sum(difference**2, -1)
  length = jnp.sqrt(jnp.where(squares > 0, squares, 1))
  return jnp.sum(jnp.abs(difference) ** 3, -1) / length
