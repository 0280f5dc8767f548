"""The family against independent forms: arc cosines and plain cross-entropies."""

import functools

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax.errors import ZsljaxError
from zsljax.losses import FAMILY, make_loss

NAMES = tuple(FAMILY)
COSINE = tuple(name for name in NAMES if name != "softmax")


def case(seed=0, rows=6, classes=5, low=-0.95, high=0.95):
  rng = np.random.default_rng(seed)
  labels = rng.integers(classes, size=rows)
  return rng.uniform(low, high, (rows, classes)), np.eye(classes, dtype=bool)[labels]


def everyone(own):
  return np.ones((1, own.shape[1]), bool)


@functools.partial(jax.jit, static_argnums=(0, 4))
def value_and_gradient(name, similarities, own, others, settings=()):
  loss = make_loss(name, **dict(settings))

  def total(s):
    losses = loss(s, own, others)
    return losses.sum(), losses

  gradient, losses = jax.grad(total, has_aux=True)(similarities)
  return losses, gradient


def of(name, similarities, own, others=None, **settings):
  others = everyone(own) if others is None else others
  settings = tuple(settings.items())
  return value_and_gradient(name, jnp.asarray(similarities), own, others, settings)


def angle(s):
  return np.arccos(s)


def psi(s, m):
  """SphereFace's angle function, from its definition by intervals."""
  k = np.floor(m * angle(s) / np.pi)
  return (-1) ** k * np.cos(m * angle(s)) - 2 * k


def bracket(x):
  return np.maximum(x, 0)


# T_p and T_n of each member with its default values, and the default scale.
REFERENCE = {
  "softmax": (1, lambda s: s, lambda s: s),
  "normface": (30, lambda s: s, lambda s: s),
  "cosface": (30, lambda s: s - 0.35, lambda s: s),
  "arcface": (
    30,
    lambda s: np.where(
      angle(s) + 0.5 <= np.pi, np.cos(angle(s) + 0.5), s - 0.5 * np.sin(0.5)
    ),
    lambda s: s,
  ),
  "sphereface": (30, lambda s: psi(s, 2), lambda s: s),
  "combined": (30, lambda s: np.cos(angle(s) + 0.3) - 0.2, lambda s: s),
  "circle": (
    64,
    lambda s: bracket(1.25 - s) * (s - 0.75),
    lambda s: bracket(s + 0.25) * (s - 0.25),
  ),
  "so_softmax": (
    64,
    lambda s: 0.0625 - bracket(1 - s) ** 2,
    lambda s: bracket(s) ** 2 - 0.0625,
  ),
  "cs_softmax": (30, lambda s: s - 0.2, lambda s: s + 0.2),
}


def cross_entropy(name, similarities, own):
  """Plain softmax cross-entropy of the transformed similarities, row by row."""
  scale, positive, negative = REFERENCE[name]
  losses = []
  for row, mine in zip(similarities, own, strict=True):
    logits = scale * np.where(mine, positive(row), negative(row))
    largest = logits.max()
    total = largest + np.log(np.exp(logits - largest).sum())
    losses.append(total - logits[mine][0])
  return np.array(losses)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 1000))
def test_member_equals_cross_entropy_of_transformed_similarities(name, seed):
  similarities, own = case(seed)
  with jax.enable_x64(True):
    losses, _ = of(name, similarities, own)
    np.testing.assert_allclose(
      losses, cross_entropy(name, similarities, own), atol=1e-9
    )


def one(s):
  return np.ones_like(s)


