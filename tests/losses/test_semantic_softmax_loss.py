import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax import losses


@pytest.fixture
def data():
  rng = np.random.default_rng(0)
  return {
    "scores": rng.standard_normal((5, 4)),
    "positions": np.array([0, 2, 2, 0, 2]),
    "among": np.array([True, False, True, False]),
    "features": rng.standard_normal((5, 3)),
    "prototypes": rng.standard_normal((5, 3)),
  }


def test_cross_entropy_is_minus_log_of_the_share_among_the_classes(data, float64):
  expected = []
  for scores, position in zip(data["scores"], data["positions"], strict=True):
    inside = [np.exp(s) for s, a in zip(scores, data["among"], strict=True) if a]
    expected.append(-np.log(np.exp(scores[position]) / sum(inside)))
  found = losses.class_cross_entropy(
    *(jnp.asarray(data[k]) for k in ("scores", "positions", "among"))
  )
  np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_cross_entropy_gradient_is_finite_and_zero_outside(data):
  huge = data["scores"].astype(np.float32) * 1e4  # exp would overflow.
  gradient = jax.grad(
    lambda s: losses.class_cross_entropy(s, data["positions"], data["among"]).sum()
  )(jnp.asarray(huge))
  assert np.isfinite(gradient).all()
  assert not np.asarray(gradient)[:, ~data["among"]].any()


def test_distance_is_norms_plus_cross_term(data, float64):
  x, p = jnp.asarray(data["features"]), jnp.asarray(data["prototypes"])
  distance = losses.prototype_distance(x, p)
  np.testing.assert_allclose(
    distance,
    (x**2).sum(1) + (p**2).sum(1) + losses.prototype_cross_term(x, p),
    rtol=1e-12,
  )
  expected = [np.linalg.norm(a - b) ** 2 for a, b in zip(x, p, strict=True)]
  np.testing.assert_allclose(distance, expected, rtol=1e-12)


def test_losses_are_unreduced_and_refuse_other_shapes(data):
  x = jnp.asarray(data["features"])
  for loss in (losses.prototype_distance, losses.prototype_cross_term):
    chex.assert_shape(loss(x, x), (5,))
    with pytest.raises(AssertionError):
      loss(x, x[:, :2])


def test_divergence_is_zero_at_the_target_and_finite_at_the_ends(float64):
  rates = jnp.array([0.1, 0.5, 0.0, 1.0])
  found = losses.bernoulli_divergence(0.1, rates)
  expected = 0.1 * np.log(0.1 / 0.5) + 0.9 * np.log(0.9 / 0.5)
  np.testing.assert_allclose(found[:2], [0, expected], atol=1e-12)
  assert np.isfinite(found).all() and (found[2:] > 0).all()
