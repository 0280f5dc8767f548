"""Several trained runs of one dataset that score as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from zsljax.classes import ClassSpace
from zsljax.errors import ZsljaxError, require
from zsljax.models.registry import build_system, register
from zsljax.models.system import (
  Array,
  Batch,
  Params,
  Spec,
  System,
)
from zsljax.numerics import pooled

NORMALIZATIONS = ("margin", "standardized", "probabilities")


@register
@dataclasses.dataclass(frozen=True)
class Ensemble(System):
  r"""Runs whose scores are made comparable and averaged, :math:`\sum_i w_i n_i(s_i)`.

  ``zsljax ensemble`` makes it of trained runs; it is not trained itself.

  Attributes:
    members: the config of each run's system.
    on_means: of each run, whether it takes the mean over regions, where others take
      regions.
    margins: of each run, the mean additive margin of its training images (see
      ``evaluation.calibration``), the unit of its scores; 1 where it has none.
    temperatures: of each run, the temperature of its probabilities in that unit.
    weights: of each run, which sum to 1.
    normalization: n: ``margin``, scores over the margin; ``standardized``, with mean 0
      and deviation 1 over the seen classes of each image; ``probabilities``,
      exponentials of scores over margin and temperature, over their sum over the seen
      classes. So a class's score does not depend on which other classes are new.
  """

  name: ClassVar[str] = "ensemble"
  presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}}

  members: tuple[Mapping[str, Any], ...] = ()
  on_means: tuple[bool, ...] = ()
  margins: tuple[float, ...] = ()
  temperatures: tuple[float, ...] = ()
  weights: tuple[float, ...] = ()
  normalization: str = "standardized"

  def __post_init__(self):
    self.check_fields(normalization=NORMALIZATIONS)
    for field in ("on_means", "margins", "temperatures", "weights"):
      found, expected = len(getattr(self, field)), len(self.members)
      require(
        found == expected, f"config.system.{field}", found, f"{expected}, one a member"
      )

  @functools.cached_property
  def _systems(self) -> list[System]:
    return [build_system(config) for config in self.members]

  @property
  def task(self) -> str:
    return self._systems[0].task if self.members else super().task

  def init(self, rng: Array, spec: Spec) -> Params:
    on_means = dataclasses.replace(spec, feature_shape=spec.feature_shape[-1:])
    specs = [on_means if mean else spec for mean in self.on_means]
    return {
      _key(i): system.init(rng, own)
      for i, (system, own) in enumerate(zip(self._systems, specs, strict=True))
    }

  def prepare(self, params: Params, classes: ClassSpace) -> tuple[list[Any], Array]:
    systems = enumerate(self._systems)
    prepared = [system.prepare(params[_key(i)], classes) for i, system in systems]
    return prepared, jnp.asarray(classes.seen)

  def score(self, features: Array, prepared: tuple[list[Any], Array]) -> Array:
    of_members, seen = prepared
    scores = [
      system.score(pooled(features) if mean else features, own)
      for system, own, mean in zip(
        self._systems, of_members, self.on_means, strict=True
      )
    ]
    return average(
      scores, seen, self.normalization, self.weights, self.margins, self.temperatures
    )

  def loss(
    self, params: Params, batch: Batch, classes: ClassSpace, rng: Array
  ) -> tuple[Array, dict[str, Array]]:
    raise ZsljaxError(
      "config.system.name: found 'ensemble', expected a system that is trained; "
      "`zsljax ensemble` joins its runs"
    )


def average(
  scores: Sequence[Array],
  seen: Array,
  normalization: str,
  weights: Sequence[float],
  margins: Sequence[float],
  temperatures: Sequence[float],
) -> Array:
  """Averages the scores of runs, ``[B, C]`` each, as the fields of ``Ensemble`` say."""
  total = jnp.zeros(())
  runs = zip(scores, weights, margins, temperatures, strict=True)
  for own, weight, margin, temperature in runs:
    if normalization == "standardized":
      mean = jnp.mean(own, 1, where=seen, keepdims=True)
      deviation = jnp.std(own, 1, where=seen, keepdims=True)
      own = (own - mean) / jnp.maximum(deviation, 1e-12)
    else:
      own = own / max(abs(margin), 1e-6)
    if normalization == "probabilities":
      own = own / temperature
      own = jnp.exp(own - jax.nn.logsumexp(own, 1, where=seen, keepdims=True))
    total += weight * own
  return total


def joined(params: Sequence[Params]) -> Params:
  """The parameters of an ensemble, of those of its runs."""
  return {_key(i): own for i, own in enumerate(params)}


def _key(run: int) -> str:
  return f"run_{run:03d}"