# Derivatives of those that are not 1; Circle's weights in brackets are constants.
SLOPES = {
  "arcface": (
    lambda s: np.where(
      angle(s) + 0.5 <= np.pi, np.sin(angle(s) + 0.5) / np.sin(angle(s)), 1
    ),
    one,
  ),
  "sphereface": (lambda s: (-1.0) ** np.floor(2 * angle(s) / np.pi) * 4 * s, one),
  "combined": (lambda s: np.sin(angle(s) + 0.3) / np.sin(angle(s)), one),
  "circle": (lambda s: bracket(1.25 - s), lambda s: bracket(s + 0.25)),
  "so_softmax": (lambda s: 2 * bracket(1 - s), lambda s: 2 * bracket(s)),
}


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 1000))
def test_gradient_equals_its_closed_form(name, seed):
  similarities, own = case(seed)
  scale, positive, negative = REFERENCE[name]
  logits = scale * np.where(own, positive(similarities), negative(similarities))
  p = np.exp(logits - logits.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  to_positive, to_negative = SLOPES.get(name, (one, one))
  slope = np.where(own, to_positive(similarities), to_negative(similarities))
  with jax.enable_x64(True):
    _, found = of(name, similarities, own)
    np.testing.assert_allclose(found, scale * slope * (p - own), atol=1e-9)


@pytest.mark.parametrize("times", [1, 2, 3, 4, 7])
def test_sphereface_is_monotone_and_its_polynomial_the_cosine(times, float64):
  s = np.linspace(-0.9999, 0.9999, 4001)
  loss = make_loss("sphereface", margin=times)
  np.testing.assert_allclose(loss.positive(jnp.asarray(s)), psi(s, times), atol=1e-9)
  assert np.all(np.diff(loss.positive(jnp.asarray(s))) > 0)


def test_circle_and_its_quadratic_agree_in_value_and_not_in_gradient(float64):
  similarities, own = case(1, low=-0.2, high=0.9)  # Within the clamps.
  with_stop = of("circle", similarities, own)
  without = of("circle", similarities, own, stop_gradient=False)
  as_so = of("so_softmax", similarities, own, one_sided=False)
  np.testing.assert_allclose(with_stop[0], without[0], atol=1e-12)
  for found, expected in zip(without, as_so, strict=True):
    np.testing.assert_allclose(found, expected, atol=1e-9)
  assert np.abs(with_stop[1] - without[1]).max() > 0.1
  slope = jax.vmap(jax.grad(make_loss("circle").positive))
  quadratic = jax.vmap(jax.grad(make_loss("circle", stop_gradient=False).positive))
  s = jnp.array([0.3, 0.75, 1.0])
  np.testing.assert_allclose(slope(s), 1.25 - s)
  np.testing.assert_allclose(quadratic(s), 2 * (1 - s), atol=1e-12)


def test_at_the_goals_so_softmax_rests(float64):
  similarities = np.array([[1.0, 0.0, 0.0]])
  own = np.array([[True, False, False]])
  for one_sided in (True, False):
    _, gradient = of("so_softmax", similarities, own, one_sided=one_sided)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
  for name in ("normface", "cosface"):
    assert np.all(np.abs(of(name, similarities, own, scale=1.0)[1]) > 0.1)


@pytest.mark.parametrize(
  ("name", "settings"),
  [
    *((name, {}) for name in COSINE if name != "combined"),
    ("so_softmax", {"positive_goal": 0.7, "negative_goal": 0.2}),
    (
      "so_softmax",
      {"positive_goal": 1.0, "negative_goal": -1.0, "one_sided": False},
    ),
  ],
)
def test_more_of_the_own_class_never_hurts(name, settings, float64):
  similarities, own = case(4, rows=40, low=-1.0, high=1.0)
  _, gradient = of(name, similarities, own, **settings)
  assert np.all(gradient[own] <= 0)
  assert np.all(gradient[~own] >= 0)


@given(st.integers(0, 1000))
def test_separate_weights_multiply_the_slopes(seed):
  similarities, own = case(seed)
  with jax.enable_x64(True):
    plain = make_loss("so_softmax", margin=0.0)
    weighted = make_loss(
      "so_softmax", margin=0.0, positive_weight=3.0, negative_weight=0.5
    )
    s = jnp.asarray(similarities)
    np.testing.assert_allclose(weighted.positive(s), 3 * plain.positive(s))
    np.testing.assert_allclose(weighted.negative(s), plain.negative(s) / 2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ends_of_the_cosine_are_finite(name, dtype):
  similarities = jnp.asarray(
    [[1, 1, -1], [-1, 1, 1], [1, -1, -1], [0, 0, 0]], jnp.dtype(dtype)
  )
  own = np.eye(3, dtype=bool)[[0, 0, 0, 1]]
  losses, gradient = of(name, similarities, own)
  assert losses.dtype == jnp.float32 and gradient.dtype == jnp.dtype(dtype)
  assert np.all(np.isfinite(losses))
  assert np.all(np.isfinite(gradient.astype(np.float32)))


@pytest.mark.parametrize("name", NAMES)
def test_masked_classes_are_as_if_absent(name, float64):
  similarities, own = case(7)
  own[:, 3:] = False
  own[~own.any(1), 0] = True
  others = np.array([[True, True, True, False, False]])
  losses, gradient = of(name, similarities, own, others)
  expected, _ = of(name, similarities[:, :3], own[:, :3])
  np.testing.assert_allclose(losses, expected, atol=1e-12)
  np.testing.assert_array_equal(gradient[:, 3:], 0)


def test_no_negative_is_no_loss_and_no_class_is_nan():
  similarities = jnp.asarray([[0.5, 0.2], [0.1, 0.3]])
  own = np.array([[True, False], [False, False]])
  losses, gradient = of("arcface", similarities, own, np.zeros((1, 2), bool))
  assert losses[0] == 0 and np.isnan(losses[1])
  np.testing.assert_array_equal(gradient[0], 0)


@pytest.mark.parametrize(
  ("name", "settings", "message"),
  [
    ("cosfase", {}, "unknown loss 'cosfase'. Did you mean 'cosface'"),
    ("normface", {"scale": 0.0}, "scale: found 0.0, expected more than 0"),
    ("cosface", {"scale": -3.0}, "scale: found -3.0, expected more than 0"),
    ("normface", {"margin": 0.1}, "margin: found 0.1, expected None: normface has sc"),
    ("softmax", {"scale": 2.0}, "scale: found 2.0, expected None: softmax has no"),
    ("cosface", {"margin": 2.5}, "margin: found 2.5, expected between 0 and 2"),
    ("arcface", {"margin": -0.1}, "margin: found -0.1, expected between 0 and 1.57"),
    ("sphereface", {"margin": 2.5}, "margin: found 2.5, expected a whole number"),
    ("sphereface", {"margin": 0}, "margin: found 0, expected between 1 and 8"),
    ("circle", {"margin": 1.5}, "margin: found 1.5, expected between 0 and 1"),
    (
      "so_softmax",
      {"positive_goal": 0.0, "negative_goal": 0.5},
      "negative_goal: found 0.5, expected less than the positive_goal 0.0",
    ),
    ("cs_softmax", {"positive_weight": -1.0}, "positive_weight: found -1.0"),
  ],
)
def test_bad_settings_are_named(name, settings, message):
  with pytest.raises(ZsljaxError, match=message):
    make_loss(name, **settings)
