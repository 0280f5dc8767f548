"""Losses of class scores ``[B, C]``, one value for each example ``[B]``.

References:
  Chen et al., `MSDN: Mutually Semantic Distillation Network for Zero-Shot Learning
  <https://arxiv.org/abs/2203.03137>`_, CVPR 2022, for all but the plain cross-entropy.

  Huynh, Elhamifar, "Fine-Grained Generalized Zero-Shot Learning via Dense
  Attribute-Based Attention" (CVPR 2020), which introduced self-calibration: training
  that keeps some probability for unseen classes.
"""

import math

import chex
import jax
import jax.numpy as jnp
import optax

Array = jax.Array


def class_cross_entropy(scores: Array, positions: Array, among: Array) -> Array:
  r"""Computes the cross-entropy of a softmax over some of the classes.

  .. math:: -\log \frac{e^{s_{y}}}{\sum_{c \in \text{among}} e^{s_c}}

  Args:
    scores: ``[B, C]``.
    positions: the column of the true class, ``[B]`` integer, one of ``among``.
    among: the classes in the denominator, ``[C]`` bool.

  Returns:
    ``[B]``; NaN at the position -1, so that a label outside the classes does not pass
    unseen.

  Examples:
    >>> among = jnp.array([True, True, False])
    >>> print(class_cross_entropy(jnp.zeros((1, 3)), jnp.array([0]), among))
    [0.6931472]
  """
  chex.assert_rank([scores, positions, among], [2, 1, 1])
  inside = jnp.where(among[None, :], scores, -jnp.inf)
  loss = optax.losses.softmax_cross_entropy_with_integer_labels(
    inside, jnp.maximum(positions, 0)
  )
  return jnp.where(positions < 0, jnp.nan, loss)


def unseen_log_mass(scores: Array, seen: Array) -> Array:
  r"""Computes the logarithm of the probability of all unseen classes together.

  The released code's loss is minus the logarithm of the mean of these probabilities
  over the batch. ``seen`` is ``[C]`` bool; where all are, there is nothing to keep
  probability for, and it is 0.

  >>> mass = unseen_log_mass(jnp.zeros((1, 4)), jnp.array([True, True, True, False]))
  >>> print(jnp.exp(mass))
  [0.25]
  """
  chex.assert_rank([scores, seen], [2, 1])
  nothing = seen.all()
  mass = jax.nn.logsumexp(
    jax.nn.log_softmax(scores), -1, where=(~seen | nothing)[None, :]
  )
  return jnp.where(nothing, 0, mass)


def unseen_cross_entropy(scores: Array, seen: Array) -> Array:
  r"""Computes the cross-entropy summed over the unseen classes, the paper's loss.

  .. math:: -\sum_{u \notin \text{seen}} \log \frac{e^{s_u}}{\sum_c e^{s_c}}

  >>> print(unseen_cross_entropy(jnp.zeros((1, 2)), jnp.array([True, False])))
  [0.6931472]
  """
  chex.assert_rank([scores, seen], [2, 1])
  return -jnp.sum(jax.nn.log_softmax(scores), -1, where=~seen[None, :])


def jensen_shannon(scores: Array, others: Array) -> Array:
  r"""Computes the Jensen-Shannon divergence of two softmaxes, 0 to log 2 nats.

  .. math:: \tfrac12 KL(p \| m) + \tfrac12 KL(q \| m), \quad m = \tfrac12 (p + q)

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

  >>> print(probability_distance(jnp.array([[99.0, 0.0]]), jnp.array([[0.0, 99.0]])))
  [2.]
  """
  chex.assert_equal_shape([scores, others])
  return jnp.sum((jax.nn.softmax(scores) - jax.nn.softmax(others)) ** 2, -1)


def weighted_score_distance(scores: Array, others: Array) -> Array:
  r"""Computes the distance of the released code, differences weighted by their size.

  .. math:: \sum_c \frac{|d_c|^3}{\|d\|_2}, \quad d = s - t

  Where both agree it is 0 with gradient 0; the released code gives NaN there.

  >>> print(weighted_score_distance(jnp.array([[3.0, 0.0]]), jnp.zeros((1, 2))))
  [9.]
  """
  chex.assert_equal_shape([scores, others])
  difference = scores - others
  squares = jnp.sum(difference**2, -1)
  length = jnp.sqrt(jnp.where(squares > 0, squares, 1))
  return jnp.sum(jnp.abs(difference) ** 3, -1) / length
