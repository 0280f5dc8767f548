import dataclasses

import chex
from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax.classes import ClassSpace
from zsljax.models import Batch, SemanticSoftmax, Spec
from zsljax.numerics import minimize

FORMS = ("per_sample", "per_class", "norm_only")


def make(form="per_sample", hidden=(), images=11, dim=5, seed=0, **fields):
  """A system with random data: 4 seen classes, 2 unseen, 3 attributes."""
  rng = np.random.default_rng(seed)
  fields = {"l2_weights": 0.3, "l2_prototypes": 0.2} | fields
  system = SemanticSoftmax(prototype_form=form, hidden=hidden, init_scale=0.5, **fields)
  classes = ClassSpace.create(
    "abcdef",
    rng.standard_normal((6, 3)),
    seen=np.arange(6) < 4,
    ids=[7, 1, 9, 3, 0, 2],
  )
  batch = Batch(
    features=jnp.asarray(rng.standard_normal((images, dim))),
    labels=jnp.asarray(rng.choice(classes.ids[:4], images)),
    mask=jnp.ones(images, bool),
    num_examples=images,
  )
  params = system.init(jax.random.key(seed), Spec((dim,), 3, 6))
  params = jax.tree.map(lambda p: p.astype(batch.features.dtype), params)
  return system, params, batch, classes


def numpy_objective(system, params, batch, classes):
  """J of the paper, image by image and class by class."""
  params = jax.device_get(params)
  x = np.asarray(batch.features)
  x = x / np.linalg.norm(x, axis=1, keepdims=True)
  y = classes.embeddings / np.linalg.norm(classes.embeddings, axis=1, keepdims=True)
  kernel = params["prototypes"]["kernel"]
  for i in range(len(system.hidden)):
    layer = params[f"hidden_{i}"]
    x = 1 / (1 + np.exp(-(x @ layer["kernel"] + layer["bias"])))
  prototypes = {
    label: y[c] @ kernel for c, label in enumerate(classes.ids) if classes.seen[c]
  }
  total, count = 0.0, len(prototypes)
  for row, label in zip(x, np.asarray(batch.labels), strict=True):
    likelihood = np.exp(prototypes[label] @ row)
    likelihood /= sum(np.exp(p @ row) for p in prototypes.values())
    total -= np.log(likelihood) / count
    if system.prototype_form == "per_sample":
      total += system.l2_prototypes / 2 * np.sum((row - prototypes[label]) ** 2)
    if system.prototype_form == "per_class":
      total -= system.l2_prototypes * (row @ prototypes[label])
  if system.prototype_form != "per_sample":
    total += system.l2_prototypes / 2 * sum(np.sum(p**2) for p in prototypes.values())
  return total + system.l2_weights / 2 * np.sum(kernel**2)


