"""Ranking of an image's labels, weighted by their semantic diversity.

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

# Positive labels in one block of the loop.
_BLOCK = 128


def pairwise_ranking(
  positive_scores: Array, positive: Array, negative_scores: Array
) -> Array:
  r"""Sums a ranking loss over all pairs of a positive and a negative label.

  .. math:: \sum_{p} \sum_{n} \log(1 + e^{s_n - s_p})

  Time grows with (positive labels in the batch) x (labels): a loop takes the batch's
  positives in blocks and sums the gradient on the way, so that no pair is stored for a
  reverse pass. The loss cannot be differentiated forwards or twice.

  Args:
    positive_scores: scores of the positive labels, ``[B, M]``.
    positive: true for labels and false for padding, ``[B, M]`` bool.
    negative_scores: ``[B, C]``, minus infinity where a label is not a negative.

  Returns:
    One value per example, ``[B]``; 0 without a positive or without a negative.

  Examples:
    >>> positive, negative = jnp.zeros((1, 1)), jnp.zeros((1, 3))
    >>> print(pairwise_ranking(positive, positive == 0, negative))  # 3 log 2
    [2.0794415]
  """
  chex.assert_rank([positive_scores, positive, negative_scores], 2)
  chex.assert_equal_shape([positive_scores, positive])
  return _ranking(positive_scores, positive, negative_scores)


@jax.custom_vjp
def _ranking(positive_scores: Array, positive: Array, negative_scores: Array) -> Array:
  return _ranking_and_gradients(positive_scores, positive, negative_scores)[0]


def _ranking_and_gradients(positive_scores, positive, negative_scores):
  def block(rows, flat, carry):
    loss, to_positive, to_negative = carry
    # Padding gives -inf.
    own = positive_scores.ravel().at[flat].get(mode="fill", fill_value=jnp.inf)
    difference = negative_scores.at[rows].get(mode="clip") - own[:, None]
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


def _over_positives(block: Callable, positive: Array, carry):
  """Applies ``block`` to the true entries of ``positive`` [B, M], a block at a time.

  It takes the rows and the flat positions of ``_BLOCK`` entries, and the carry, and
  returns the next carry; B and B * M, outside their ranges, stand for padding.
  """
  count, size = jnp.sum(positive), positive.size
  room = -(-size // _BLOCK) * _BLOCK
  (flat,) = jnp.nonzero(positive.ravel(), size=room, fill_value=size)

  def body(i, carry):
    some = jax.lax.dynamic_slice_in_dim(flat, i * _BLOCK, _BLOCK)
    return block(some // positive.shape[1], some, carry)

  return jax.lax.fori_loop(0, -(-count // _BLOCK), body, carry)


def semantic_diversity(positives: Array, vectors: Array) -> Array:
  r"""Computes an image's weight: 1 plus the variance of its labels' vectors.

  .. math:: \omega = 1 + \sum_j \mathrm{Var}_{p}(w_{p,j})

  The variance is the unbiased one. For vectors of length one it is 1 minus the mean
  cosine of two different labels, so the weight lies between 1 and 3. No gradient
  flows into the vectors.

  Args:
    positives: rows of ``vectors`` for each image's labels, ``[B, M]``; -1 is padding.
    vectors: word vectors of the labels, ``[C, V]``.

  Returns:
    ``[B]``; 1 with fewer than two labels.

  Examples:
    >>> print(semantic_diversity(jnp.array([[0, 1], [0, -1]]), jnp.eye(2)))
    [2. 1.]
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
  r"""Computes the variance among the rows of an embedding matrix.

  .. math:: \| \mathrm{Var}_k(A_{k,:}) \|_1

  Args:
    matrices: ``[B, K, V]``.

  Returns:
    The unbiased variances over the K rows, summed over V, ``[B]``; 0 for one row.

  Examples:
    >>> print(matrix_variance(jnp.array([[[0.0, 1.0], [2.0, 1.0]]])))
    [2.]
  """
  chex.assert_rank(matrices, 3)
  deviations = matrices - jnp.mean(matrices, 1, keepdims=True)
  return jnp.sum(deviations**2, (1, 2)) / max(matrices.shape[1] - 1, 1)
