"""Cross-entropy among some of the classes."""

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
    One value per example, ``[B]``.

  Examples:
    >>> among = jnp.array([True, True, False])
    >>> print(class_cross_entropy(jnp.zeros((1, 3)), jnp.array([0]), among))
    [0.6931472]
  """
  chex.assert_rank([scores, positions, among], [2, 1, 1])
  inside = jnp.where(among[None, :], scores, -jnp.inf)
  return optax.losses.softmax_cross_entropy_with_integer_labels(inside, positions)
