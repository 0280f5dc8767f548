"""Ranking of an image's labels, weighted by how diverse they are.

References:
  Ben-Cohen et al., `Semantic Diversity Learning for Zero-Shot Multi-Label
  Classification <https://arxiv.org/abs/2105.05926>`_, ICCV 2021. The formulas follow
  the authors' released code, with a softplus that does not overflow and zeros where
  the code divides zero by zero.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

Array = jax.Array

# Positive labels that are worked on at once.
_BLOCK = 128


def pairwise_ranking(
  positive_scores: Array, positive: Array, negative_scores: Array
) -> Array:
  r"""How far negative labels score above positive ones, summed over all pairs.

  .. math:: \sum_{p} \sum_{n} \log(1 + e^{s_n - s_p})

  Time and memory grow with (positive labels in the batch) x (labels): a loop takes
  blocks of the batch's positives, as many as there are, and gathers the gradient on
  the way, so there is no reverse pass to store it for. It cannot be differentiated
  forwards or twice. Where a batch is split over devices, each goes through all of its
  positives.

  Args:
    positive_scores: scores of the positive labels, ``[B, M]``.
    positive: which of them are labels and which padding, ``[B, M]`` bool.
    negative_scores: ``[B, C]``, minus infinity where a label is not a negative.

  Returns:
    One value per example, ``[B]``; 0 without a positive or without a negative.
  """
  chex.assert_rank([positive_scores, positive, negative_scores], 2)
  chex.assert_equal_shape([positive_scores, positive])
  return _ranking(positive_scores, positive, negative_scores)


@jax.custom_vjp
def _ranking(positive_scores: Array, positive: Array, negative_scores: Array) -> Array:
  def block(rows, flat, loss):
    difference = _differences(rows, flat, positive_scores, negative_scores)
    return loss.at[rows].add(jax.nn.softplus(difference).sum(1), mode="drop")

  loss = jnp.zeros(len(positive), positive_scores.dtype)
  return _over_positives(block, positive, loss)


def _ranking_and_gradients(positive_scores, positive, negative_scores):
  def block(rows, flat, carry):
    loss, to_positive, to_negative = carry
    difference = _differences(rows, flat, positive_scores, negative_scores)
    # Softplus and its derivative, from one exponential.
    small = jnp.exp(-jnp.abs(difference))
    pairs = jnp.maximum(difference, 0) + jnp.log1p(small)
    slopes = jnp.where(difference >= 0, 1, small) / (1 + small)
    return (
      loss.at[rows].add(pairs.sum(1), mode="drop"),
      to_positive.at[flat].add(-slopes.sum(1), mode="drop"),
      to_negative.at[rows].add(slopes, mode="drop", indices_are_sorted=True),
    )

  dtype = positive_scores.dtype
  loss, to_positive, to_negative = _over_positives(
    block,
    positive,
    (
      jnp.zeros(len(positive), dtype),
      jnp.zeros(positive.size, dtype),
      jnp.zeros(negative_scores.shape, dtype),
    ),
  )
  return loss, (to_positive.reshape(positive.shape), to_negative)


def _times_gradients(gradients, cotangent):
  to_positive, to_negative = gradients
  return to_positive * cotangent[:, None], None, to_negative * cotangent[:, None]


_ranking.defvjp(_ranking_and_gradients, _times_gradients)


def _differences(rows, flat, positive_scores, negative_scores) -> Array:
  """Negative minus positive score for a block of positives; padding is -inf."""
  own = positive_scores.ravel().at[flat].get(mode="fill", fill_value=jnp.inf)
  return negative_scores.at[rows].get(mode="clip") - own[:, None]


def _over_positives(block: Callable, positive: Array, carry):
  """Applies ``block`` to the true entries of ``positive`` [B, M], some at a time.

  ``block`` gets the row and the flat place of each, and the carry; B and B * M,
  outside their ranges, stand for none.
  """
  count, size = jnp.sum(positive), positive.size
  room = -(-size // _BLOCK) * _BLOCK
  (flat,) = jnp.nonzero(positive.ravel(), size=room, fill_value=size)

  def body(i, carry):
    some = jax.lax.dynamic_slice_in_dim(flat, i * _BLOCK, _BLOCK)
    return block(some // positive.shape[1], some, carry)

  return jax.lax.fori_loop(0, -(-count // _BLOCK), body, carry)


def semantic_diversity(positives: Array, vectors: Array) -> Array:
  r"""The weight of an image: 1 plus the variance of its labels' vectors.

  .. math:: \omega = 1 + \sum_j \mathrm{Var}_{p}(w_{p,j})

  The variance is the unbiased one. For vectors of length one it is 1 minus the mean
  cosine of two different labels, so the weight lies between 1 and 3. No gradient
  flows into the vectors.

  Args:
    positives: rows of ``vectors`` for each image's labels, ``[B, M]``; -1 is padding.
    vectors: ``[C, V]``.

  Returns:
    ``[B]``; 1 with fewer than two labels.
  """
  chex.assert_rank([positives, vectors], 2)
  positives, vectors = jnp.asarray(positives), jax.lax.stop_gradient(vectors)
  positive = positives >= 0

  def block(rows, flat, total):
    own = positives.ravel().at[flat].get(mode="fill", fill_value=-1)
    added = jnp.where(own[:, None] >= 0, vectors[own], 0)
    return total.at[rows].add(added, mode="drop")

  total = jnp.zeros((len(positives), vectors.shape[1]), vectors.dtype)
  total = _over_positives(block, positive, total)
  lengths = jnp.sum(vectors**2, 1)[positives]
  count = jnp.sum(positive, 1)
  spread = jnp.sum(lengths, 1, where=positive)
  spread -= jnp.sum(total**2, 1) / jnp.maximum(count, 1)
  # Rounding must not make it negative.
  spread = jnp.maximum(spread, 0) / jnp.maximum(count - 1, 1)
  return 1 + jnp.where(count > 1, spread, 0)


def matrix_variance(matrices: Array) -> Array:
  r"""How unlike the rows of an embedding matrix are.

  .. math:: \| \mathrm{Var}_k(A_{k,:}) \|_1

  Args:
    matrices: ``[B, K, V]``.

  Returns:
    The unbiased variances over the K rows, summed over V, ``[B]``; 0 for one row.
  """
  chex.assert_rank(matrices, 3)
  deviations = matrices - jnp.mean(matrices, 1, keepdims=True)
  return jnp.sum(deviations**2, (1, 2)) / max(matrices.shape[1] - 1, 1)
