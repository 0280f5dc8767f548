import jax
import jax.numpy as jnp
import numpy as np

from zsljax.numerics import l2_normalize, masked_mean


def test_l2_normalize_along_any_axis():
  x = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
  expected = x / np.linalg.norm(x, axis=1, keepdims=True)
  np.testing.assert_allclose(l2_normalize(x, axis=1), expected, rtol=1e-5)


def test_l2_normalize_has_a_finite_gradient_at_zero():
  gradient = jax.grad(lambda x: l2_normalize(x).sum())(jnp.zeros(3))
  assert np.isfinite(gradient).all()


def test_masked_mean_equals_slicing_and_ignores_what_is_masked():
  values = jnp.array([1.0, 2.0, jnp.inf, jnp.nan])
  mask = jnp.array([True, True, False, False])
  assert masked_mean(values, mask) == 1.5
  assert masked_mean(values, jnp.zeros(4, bool)) == 0