def loss(system, batch, classes):
  return lambda params: system.loss(params, batch, classes, None)[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("hidden", [(), (4,), (4, 3)])
def test_objective_equals_numpy(form, hidden, float64):
  system, params, batch, classes = make(form, hidden)
  params = jax.tree.map(lambda p: p + 0.1, params)  # Biases start at zero.
  total, parts = system.loss(params, batch, classes, None)
  expected = numpy_objective(system, params, batch, classes)
  np.testing.assert_allclose(total, expected, rtol=1e-10)
  np.testing.assert_allclose(sum(parts.values()), total)


def test_official_gradient_is_the_one_of_the_released_code(float64):
  """CE gradient + lambda W + gamma (sum_c y_c alpha_c^T - sum_i y_i x_i^T)."""
  system, params, batch, classes = make("per_class")
  kernel = params["prototypes"]["kernel"]
  x = np.asarray(batch.features)
  x = x / np.linalg.norm(x, axis=1, keepdims=True)
  y = np.asarray(classes.unit_embeddings())[:4]
  at = np.asarray(classes.positions(batch.labels))
  scores = x @ (y @ kernel).T
  p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
  p[np.arange(len(at)), at] -= 1
  expected = y.T @ (p.T @ x) / 4 + system.l2_weights * kernel
  expected += system.l2_prototypes * (y.T @ (y @ kernel) - y[at].T @ x)
  found = jax.grad(loss(system, batch, classes))(params)["prototypes"]["kernel"]
  np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_large_gamma_reaches_the_ridge_solution(float64):
  gamma = 1e7
  system, params, batch, classes = make(l2_weights=2.0, l2_prototypes=gamma)
  found = minimize(loss(system, batch, classes), params, 300)["prototypes"]["kernel"]
  x = np.asarray(batch.features)
  x = x / np.linalg.norm(x, axis=1, keepdims=True)
  y = np.asarray(classes.unit_embeddings())[np.asarray(classes.positions(batch.labels))]
  ridge = np.linalg.solve(y.T @ y + 2.0 / gamma * np.eye(3), y.T @ x)
  np.testing.assert_allclose(found, ridge, atol=1e-5)


@given(st.floats(0.1, 1e3), st.sampled_from(FORMS))
def test_scale_of_features_and_descriptors_does_not_matter(scale, form):
  with jax.enable_x64(True):
    system, params, batch, classes = make(form)
    scaled = Batch(scale * batch.features, batch.labels, batch.mask, 11)
    other = ClassSpace.create(
      classes.names, scale * classes.embeddings, classes.seen, classes.ids
    )
    np.testing.assert_allclose(
      loss(system, batch, classes)(params), loss(system, scaled, other)(params)
    )


@given(st.permutations(range(6)), st.permutations(range(11)), st.sampled_from(FORMS))
def test_order_of_classes_and_images_does_not_matter(classes_order, images, form):
  with jax.enable_x64(True):
    system, params, batch, classes = make(form)
    order = np.array(images)
    permuted = Batch(batch.features[order], batch.labels[order], batch.mask, 11)
    space = classes.subset(list(classes_order))
    np.testing.assert_allclose(
      loss(system, batch, classes)(params), loss(system, permuted, space)(params)
    )
    np.testing.assert_allclose(
      system.scores(params, batch.features, classes)[:, np.array(classes_order)],
      system.scores(params, batch.features, space),
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_minibatch_losses_average_to_the_full_objective(form, float64):
  system, params, batch, classes = make(form, images=12)
  parts = [
    Batch(batch.features[i : i + 4], batch.labels[i : i + 4], batch.mask[i : i + 4], 12)
    for i in (0, 4, 8)
  ]
  mean = np.mean([loss(system, part, classes)(params) for part in parts])
  np.testing.assert_allclose(mean, loss(system, batch, classes)(params), rtol=1e-12)


def test_regions_are_averaged(float64):
  system, params, batch, classes = make()
  regions = jnp.stack([batch.features - 1, batch.features + 1], 1)
  np.testing.assert_allclose(
    system.scores(params, regions, classes),
    system.scores(params, batch.features, classes),
  )


def reconstruction_error(inputs, layer):
  """Smallest mean squared error of a linear decoder behind ``layer``."""
  hidden = 1 / (1 + np.exp(-(inputs @ layer["kernel"] + layer["bias"])))
  hidden = np.column_stack([hidden, np.ones(len(hidden))])
  return np.mean((hidden @ np.linalg.lstsq(hidden, inputs)[0] - inputs) ** 2)


@pytest.mark.slow
def test_pretraining_makes_each_layer_encode_the_one_below(float64):
  system, params, batch, space = make(
    hidden=(4, 3), images=40, pretrain_steps=200, pretrain_l2=1e-5
  )
  batch = dataclasses.replace(batch, features=abs(batch.features))
  trained = jax.device_get(system.warm_start(params, batch, space, jax.random.key(1)))
  params = jax.device_get(params)
  inputs = np.asarray(batch.features)
  inputs = inputs / np.linalg.norm(inputs, axis=1, keepdims=True)
  for name in ("hidden_0", "hidden_1"):
    before = reconstruction_error(inputs, params[name])
    assert reconstruction_error(inputs, trained[name]) < 0.9 * before
    layer = trained[name]
    inputs = 1 / (1 + np.exp(-(inputs @ layer["kernel"] + layer["bias"])))
  np.testing.assert_array_equal(
    trained["prototypes"]["kernel"], params["prototypes"]["kernel"]
  )


def test_pretraining_has_the_gradient_of_the_released_auto_encoder(float64):
  """As sparseAutoencoderCost.m without its sparsity, whose images are columns."""
  rng = np.random.default_rng(0)
  x, w1, w2 = (rng.uniform(0, 1, shape) for shape in ((7, 5), (5, 4), (4, 5)))
  b1, b2 = rng.standard_normal(4), rng.standard_normal(5)
  system = SemanticSoftmax(pretrain_l2=0.3)
  layers = {
    "encoder": {"kernel": w1, "bias": b1},
    "decoder": {"kernel": w2, "bias": b2},
  }
  found = jax.grad(lambda p: system._autoencoder_loss(p, x, np.ones(7, bool)))(layers)
  a2 = 1 / (1 + np.exp(-(x @ w1 + b1)))
  a3 = 1 / (1 + np.exp(-(a2 @ w2 + b2)))
  d3 = (a3 - x) * a3 * (1 - a3)
  d2 = d3 @ w2.T * a2 * (1 - a2)
  expected = {
    "encoder": {"kernel": x.T @ d2 / 7 + 0.3 * w1, "bias": d2.mean(0)},
    "decoder": {"kernel": a2.T @ d3 / 7 + 0.3 * w2, "bias": d3.mean(0)},
  }
  chex.assert_trees_all_close(found, expected, rtol=1e-9)
