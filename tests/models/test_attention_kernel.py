import jax
from jax import export
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax.models import attention
from zsljax.models.attention_kernel import attended_scores

PLATFORMS = ("gpu", "tpu")


def inputs(shape, scale=1.0):
  rng = np.random.default_rng(0)
  affinities, scores = rng.standard_normal((2, *shape))
  return scale * affinities, scores, rng.standard_normal((shape[0], shape[2]))


def loop(affinities, scores, slope):
  """psi, and the gradients of sum(slope * psi), one image and query at a time."""
  images, _, queries = affinities.shape
  psi, to_affinities, to_scores = np.zeros(slope.shape), *np.zeros((2, *scores.shape))
  for b in range(images):
    for q in range(queries):
      weights = np.exp(affinities[b, :, q] - affinities[b, :, q].max())
      share = weights / weights.sum()
      psi[b, q] = share @ scores[b, :, q]
      to_scores[b, :, q] = slope[b, q] * share
      jacobian = np.diag(share) - np.outer(share, share)
      to_affinities[b, :, q] = slope[b, q] * jacobian @ scores[b, :, q]
  return psi, to_affinities, to_scores


# Regions and queries below, at and beyond a block's; one of each alone.
@pytest.mark.parametrize(
  ("platform", "shape"),
  [
    ("gpu", (2, 5, 37)),
    ("gpu", (1, 16, 32)),
    ("gpu", (2, 1, 1)),
    ("tpu", (2, 5, 131)),
    ("tpu", (1, 8, 128)),
    ("tpu", (2, 1, 1)),
  ],
)
def test_values_and_gradients_are_those_of_the_loop(platform, shape, float64):
  affinities, scores, slope = inputs(shape)

  def total(affinities, scores):
    psi = attended_scores(affinities, scores, platform, True)
    return jnp.sum(slope * psi), psi

  gradients, psi = jax.grad(total, (0, 1), has_aux=True)(affinities, scores)
  expected = loop(affinities, scores, slope)
  for found, value in zip((psi, *gradients), expected, strict=True):
    np.testing.assert_allclose(found, value, rtol=1e-12, atol=1e-14)


def test_it_agrees_with_the_plain_form_on_large_affinities():
  affinities, scores, slope = (jnp.float32(x) for x in inputs((1, 7, 3), 1e4))

  def total(form, affinities):
    return jnp.sum(slope * form(affinities, scores))

  for found, expected in zip(
    jax.value_and_grad(lambda a: total(attended_scores, a))(affinities),
    jax.value_and_grad(lambda a: total(attention.attended_scores, a))(affinities),
    strict=True,
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("platform", "lowered"), [("gpu", "cuda"), ("tpu", "tpu")])
def test_it_lowers_for_devices_that_are_not_here(platform, lowered):
  shape = jax.ShapeDtypeStruct((2, 49, 312), jnp.float32)
  gradient = jax.jit(
    jax.grad(lambda a, s: attended_scores(a, s, platform).sum(), (0, 1))
  )
  calls = ("__gpu$xla.gpu.triton", "tpu_custom_call")
  exported = export.export(
    gradient,
    platforms=[lowered],
    disabled_checks=[export.DisabledSafetyCheck.custom_call(name) for name in calls],
  )(shape, shape)
  assert exported.mlir_module().count("stablehlo.custom_call") == 1


def test_another_form_computes_attention_over_regions_alone():
  affinities = jnp.ones((2, 3, 4))
  with attention.form_over_regions(lambda a, s: a[:, 0] - 7):
    assert (attention.attended_scores(affinities, affinities) == -6).all()
    over_queries = attention.OVER_QUERIES
    np.testing.assert_allclose(
      attention.attended_scores(affinities, affinities, over_queries), 0.75
    )
  np.testing.assert_allclose(attention.attended_scores(affinities, affinities), 1)
