"""Closed forms against float64 NumPy and SciPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from zsljax.classes import ClassSpace
from zsljax.configs import baselines
from zsljax.errors import ZsljaxError
from zsljax.models import ESZSL, SAE, Batch, NearestMean, Similarity, Spec
from zsljax.runs.experiment import Experiment

SYSTEMS = [ESZSL(2.0, 0.5), ESZSL(2.0, 0.5, 0.0), SAE(0.7), NearestMean(0.3)]


@pytest.fixture
def problem(float64):
  rng = np.random.default_rng(0)
  classes = ClassSpace.create(
    "abcdef",
    rng.standard_normal((6, 4)),
    seen=[True, True, False, True, False, True],
    ids=[5, 1, 4, 3, 0, 2],
  )
  labels = rng.choice(classes.ids[np.asarray(classes.seen)], 40)
  features = rng.standard_normal((40, 7))
  batch = Batch(jnp.asarray(features), jnp.asarray(labels), jnp.ones(40, bool), 40)
  return batch, classes, Spec((7,), 4, 6)


def solved(system, batch, classes, spec):
  params = system.init(jax.random.key(0), spec)
  return system.warm_start(params, batch, classes, jax.random.key(1))


def unit(rows):
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("negative", "unit_features"), [(-1.0, True), (0.0, False)])
def test_eszsl_is_its_formula(problem, negative, unit_features):
  batch, classes, spec = problem
  system = ESZSL(2.0, 0.5, negative, unit_features=unit_features)
  params = solved(system, *problem)
  x, s = np.asarray(batch.features), np.asarray(classes.embeddings)
  x = unit(x) if unit_features else x
  seen = np.asarray(classes.seen)
  y = np.where(
    np.asarray(batch.labels)[:, None] == classes.ids[seen][None], 1, negative
  )
  s_seen = s[seen]
  left = np.linalg.inv(x.T @ x + 2.0 * np.eye(7))
  right = np.linalg.inv(s_seen.T @ s_seen + 0.5 * np.eye(4))
  expected = left @ x.T @ y @ s_seen @ right
  np.testing.assert_allclose(params["map"], expected, rtol=1e-6)
  scores = system.scores(params, batch.features, classes)
  np.testing.assert_allclose(scores, x @ expected @ s.T, rtol=1e-5)


@pytest.mark.parametrize("space", ["visual", "semantic"])
def test_sae_solves_its_sylvester_equation(problem, space):
  batch, classes, spec = problem
  system = SAE(0.7, space)
  params = solved(system, *problem)
  x = unit(np.asarray(batch.features)).T
  described = unit(np.asarray(classes.embeddings))
  position = {label: i for i, label in enumerate(classes.ids.tolist())}
  s = described[[position[int(label)] for label in batch.labels]].T
  expected = scipy.linalg.solve_sylvester(s @ s.T, 0.7 * x @ x.T, 1.7 * s @ x.T)
  np.testing.assert_allclose(params["map"], expected, rtol=1e-7, atol=1e-9)
  if space == "visual":
    scores = x.T @ unit(described @ expected).T
  else:
    scores = unit(x.T @ expected.T) @ described.T
  np.testing.assert_allclose(
    system.scores(params, batch.features, classes), scores, atol=1e-8
  )


def test_nearest_mean_predicts_means_of_unseen_classes(problem):
  batch, classes, spec = problem
  system = NearestMean(0.3)
  params = solved(system, *problem)
  x, labels = unit(np.asarray(batch.features)), np.asarray(batch.labels)
  described, seen = unit(np.asarray(classes.embeddings)), np.asarray(classes.seen)
  means = np.stack([x[labels == c].mean(0) for c in classes.ids[seen]])
  centre, origin = means.mean(0), described[seen].mean(0)
  centred = described[seen] - origin
  mapping = np.linalg.solve(
    centred.T @ centred + 0.3 * np.eye(4), centred.T @ (means - centre)
  )
  expected = np.empty((6, 7))
  expected[seen] = means
  expected[~seen] = (described[~seen] - origin) @ mapping + centre
  distances = ((x[:, None] - expected[None]) ** 2).sum(2)
  np.testing.assert_allclose(
    system.scores(params, batch.features, classes), -distances, atol=1e-6
  )


def test_similarity_is_the_cosine_and_needs_one_space(problem):
  batch, classes, _ = problem
  system = Similarity(0.5)
  with pytest.raises(ZsljaxError, match="features of 7 numbers .* by 4, .*differ"):
    solved(system, *problem)
  x = np.asarray(batch.features)[:, :4]
  shared = dataclasses.replace(batch, features=jnp.asarray(x))
  params = solved(system, shared, classes, Spec((4,), 4, 6))
  expected = unit(x) @ unit(np.asarray(classes.embeddings)).T / 0.5
  np.testing.assert_allclose(system.scores(params, x, classes), expected, rtol=1e-6)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
@pytest.mark.parametrize("scale", [0.0, 1e10])
def test_odd_batches_and_descriptions_give_finite_scores(problem, system, scale):
  batch, classes, spec = problem
  classes = dataclasses.replace(classes, embeddings=1e10 * classes.embeddings)
  batch = dataclasses.replace(batch, mask=batch.mask & (scale > 0))  # None is left.
  params = solved(system, batch, classes, spec)
  assert np.isfinite(system.scores(params, batch.features, classes)).all()


@pytest.mark.parametrize("name", ["eszsl", "sae", "nearest_mean"])
def test_minibatches_are_refused(name):
  config = baselines.get_config(f"digits,{name}")
  config.batch_size = 9
  with pytest.raises(ZsljaxError, match="config.batch_size: found 9, expected 0: "):
    Experiment.build(config.to_dict())


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
def test_loss_has_no_gradient_and_says_what_is_not_finite(problem, system):
  batch, classes, _ = problem
  params = solved(system, *problem)
  loss = jax.value_and_grad(
    lambda p: system.loss(p, batch, classes, jax.random.key(0))[0]
  )
  value, gradient = loss(params)
  assert value == 0
  assert all((g == 0).all() for g in jax.tree.leaves(gradient))
  assert np.isnan(loss(jax.tree.map(lambda x: x + np.inf, params))[0])
