import jax
import jax.numpy as jnp
import numpy as np

from zsljax.numerics import l2_normalize, masked_log_mean, masked_mean


def test_l2_normalize_of_zero_is_zero_with_gradient_zero():
  value, gradient = jax.value_and_grad(lambda x: l2_normalize(x).sum())(jnp.zeros(3))
  assert value == 0 and not gradient.any()


def test_masked_log_mean_equals_slicing():
  logs = jnp.array([-1.0, 2.0, jnp.inf, -300.0])
  mask = jnp.array([True, True, False, True])
  expected = np.log((np.exp(-1) + np.exp(2)) / 3)
  np.testing.assert_allclose(masked_log_mean(logs, mask), expected, rtol=1e-6)


def test_masked_mean_equals_slicing_and_ignores_what_is_masked():
  values = jnp.array([1.0, 2.0, jnp.inf, jnp.nan])
  mask = jnp.array([True, True, False, False])
  assert masked_mean(values, mask) == 1.5
  assert masked_mean(values, jnp.zeros(4, bool)) == 0
