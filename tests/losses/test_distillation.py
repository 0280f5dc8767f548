from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax import losses

PAIRED = (
  losses.jensen_shannon,
  losses.probability_distance,
  losses.weighted_score_distance,
)


def softmax(x):
  x = np.exp(x - x.max())
  return x / x.sum()


def data(seed=0, rows=5, classes=4):
  return np.random.default_rng(seed).standard_normal((2, rows, classes))


def test_losses_equal_numpy(float64):
  scores, others = data()
  for i, (s, t) in enumerate(zip(scores, others, strict=True)):
    p, q = softmax(s), softmax(t)
    m = (p + q) / 2
    d = s - t
    expected = (
      sum(p * np.log(p / m) + q * np.log(q / m)) / 2,
      sum((p - q) ** 2),
      sum(np.abs(d) ** 3) / np.sqrt(sum(d * d)),
    )
    for loss, value in zip(PAIRED, expected, strict=True):
      np.testing.assert_allclose(loss(scores, others)[i], value, rtol=1e-10)


@pytest.mark.parametrize("loss", PAIRED)
@given(seed=st.integers(0, 20))
def test_losses_are_symmetric_and_at_least_zero(loss, seed):
  scores, others = data(seed)
  np.testing.assert_allclose(loss(scores, others), loss(others, scores), atol=1e-6)
  assert (loss(scores, others) >= 0).all()


@given(shift=st.floats(-20, 20), seed=st.integers(0, 9))
def test_a_shift_of_one_side_changes_no_distribution(shift, seed):
  scores, others = data(seed)
  for loss in PAIRED[:2]:
    np.testing.assert_allclose(
      loss(scores + shift, others), loss(scores, others), atol=1e-5
    )


@pytest.mark.parametrize("loss", PAIRED)
def test_agreement_costs_nothing_and_has_no_gradient(loss):
  scores = jnp.asarray(data()[0])
  value, gradient = jax.value_and_grad(lambda s: loss(s, scores).sum())(scores)
  np.testing.assert_allclose(value, 0, atol=1e-6)
  np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_opposite_certainty_is_log_2():
  scores = jnp.array([[1e4, 0.0]])
  np.testing.assert_allclose(
    losses.jensen_shannon(scores, -scores), np.log(2), rtol=1e-6
  )
  gradient = jax.grad(lambda s: losses.jensen_shannon(s, -s).sum())(scores)
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize("loss", PAIRED)
def test_other_shapes_are_refused(loss):
  with pytest.raises(AssertionError):
    loss(jnp.zeros((2, 3)), jnp.zeros((2, 4)))
