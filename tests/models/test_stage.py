import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax.errors import ZsljaxError
from zsljax.models import (
  MSDN,
  SAE,
  CosineClassifier,
  Embeds,
  Spec,
  Stage,
  build_system,
  moments,
  staged,
)
from zsljax.models.system import AttendsToRegions

RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((40, 5)) @ RNG.standard_normal((5, 5)) + 2


def numbers_of(stage, features=FEATURES):
  mask = np.ones(len(features), bool)
  return stage.fitted(*moments(jnp.asarray(features), mask))


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def whitened(x, shrinkage):
  covariance = np.cov(FEATURES.T, bias=True)
  added = shrinkage * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
  root = np.linalg.cholesky(covariance + added)
  return (x - FEATURES.mean(0)) @ np.linalg.inv(root).T


REFERENCE = {
  "as_is": lambda x: x,
  "unit": unit,
  "square_root": lambda x: np.sign(x) * np.abs(x) ** 0.5,
  "standardized": lambda x: (x - FEATURES.mean(0)) / FEATURES.std(0),
  "whitened": lambda x: whitened(x, 0.5),
}


@pytest.mark.parametrize("how", REFERENCE)
def test_features_are_those_of_numpy(how, float64):
  stage = Stage(how, shrinkage=0.5)
  numbers = numbers_of(stage) if stage.needs_moments else {}
  found = stage.on_features(jnp.asarray(FEATURES), numbers)
  np.testing.assert_allclose(found, REFERENCE[how](FEATURES), rtol=1e-5, atol=1e-5)


def test_whitened_directions_have_equal_variance():
  stage = Stage("whitened", shrinkage=1e-6)
  found = stage.on_features(jnp.asarray(FEATURES), numbers_of(stage))
  np.testing.assert_allclose(np.cov(found.T, bias=True), np.eye(5), atol=1e-3)


def test_masked_images_and_the_order_of_regions_count_for_nothing():
  regions = RNG.standard_normal((8, 3, 5)).astype(np.float32)
  mask = np.arange(8) < 6
  expected = moments(jnp.asarray(regions[:6, ::-1]), np.ones(6, bool))
  chex.assert_trees_all_close(moments(jnp.asarray(regions), mask), expected, atol=1e-6)
  mean, covariance = expected
  rows = regions[:6].reshape(-1, 5)
  np.testing.assert_allclose(mean, rows.mean(0), atol=1e-6)
  np.testing.assert_allclose(covariance, np.cov(rows.T, bias=True), atol=1e-5)


@pytest.mark.parametrize("how", REFERENCE)
@pytest.mark.parametrize("descriptors", ["as_is", "unit", "standardized"])
@pytest.mark.parametrize("system", [MSDN(), SAE(), CosineClassifier(encoder="none")])
def test_a_staged_system_is_the_system_on_what_its_stage_makes(
  system, how, descriptors, region_problem
):
  stage = Stage(how, 0.5, descriptors)
  if stage == Stage():
    assert staged(system, stage) is system
    return
  batch, classes, spec = region_problem(dim=5)
  if isinstance(system, AttendsToRegions):  # Of the features before the stage.
    lengths = np.linalg.norm(batch.features, axis=-1, keepdims=True)
    batch = dataclasses.replace(batch, inverse_lengths=1 / lengths)
  else:
    batch = dataclasses.replace(batch, features=batch.features[:, 0])
    spec = dataclasses.replace(spec, feature_shape=(5,))
  numbers = numbers_of(stage) if stage.needs_moments else None
  spec = dataclasses.replace(spec, stage=numbers)
  own, rng = staged(system, stage), jax.random.key(1)
  assert isinstance(own, Embeds) == isinstance(system, Embeds)
  params = own.warm_start(own.init(rng, spec), batch, classes, rng)
  embeddings = np.asarray(classes.embeddings)
  seen = embeddings[np.asarray(classes.seen)]
  made = {
    "as_is": embeddings,
    "unit": unit(embeddings),
    "standardized": (embeddings - seen.mean(0)) / seen.std(0),
  }[descriptors]
  on = dataclasses.replace(classes, embeddings=jnp.asarray(made))
  given = REFERENCE[how](np.asarray(batch.features))
  given = dataclasses.replace(batch, features=jnp.asarray(given), inverse_lengths=None)
  plain = system.warm_start(system.init(rng, spec), given, on, rng)
  chex.assert_trees_all_close(params["system"], plain, rtol=1e-4, atol=1e-4)
  for found, expected in (
    (own.loss(params, batch, classes, rng), system.loss(plain, given, on, rng)),
    (
      own.scores(params, batch.features, classes),
      system.scores(plain, given.features, on),
    ),
  ):
    chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=1e-3)
  if isinstance(own, AttendsToRegions):
    found = own.region_attention(params, batch.features, classes)
    expected = system.region_attention(plain, given.features, on)
    chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_stage_keeps_both_abilities():
  @dataclasses.dataclass(frozen=True)
  class Both(MSDN):
    def embed(self, params, features):
      return features

  own = staged(Both(), Stage("unit"))
  assert isinstance(own, Embeds) and isinstance(own, AttendsToRegions)


def test_a_config_names_the_stage():
  config = {"name": "sae", "stage": {"features": "unit", "descriptors": "as_is"}}
  system = build_system(config)
  assert system == staged(SAE(), Stage("unit"))
  assert system.with_fields({"lambda_": 2.0}).system.lambda_ == 2.0
  shapes = jax.eval_shape(lambda: system.init(jax.random.key(0), Spec((5,), 4, 6)))
  assert shapes["stage"] == {}


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"features": "white"}, "config.stage.features: found 'white', expected one of"),
    ({"descriptors": "whitened"}, "config.stage.descriptors: found 'whitened'"),
    ({"shrinkage": 0.0}, "config.stage.shrinkage: found 0.0, expected more than 0"),
  ],
)
def test_bad_stages_are_refused(fields, message):
  with pytest.raises(ZsljaxError, match=message):
    build_system({"name": "sae", "stage": fields})
