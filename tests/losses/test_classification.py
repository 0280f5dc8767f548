import jax
import jax.numpy as jnp
import numpy as np

from zsljax import losses

SCORES = np.random.default_rng(0).standard_normal((5, 4))
POSITIONS = np.array([0, 2, 2, 0, 2])
AMONG = np.array([True, False, True, False])


def test_cross_entropy_is_minus_log_of_the_share_among_the_classes(float64):
  shares = np.exp(SCORES) / np.exp(SCORES[:, AMONG]).sum(1, keepdims=True)
  found = losses.class_cross_entropy(jnp.asarray(SCORES), POSITIONS, AMONG)
  np.testing.assert_allclose(found, -np.log(shares[np.arange(5), POSITIONS]))


def test_cross_entropy_gradient_is_finite_and_zero_outside():
  huge = jnp.asarray(1e4 * SCORES, jnp.float32)  # exp would overflow.
  gradient = jax.grad(lambda s: losses.class_cross_entropy(s, POSITIONS, AMONG).sum())(
    huge
  )
  assert np.isfinite(gradient).all()
  assert not np.asarray(gradient)[:, ~AMONG].any()
