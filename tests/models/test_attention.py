from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax.models.attention import (
  OVER_QUERIES,
  OVER_REGIONS,
  at_unit_length,
  attended_scores,
  project,
)


def data(seed=0, images=3, count=5, dim=4, queries=6):
  rng = np.random.default_rng(seed)
  return (
    jnp.asarray(rng.standard_normal((images, count, dim))),
    jnp.asarray(rng.standard_normal((queries, dim))),
    jnp.asarray(rng.standard_normal((queries, dim))),
  )


def softmax(x):
  x = np.exp(x - x.max())
  return x / x.sum()


@pytest.mark.parametrize("over", [OVER_REGIONS, OVER_QUERIES])
def test_attended_scores_loop(over, float64):
  rng = np.random.default_rng(0)
  affinities, scores = rng.standard_normal((2, 3, 5, 6))
  found = attended_scores(affinities, scores, over)
  weights = np.apply_along_axis(softmax, over, affinities)
  for b in range(3):
    for q in range(6):
      expected = sum(weights[b, r, q] * scores[b, r, q] for r in range(5))
      np.testing.assert_allclose(found[b, q], expected, rtol=1e-12)


def test_fused_form_equals_the_definition(float64):
  """w . (X softmax(X' h)) = sum_r softmax(X' h)_r (w . x_r), with its gradients."""
  regions, queries, readouts = data()
  weight = jnp.asarray(np.random.default_rng(1).standard_normal((3, 6)))

  def defined(regions, queries, readouts):
    attention = jax.nn.softmax(jnp.einsum("brd,qd->bqr", regions, queries), -1)
    features = jnp.einsum("bqr,brd->bqd", attention, regions)
    return jnp.sum(weight * jnp.einsum("bqd,qd->bq", features, readouts))

  def fused(regions, queries, readouts):
    return jnp.sum(weight * attended_scores(*project(regions, queries, readouts)))

  for one, other in zip(
    jax.value_and_grad(fused, (0, 1, 2))(regions, queries, readouts),
    jax.value_and_grad(defined, (0, 1, 2))(regions, queries, readouts),
    strict=True,
  ):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), one, other
    )


def test_products_in_bfloat16_are_kept_in_it_and_summed_in_float32():
  regions, queries, readouts = data(images=40, dim=300)
  weight = jax.random.normal(jax.random.key(0), (40, 5, 6))

  def rounded(x):
    return x.astype(jnp.bfloat16).astype(jnp.float32)

  def total(queries, regions, readouts):
    found = project(regions, queries, readouts)
    assert {each.dtype for each in found} == {jnp.dtype("float32")}
    return jnp.sum(weight * found[0]), found

  arguments = [x.astype(jnp.float32) for x in (queries, regions, readouts)]
  exact = jax.grad(total, has_aux=True)(*map(rounded, arguments))
  with jax.default_matmul_precision("BF16_BF16_F32"):
    found = jax.grad(total, has_aux=True)(*arguments)
  products = [rounded(each) for each in exact[1]]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=8e-3), found[1], products
  )
  expected = jnp.einsum("brq,brd->qd", rounded(weight), rounded(arguments[1]))
  np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-4)


def test_normalized_projection_takes_regions_at_unit_length(float64):
  regions, queries, readouts = data()
  regions = regions.at[1, 2].set(0.0)
  lengths = jnp.linalg.norm(regions, axis=-1, keepdims=True)
  unit = regions / jnp.where(lengths > 0, lengths, 1)
  for found, expected in zip(
    project(regions, queries, readouts, scale=at_unit_length(regions)),
    project(unit, queries, readouts),
    strict=True,
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-11)
    assert not found[1, 2].any()


@pytest.mark.parametrize("over", [OVER_REGIONS, OVER_QUERIES])
@given(shift=st.floats(-50, 50), seed=st.integers(0, 9))
def test_a_shift_of_affinities_changes_nothing(over, shift, seed):
  rng = np.random.default_rng(seed)
  affinities, scores = rng.standard_normal((2, 2, 4, 3)).astype(np.float32)
  np.testing.assert_allclose(
    attended_scores(affinities + np.float32(shift), scores, over),
    attended_scores(affinities, scores, over),
    atol=1e-4,
  )


@given(order=st.permutations(range(5)), seed=st.integers(0, 9))
def test_order_of_regions_does_not_matter(order, seed):
  regions, queries, readouts = data(seed)
  shuffled = regions[:, jnp.array(order)]
  np.testing.assert_allclose(
    attended_scores(*project(shuffled, queries, readouts)),
    attended_scores(*project(regions, queries, readouts)),
    atol=1e-5,
  )


@pytest.mark.parametrize("over", [OVER_REGIONS, OVER_QUERIES])
def test_large_affinities_stay_finite(over):
  affinities = jnp.array([[[1e4, -1e4], [-1e4, 3e4]]])
  gradient = jax.grad(lambda a: attended_scores(a, 2 * a + 1, over).sum())(affinities)
  assert np.isfinite(attended_scores(affinities, affinities, over)).all()
  assert np.isfinite(gradient).all()
