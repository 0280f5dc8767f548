"""Features and descriptors as they reach a system: as stored, or transformed first."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import operator
from typing import Any

import jax
import jax.numpy as jnp

from zsljax.classes import ClassSpace
from zsljax.errors import require
from zsljax.models.system import (
  Array,
  AttendsToRegions,
  Batch,
  Embeds,
  Params,
  Spec,
  System,
)
from zsljax.numerics import l2_normalize

FEATURES = ("as_is", "unit", "square_root", "standardized", "whitened")
DESCRIPTORS = ("as_is", "unit", "standardized")
# The key of a stage's numbers among the parameters.
STAGE = "stage"


def moments(features: Array, mask: Array) -> tuple[Array, Array]:
  """Computes mean ``[D]`` and covariance ``[D, D]`` of features.

  Args:
    features: of images ``[N, D]`` or their regions ``[N, R, D]``.
    mask: which images count, ``[N]`` bool.
  """
  rows = features.reshape(len(features), -1, features.shape[-1]).astype(jnp.float32)
  weights = mask.astype(jnp.float32) / (jnp.sum(mask) * rows.shape[1])
  mean = jnp.einsum("n,nrd->d", weights, rows)
  rows = rows - _last(mean, rows)
  return mean, jnp.einsum("n,nrd,nre->de", weights, rows, rows)


@dataclasses.dataclass(frozen=True)
class Stage:
  """Transformations before a system.

  Attributes:
    features: ``as_is``; ``unit``, at length one; ``square_root`` of each number, which
      keeps its sign; ``standardized`` by mean and deviation of the training features;
      or ``whitened``: centred, and multiplied by the inverse of the Cholesky factor of
      their covariance, so that directions have equal variance.
    shrinkage: of ``whitened``: what is added to the variance in every direction, in
      mean variances.
    descriptors: ``as_is``; ``unit``; or ``standardized`` over the seen classes.
  """

  features: str = "as_is"
  shrinkage: float = 1.0
  descriptors: str = "as_is"

  def __post_init__(self):
    for field, known in (("features", FEATURES), ("descriptors", DESCRIPTORS)):
      found = getattr(self, field)
      expected = f"one of {', '.join(known)}"
      require(found in known, f"config.stage.{field}", repr(found), expected)
    found = self.shrinkage
    require(found > 0, "config.stage.shrinkage", found, "more than 0")

  @property
  def needs_moments(self) -> bool:
    return self.features in ("standardized", "whitened")

  def fitted(self, mean: Array, covariance: Array) -> dict[str, Array]:
    """Computes ``Spec.stage``, the numbers of a stage that ``needs_moments``."""
    variance = jnp.trace(covariance) / len(mean)
    if self.features == "standardized":
      scale = 1 / jnp.sqrt(jnp.diagonal(covariance) + 1e-6 * variance)
    else:
      unit = jnp.eye(len(mean))
      root = jnp.linalg.cholesky(covariance + self.shrinkage * variance * unit)
      scale = jax.scipy.linalg.solve_triangular(root, unit, lower=True).T
    return {"mean": mean, "scale": scale}

  def init(self, spec: Spec) -> dict[str, Array]:
    """Makes all numbers of the stage; those without ``spec.stage`` are not fitted."""
    numbers: dict[str, Array] = {}
    if self.needs_moments:
      width = spec.feature_shape[-1]
      numbers |= spec.stage or self.fitted(jnp.zeros(width), jnp.eye(width))
    if self.descriptors == "standardized":
      empty = jnp.zeros(spec.num_attributes)
      numbers |= {"descriptor_mean": empty, "descriptor_scale": empty}
    return numbers

  def of_classes(
    self, numbers: dict[str, Array], classes: ClassSpace
  ) -> dict[str, Array]:
    """Adds the moments of the seen classes' descriptors, where they are needed."""
    if self.descriptors != "standardized":
      return numbers
    seen, found = jnp.asarray(classes.seen)[:, None], jnp.asarray(classes.embeddings)
    mean = jnp.mean(found, 0, where=seen)
    variance = jnp.var(found, 0, where=seen)
    scale = 1 / jnp.sqrt(variance + 1e-6 * jnp.mean(variance))
    return numbers | {"descriptor_mean": mean, "descriptor_scale": scale}

  def on_features(self, features: Array, numbers: Mapping[str, Array]) -> Array:
    """Transforms features ``[..., D]``."""
    if self.features == "unit":
      return l2_normalize(features)
    if self.features == "square_root":
      return jnp.sign(features) * jnp.sqrt(jnp.abs(features))
    if self.needs_moments:
      mean, scale = numbers["mean"], numbers["scale"]
      centred = features - _last(mean, features)
      return centred * _last(scale, features) if scale.ndim == 1 else centred @ scale
    return features

  def on_classes(self, classes: ClassSpace, numbers: Mapping[str, Array]) -> ClassSpace:
    """Transforms the descriptors of classes."""
    found = jnp.asarray(classes.embeddings)
    if self.descriptors == "unit":
      found = l2_normalize(found)
    elif self.descriptors == "standardized":
      found = found - _last(numbers["descriptor_mean"], found)
      found = found * _last(numbers["descriptor_scale"], found)
    return dataclasses.replace(classes, embeddings=found)


