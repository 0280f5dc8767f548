from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax import losses
from zsljax.numerics import masked_log_mean, masked_mean

POSITIONS = np.array([0, 2, 2, 0, 2])
AMONG = np.array([True, False, True, False])
PAIRED = (
  losses.jensen_shannon,
  losses.probability_distance,
  losses.weighted_score_distance,
)


def data(seed=0):
  return np.random.default_rng(seed).standard_normal((2, 5, 4))


def softmax(x):
  x = np.exp(x - x.max())
  return x / x.sum()


def test_losses_equal_numpy(float64):
  scores, others = data()
  of_scores = (
    losses.class_cross_entropy(jnp.asarray(scores), POSITIONS, AMONG),
    losses.unseen_log_mass(scores, AMONG),
    losses.unseen_cross_entropy(scores, AMONG),
    *(loss(scores, others) for loss in PAIRED),
  )
  for i, (s, t) in enumerate(zip(scores, others, strict=True)):
    p, q = softmax(s), softmax(t)
    m, d = (p + q) / 2, s - t
    expected = (
      -np.log(p[POSITIONS[i]] / p[AMONG].sum()),
      np.log(p[~AMONG].sum()),
      -np.log(p[~AMONG]).sum(),
      sum(p * np.log(p / m) + q * np.log(q / m)) / 2,
      sum((p - q) ** 2),
      sum(np.abs(d) ** 3) / np.sqrt(sum(d * d)),
    )
    np.testing.assert_allclose([loss[i] for loss in of_scores], expected, rtol=1e-10)


def test_cross_entropy_gradient_is_finite_and_zero_outside():
  huge = jnp.asarray(1e4 * data()[0], jnp.float32)  # exp would overflow.
  gradient = jax.grad(lambda s: losses.class_cross_entropy(s, POSITIONS, AMONG).sum())(
    huge
  )
  assert np.isfinite(gradient).all()
  assert not np.asarray(gradient)[:, ~AMONG].any()


def test_a_label_outside_the_classes_is_nan_and_padding_stays_finite():
  scores, positions = jnp.zeros((2, 3)), jnp.array([0, -1])

  def loss(scores, mask):
    return masked_mean(losses.class_cross_entropy(scores, positions, AMONG[:3]), mask)

  assert np.isnan(loss(scores, jnp.array([True, True])))
  padded = jax.value_and_grad(loss)(scores, jnp.array([True, False]))
  assert np.isfinite(padded[0]) and np.isfinite(padded[1]).all()


def test_without_an_unseen_class_there_is_no_mass_to_keep():
  def loss(scores):
    return -masked_log_mean(
      losses.unseen_log_mass(scores, jnp.ones(4, bool)), jnp.ones(5, bool)
    )

  value, gradient = jax.value_and_grad(loss)(jnp.asarray(data()[0]))
  assert value == 0 and not gradient.any()


def test_vanishing_unseen_mass_keeps_its_gradient():
  """A probability of e^-300 is 0 in float32; its logarithm is not."""
  scores = jnp.where(jnp.asarray(AMONG), 150.0, -150.0)[None].repeat(4, 0)
  mask = jnp.array([True, True, False, True])

  def loss(scores):
    return -masked_log_mean(losses.unseen_log_mass(scores, AMONG), mask)

  value, gradient = jax.value_and_grad(loss)(scores)
  np.testing.assert_allclose(value, 300, rtol=1e-5)
  assert np.isfinite(gradient).all() and gradient[0].any()
  assert not gradient[2].any()


@given(shift=st.floats(-20, 20), seed=st.integers(0, 9))
def test_a_shift_of_one_side_changes_no_distribution(shift, seed):
  scores, others = data(seed)
  for loss, other in (
    (losses.unseen_log_mass, AMONG),
    (losses.unseen_cross_entropy, AMONG),
    (losses.jensen_shannon, others),
    (losses.probability_distance, others),
  ):
    np.testing.assert_allclose(
      loss(scores + shift, other), loss(scores, other), atol=1e-4
    )


@given(seed=st.integers(0, 20))
def test_distances_are_symmetric_and_at_least_zero(seed):
  scores, others = data(seed)
  for loss in PAIRED:
    np.testing.assert_allclose(loss(scores, others), loss(others, scores), atol=1e-6)
    assert (loss(scores, others) >= 0).all()


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
