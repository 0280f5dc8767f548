import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from zsljax.numerics import (
  inverse_length,
  l2_normalize,
  masked_log_mean,
  masked_mean,
  unit_rows,
)


def test_l2_normalize_of_zero_is_zero_with_gradient_zero():
  value, gradient = jax.value_and_grad(lambda x: l2_normalize(x).sum())(jnp.zeros(3))
  assert value == 0 and not gradient.any()


@pytest.mark.parametrize("length", [1e-30, 1e-19, 1.0, 2e19, 1e30])
def test_l2_normalize_of_any_length_has_the_gradient_of_its_definition(length):
  direction = jnp.array([0.6, 0.8, 0.0])
  x = length * direction
  np.testing.assert_allclose(l2_normalize(x), direction, rtol=1e-6)
  np.testing.assert_allclose(inverse_length(x), 1 / length, rtol=1e-6)
  jacobian = length * jax.jacobian(l2_normalize)(x)
  expected = np.eye(3) - np.outer(direction, direction)
  np.testing.assert_allclose(jacobian, expected, atol=1e-6)


def test_scaling_inside_l2_normalize_changes_no_bit():
  x = jax.random.normal(jax.random.key(0), (50, 33)) * jnp.logspace(-9, 9, 50)[:, None]
  plain = x * jax.lax.rsqrt(jnp.sum(x * x, -1, keepdims=True))
  np.testing.assert_array_equal(l2_normalize(x), plain)


@pytest.mark.parametrize("shape", [(1, 4), (1, 49, 4)])
def test_largest_bfloat16_features_have_unit_rows(shape):
  largest = ml_dtypes.finfo(ml_dtypes.bfloat16).max
  rows = unit_rows(jnp.full(shape, largest, jnp.bfloat16).astype(jnp.float32))
  np.testing.assert_allclose(rows, np.full((1, 4), 0.5), rtol=1e-6)


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