def _last(vector: Array, like: Array) -> Array:
  """A vector along the last axis of an array of as many axes as ``like``."""
  return jnp.expand_dims(vector, range(like.ndim - 1))


def staged(system: System, stage: Stage) -> System:
  """Returns the system behind a stage; itself where the stage does nothing."""
  if stage == Stage():
    return system
  kinds = {
    (False, False): Staged,
    (True, False): _StagedEmbeds,
    (False, True): _StagedRegions,
    (True, True): _StagedBoth,
  }
  abilities = isinstance(system, Embeds), isinstance(system, AttendsToRegions)
  return kinds[abilities](system, stage)


def to_fit(system: System) -> Stage | None:
  """Returns the system's stage if it is fitted to training features."""
  if isinstance(system, Staged) and system.stage.needs_moments:
    return system.stage
  return None


def apart(params: Params) -> tuple[dict[str, Array] | None, Params]:
  """Separates the numbers of a stage, which training leaves alone, if there is one."""
  if isinstance(params, dict) and params.keys() == {STAGE, "system"}:
    return params[STAGE], params["system"]
  return None, params


def together(numbers: dict[str, Array] | None, trained: Params) -> Params:
  """Joins what ``apart`` separates."""
  return trained if numbers is None else {STAGE: numbers, "system": trained}


def _of_system(name: str) -> Any:
  return property(operator.attrgetter(f"system.{name}"))


@dataclasses.dataclass(frozen=True)
class Staged(System):
  """A system behind a stage, whose numbers stand beside the system's parameters.

  Attributes:
    system: what is trained.
    stage: what its features and descriptors go through.
  """

  system: Any
  stage: Stage

  name = _of_system("name")
  presets = _of_system("presets")
  task = _of_system("task")
  class_params = _of_system("class_params")
  full_batch = _of_system("full_batch")
  vmappable = _of_system("vmappable")

  def with_fields(self, fields: Mapping[str, Array]) -> System:
    return dataclasses.replace(self, system=self.system.with_fields(fields))

  def init(self, rng: Array, spec: Spec) -> Params:
    return {STAGE: self.stage.init(spec), "system": self.system.init(rng, spec)}

  def warm_start(
    self, params: Params, batch: Batch, classes: ClassSpace, rng: Array
  ) -> Params:
    numbers = self.stage.of_classes(params[STAGE], classes)
    batch, classes = self._on(numbers, batch, classes)
    system = self.system.warm_start(params["system"], batch, classes, rng)
    return {STAGE: numbers, "system": system}

  def prepare(self, params: Params, classes: ClassSpace) -> tuple[Any, Any]:
    numbers = params[STAGE]
    classes = self.stage.on_classes(classes, numbers)
    return numbers, self.system.prepare(params["system"], classes)

  def score(self, features: Array, prepared: tuple[Any, Any]) -> Array:
    numbers, own = prepared
    return self.system.score(self.stage.on_features(features, numbers), own)

  def loss(
    self, params: Params, batch: Batch, classes: ClassSpace, rng: Array
  ) -> tuple[Array, dict[str, Array]]:
    batch, classes = self._on(params[STAGE], batch, classes)
    return self.system.loss(params["system"], batch, classes, rng)

  def _on(
    self, numbers: Mapping[str, Array], batch: Batch, classes: ClassSpace
  ) -> tuple[Batch, ClassSpace]:
    features = self.stage.on_features(batch.features, numbers)
    if self.stage.features != "as_is":  # Lengths are no longer those of the regions.
      batch = dataclasses.replace(batch, features=features, inverse_lengths=None)
    return batch, self.stage.on_classes(classes, numbers)


class _StagedEmbeds(Staged):
  def embed(self, params: Params, features: Array) -> Array:
    features = self.stage.on_features(features, params[STAGE])
    return self.system.embed(params["system"], features)


class _StagedRegions(Staged):
  def region_attention(
    self, params: Params, features: Array, classes: ClassSpace
  ) -> dict[str, Any]:
    numbers = params[STAGE]
    features = self.stage.on_features(features, numbers)
    classes = self.stage.on_classes(classes, numbers)
    return self.system.region_attention(params["system"], features, classes)


class _StagedBoth(_StagedEmbeds, _StagedRegions):
  pass
