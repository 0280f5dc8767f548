"""The contract of a system, and the registry that a config's name selects from.

A system is a function of features and a class space. Whatever stands downstream
(training, evaluation, prediction) uses only what is declared here.
"""

from __future__ import annotations

from collections.abc import Mapping
import copy
import dataclasses
import importlib
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from zsljax.classes import ClassSpace
from zsljax.errors import ZsljaxError, did_you_mean

Array = jax.Array
Params = Any


@dataclasses.dataclass(frozen=True)
class Spec:
  """What a system must know of a dataset to make its parameters.

  Attributes:
    feature_shape: of one example: ``(D,)`` pooled or ``(R, D)`` regions.
    num_attributes: A, the width of the class embeddings.
    num_classes: C, for systems that learn a weight per class.
    attribute_vectors: word vectors ``[A, V]``, for systems that learn from them.
  """

  feature_shape: tuple[int, ...]
  num_attributes: int
  num_classes: int
  attribute_vectors: np.ndarray | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """Examples of one step.

  Attributes:
    features: ``[B, D]`` or ``[B, R, D]``.
    labels: class ids, ``[B]``; of a multi-label set those present, ``[B, M]``, padded
      with -1 (``zsljax.data.labels.padded_ids`` makes them of ``[B, C]``).
    mask: which rows are examples and which padding, ``[B]`` bool.
    num_examples: N, the size of the training set that the batch comes from;
      terms that a paper sums over the training set are N times the mean.
    absent: class ids annotated as absent, ``[B, Q]``, padded with -1; None where the
      set annotates no absences.
  """

  features: Array
  labels: Array
  mask: Array
  num_examples: int = dataclasses.field(metadata={"static": True})
  absent: Array | None = None

  def astype(self, dtype: jnp.dtype) -> Batch:
    """The batch with its features converted."""
    return dataclasses.replace(self, features=self.features.astype(dtype))


# Tasks of a system: one label an image, with unseen classes; any number of labels an
# image; or one label an image and no class but those of training, whose embeddings
# are what is evaluated.
SINGLE_LABEL, MULTI_LABEL, CLOSED_SET = "single_label", "multi_label", "closed_set"
TASKS = (SINGLE_LABEL, MULTI_LABEL, CLOSED_SET)


class System(Protocol):
  """One published method.

  An instance is a frozen dataclass of hyper-parameters and holds no arrays.
  ``presets`` maps a preset's name to the fields in which the paper and the
  authors' code differ; a config that leaves such a field None takes the
  preset's value. ``task`` is one of ``TASKS``. ``class_params`` names the
  parameters that have a row for each class id; these may lie split over devices.

  ``vmappable`` names the fields that enter the equations as plain numbers: runs that
  are trained together may differ in them (``with_fields``).

  Two further abilities are optional, each a protocol of its own: ``Embeds`` and
  ``AttendsToRegions``.
  """

  name: ClassVar[str]
  task: ClassVar[str] = SINGLE_LABEL
  class_params: ClassVar[tuple[str, ...]] = ()
  vmappable: ClassVar[tuple[str, ...]] = ()
  presets: ClassVar[Mapping[str, Mapping[str, Any]]]

  def init(self, rng: Array, spec: Spec) -> Params:
    """Initial parameters, a pytree of arrays."""

  def warm_start(
    self, params: Params, batch: Batch, classes: ClassSpace, rng: Array
  ) -> Params:
    """Parameters to begin training with, given a run's first batch.

    In full-batch training that is the whole training set. By default they are the
    initial ones.
    """
    del batch, classes, rng
    return params

  def scores(self, params: Params, features: Array, classes: ClassSpace) -> Array:
    """``[B, C]``, one column per class of the space; higher is more likely."""
    return self.score(features, self.prepare(params, classes))

  def prepare(self, params: Params, classes: ClassSpace) -> Any:
    """What ``score`` needs of parameters and classes, whatever the images."""

  def score(self, features: Array, prepared: Any) -> Array:
    """The scores ``[B, C]`` of images against what ``prepare`` made."""

  def loss(
    self, params: Params, batch: Batch, classes: ClassSpace, rng: Array
  ) -> tuple[Array, dict[str, Array]]:
    """The objective (scalar) and its named parts over the global batch.

    ``classes`` holds the seen classes and those that stand for the unseen ones;
    rows where the batch's mask is false count for nothing.
    """

  def step_flops(self, spec: Spec, batch_size: int) -> float:
    """Useful operations of one gradient of ``loss``, counted analytically."""


@runtime_checkable
class Embeds(Protocol):
  """A system that gives images embeddings."""

  def embed(self, params: Params, features: Array) -> Array:
    """Embeddings ``[B, d]``, to be compared by their cosine."""


@runtime_checkable
class AttendsToRegions(Protocol):
  """A system that attends to regions of an image."""

  def region_attention(
    self, params: Params, features: Array, classes: ClassSpace
  ) -> dict[str, Any]:
    """The ``attention.AttentionMaps`` of each of its nets, by name."""


def with_fields(system: System, fields: Mapping[str, Array]) -> System:
  """The system with some ``vmappable`` fields replaced by traced ones.

  Their range is not checked: build the system with each value once before.
  """
  changed = copy.copy(system)
  for field, value in fields.items():
    object.__setattr__(changed, field, value)
  return changed


_SYSTEMS: dict[str, type] = {}


def register(system: type) -> type:
  """Class decorator that enters a system under its ``name``."""
  _SYSTEMS[system.name] = system
  return system


def system_names() -> tuple[str, ...]:
  """The names that ``build_system`` takes."""
  return tuple(sorted(_SYSTEMS))


def build_system(config: Mapping[str, Any]) -> System:
  """The system that ``config`` describes.

  Args:
    config: ``name``, ``preset`` and the system's own fields. A field that is
      absent or None takes the preset's value, or else the system's default.

  Raises:
    ZsljaxError: the name, the preset or a field is unknown.
  """
  config = dict(config)
  if module := config.pop("module", None):
    _import_module(module)
  name, preset = config.pop("name"), config.pop("preset", "paper")
  if name not in _SYSTEMS:
    raise ZsljaxError(
      f"config.system.name: unknown system {name!r}. {did_you_mean(name, _SYSTEMS)}"
    )
  system = _SYSTEMS[name]
  if preset not in system.presets:
    raise ZsljaxError(
      f"config.system.preset: {name} has no preset {preset!r}. "
      f"{did_you_mean(preset, system.presets)}"
    )
  fields = {f.name for f in dataclasses.fields(system)}
  for field in config:
    if field not in fields:
      raise ZsljaxError(
        f"config.system.{field}: {name} has no such field. "
        f"{did_you_mean(field, fields)}"
      )
  given = {
    field: tuple(value) if isinstance(value, list) else value  # Stored as JSON.
    for field, value in config.items()
    if value is not None
  }
  return system(**(system.presets[preset] | given))


def _import_module(module: str) -> None:
  """Imports a user's module, in which ``register`` is called.

  Raises:
    ZsljaxError: it cannot be imported.
  """
  try:
    importlib.import_module(module)
  except ZsljaxError:
    raise
  except Exception as error:
    raise ZsljaxError(
      f"config.system.module: found {module!r}, which cannot be imported "
      f"({type(error).__name__}: {error}), expected a module in the working directory, "
      "beside the config's file or installed"
    ) from error
