import functools

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

from zsljax.losses import matrix_variance, pairwise_ranking, semantic_diversity


def ranking_case(seed=0, rows=5, labels=9, most=4, scale=1.0):
  """Scores, and of each image's labels some positive, some negative, some neither."""
  rng = np.random.default_rng(seed)
  scores = scale * rng.standard_normal((rows, labels))
  kinds = rng.integers(-1, 2, (rows, labels))
  positives = np.full((rows, most), -1)
  for i, row in enumerate(kinds):
    ids = np.flatnonzero(row == 1)[:most]
    positives[i, rng.permutation(most)[: len(ids)]] = ids  # Padding stands anywhere.
  return scores, positives, kinds == -1


@functools.partial(jax.jit, static_argnums=3)
def ranking(scores, positives, negative, loss=pairwise_ranking):
  own = jnp.take_along_axis(scores, jnp.maximum(positives, 0), 1)
  return loss(own, positives >= 0, jnp.where(negative, scores, -jnp.inf))


def all_pairs(own, positive, negative_scores):
  pairs = jax.nn.softplus(negative_scores[:, None, :] - own[:, :, None])
  return jnp.sum(jnp.where(positive[:, :, None], pairs, 0), (1, 2))


@functools.partial(jax.jit, static_argnums=4)
def weighted(scores, positives, negative, weights, loss):
  """The weighted sum over images, and its gradient."""

  def total(scores):
    return weights @ ranking(scores, positives, negative, loss)

  return jax.value_and_grad(total)(scores)


def test_ranking_equals_numpy(float64):
  scores, positives, negative = ranking_case()
  expected = np.zeros(len(scores))
  for i, row in enumerate(scores):
    for p in positives[i][positives[i] >= 0]:
      for n in np.flatnonzero(negative[i]):
        expected[i] += np.log(1 + np.exp(row[n] - row[p]))
  assert np.all(expected > 0)
  found = ranking(jnp.asarray(scores), positives, negative)
  np.testing.assert_allclose(found, expected, rtol=1e-12)


@given(st.integers(0, 1000), st.floats(0.1, 50))
def test_ranking_and_gradient_equal_all_pairs(seed, scale):
  with jax.enable_x64(True):
    scores, positives, negative = ranking_case(seed, scale=scale)
    weights = np.random.default_rng(seed).standard_normal(len(scores))

    case = jnp.asarray(scores), positives, negative, weights
    found, expected = weighted(*case, pairwise_ranking), weighted(*case, all_pairs)
    for one, other in zip(found, expected, strict=True):
      np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_ranking_of_more_positives_than_one_block(float64):
  case = ranking_case(rows=60, labels=30, most=12)
  assert (case[1] >= 0).sum() > 3 * 128
  case = *case, np.ones(60)
  found, expected = weighted(*case, pairwise_ranking), weighted(*case, all_pairs)
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-10)
  np.testing.assert_allclose(found[1], expected[1], rtol=1e-10, atol=1e-12)


@given(st.integers(0, 1000), st.floats(-100, 100))
def test_ranking_does_not_change_when_all_scores_shift(seed, shift):
  scores, positives, negative = ranking_case(seed)
  with jax.enable_x64(True):
    found = ranking(jnp.asarray(scores + shift), positives, negative)
    expected = ranking(jnp.asarray(scores), positives, negative)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_ranking_is_finite_and_zero_without_pairs(scale):
  scores, positives, negative = ranking_case(scale=scale)
  positives[0], negative[1] = -1, False
  scores = jnp.asarray(scores, jnp.float32)
  loss, gradient = jax.value_and_grad(lambda s: ranking(s, positives, negative).sum())(
    scores
  )
  per_image = ranking(scores, positives, negative)
  assert per_image[0] == 0 and per_image[1] == 0
  assert np.isfinite(loss) and np.isfinite(gradient).all()
  np.testing.assert_array_equal(gradient[:2], 0)
  assert np.any(gradient[2:])


diversity = jax.jit(semantic_diversity)


def random_labels(seed, images=6, classes=8, most=5):
  rng = np.random.default_rng(seed)
  positives = np.full((images, most), -1)
  for row in positives:
    count = rng.integers(0, most + 1)
    row[:count] = rng.choice(classes, count, replace=False)
  return positives, rng.standard_normal((classes, 7))


@given(st.integers(0, 1000))
def test_diversity_is_one_plus_the_variance(seed):
  positives, vectors = random_labels(seed)
  with jax.enable_x64(True):
    found = np.asarray(diversity(positives, jnp.asarray(vectors)))
  for weight, row in zip(found, positives, strict=True):
    own = vectors[row[row >= 0]]
    expected = 1 + (own.var(0, ddof=1).sum() if len(own) > 1 else 0)
    np.testing.assert_allclose(weight, expected, rtol=1e-12)


def test_diversity_gives_the_vectors_no_gradient():
  positives, vectors = random_labels(1)
  gradient = jax.grad(lambda v: semantic_diversity(positives, v).sum())(
    jnp.asarray(vectors, jnp.float32)
  )
  np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_matrix_variance_equals_numpy(rows, float64):
  matrices = np.random.default_rng(0).standard_normal((3, rows, 4))
  expected = matrices.var(1, ddof=1).sum(1) if rows > 1 else np.zeros(3)
  np.testing.assert_allclose(matrix_variance(jnp.asarray(matrices)), expected)
  check_grads(matrix_variance, (jnp.asarray(matrices),), 2)
