import dataclasses

import jax
import jax.numpy as jnp
import pytest

import zsljax
from zsljax import models


@pytest.mark.parametrize(
  "system",
  [
    models.ESZSL(),
    *(pytest.param(x, marks=pytest.mark.slow) for x in (models.MSDN(), models.SDL())),
  ],
)
def test_systems_of_the_package_keep_the_contract(system):
  assert len(zsljax.check_system(system)) == 6


@dataclasses.dataclass(frozen=True)
class Linear(models.System):
  """Sound, until a subclass changes something."""

  name = "linear"
  presets = {"paper": {}}  # noqa: RUF012

  def init(self, rng, spec):
    shape = (spec.feature_shape[-1], spec.num_attributes)
    return {"kernel": 0.1 * jax.random.normal(rng, shape)}

  def prepare(self, params, classes):
    return params["kernel"] @ classes.unit_embeddings().T

  def score(self, features, prepared):
    return features @ prepared

  def loss(self, params, batch, classes, rng):
    scores = self.scores(params, batch.features, classes)
    own = jnp.take_along_axis(scores, classes.positions(batch.labels)[:, None], 1)[:, 0]
    losses = jax.nn.logsumexp(scores, 1) - own
    return jnp.sum(losses, where=batch.mask) / jnp.sum(batch.mask), {}


class NotFinite(Linear):
  def loss(self, params, batch, classes, rng):
    return jnp.sum(params["kernel"]) / 0.0, {}


class Standardises(Linear):
  def score(self, features, prepared):
    return (features - features.mean(0, keepdims=True)) @ prepared


class ById(Linear):
  def prepare(self, params, classes):
    return super().prepare(params, classes) + jnp.arange(len(classes))[None]


class Unmasked(Linear):
  def loss(self, params, batch, classes, rng):
    whole = dataclasses.replace(batch, mask=jnp.ones_like(batch.mask))
    return super().loss(params, whole, classes, rng)


@pytest.mark.parametrize(
  ("system", "message"),
  [
    (NotFinite(), "NotFinite: loss: found NaN or infinity, expected finite"),
    (Standardises(), "scores of an image alone and among others: found values that"),
    (ById(), "loss with classes in another order: found values that differ"),
    (Unmasked(), "loss with other content in masked rows: found values"),
  ],
)
def test_a_broken_contract_is_named(system, message):
  with pytest.raises(zsljax.ZsljaxError, match=message):
    zsljax.check_system(system)


def test_a_sound_system_passes():
  held = zsljax.check_system(Linear())
  assert held[-1] == "two devices compute what one does"
