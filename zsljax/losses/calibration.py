"""Self-calibration: training that keeps some probability for unseen classes.

References:
  Huynh, Elhamifar, "Fine-Grained Generalized Zero-Shot Learning via Dense
  Attribute-Based Attention" (CVPR 2020), which introduced it.

  Chen et al., `MSDN <https://arxiv.org/abs/2203.03137>`_, CVPR 2022.
"""

import chex
import jax
import jax.numpy as jnp

Array = jax.Array


def unseen_log_mass(scores: Array, seen: Array) -> Array:
  r"""Computes the logarithm of the probability of all unseen classes together.

  .. math:: \log \sum_{u \notin \text{seen}} \frac{e^{s_u}}{\sum_c e^{s_c}}

  The released code's loss is minus the logarithm of the mean of these probabilities
  over the batch.

  Args:
    scores: ``[B, C]``.
    seen: ``[C]`` bool, not all true.

  Returns:
    One value per example, ``[B]``, at most 0.

  Examples:
    >>> mass = unseen_log_mass(jnp.zeros((1, 4)), jnp.array([True, True, True, False]))
    >>> print(jnp.exp(mass))
    [0.25]
  """
  chex.assert_rank([scores, seen], [2, 1])
  return jax.nn.logsumexp(jax.nn.log_softmax(scores), -1, where=~seen[None, :])


def unseen_cross_entropy(scores: Array, seen: Array) -> Array:
  r"""Computes the cross-entropy summed over the unseen classes, the paper's loss.

  .. math:: -\sum_{u \notin \text{seen}} \log \frac{e^{s_u}}{\sum_c e^{s_c}}

  Args:
    scores: ``[B, C]``.
    seen: ``[C]`` bool.

  Returns:
    One value per example, ``[B]``.

  Examples:
    >>> print(unseen_cross_entropy(jnp.zeros((1, 2)), jnp.array([True, False])))
    [0.6931472]
  """
  chex.assert_rank([scores, seen], [2, 1])
  return -jnp.sum(jax.nn.log_softmax(scores), -1, where=~seen[None, :])
