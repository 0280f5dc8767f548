from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from zsljax import losses
from zsljax.numerics import masked_log_mean

SEEN = np.array([True, False, True, False, False])


def data(seed=0):
  return np.random.default_rng(seed).standard_normal((4, 5))


def test_losses_equal_numpy(float64):
  scores = data()
  p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
  np.testing.assert_allclose(
    losses.unseen_log_mass(scores, SEEN), np.log(p[:, ~SEEN].sum(1)), rtol=1e-12
  )
  np.testing.assert_allclose(
    losses.unseen_cross_entropy(scores, SEEN), -np.log(p[:, ~SEEN]).sum(1), rtol=1e-12
  )


@given(shift=st.floats(-30, 30), seed=st.integers(0, 9))
def test_a_shift_changes_nothing(shift, seed):
  scores = data(seed)
  for loss in (losses.unseen_log_mass, losses.unseen_cross_entropy):
    np.testing.assert_allclose(
      loss(scores + shift, SEEN), loss(scores, SEEN), atol=1e-4
    )


def test_vanishing_unseen_mass_keeps_its_gradient():
  """A probability of e^-300 is 0 in float32; its logarithm is not."""
  scores = jnp.where(jnp.asarray(SEEN), 150.0, -150.0)[None].repeat(4, 0)
  mask = jnp.array([True, True, False, True])

  def loss(scores):
    return -masked_log_mean(losses.unseen_log_mass(scores, SEEN), mask)

  value, gradient = jax.value_and_grad(loss)(scores)
  np.testing.assert_allclose(value, 300 + np.log(2 / 3), rtol=1e-5)
  assert np.isfinite(gradient).all() and gradient[0].any()
  assert not gradient[2].any()
