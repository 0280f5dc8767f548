"""The contract of a system, and the registry that a config's name selects from.

A system is a function of features and a class space. Whatever stands downstream
(training, evaluation, prediction) uses only what is declared here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import copy
import dataclasses
import importlib
from importlib.metadata import entry_points
import importlib.util
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from zsljax.classes import ClassSpace
from zsljax.errors import ZsljaxError, did_you_mean, line_of, require

Array = jax.Array
Params = Any


@dataclasses.dataclass(frozen=True)
class Spec:
  """Shapes and word vectors of a dataset, from which a system makes its parameters.

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
    num_examples: N, the size of the training set that the batch comes from, static
      (a traced number where a batch is made and used inside one traced function);
      terms that a paper sums over the training set are N times the mean.
    absent: class ids annotated as absent, ``[B, Q]``, padded with -1; None where the
      set annotates no absences.
  """

  features: Array
  labels: Array
  mask: Array
  num_examples: Array | int = dataclasses.field(metadata={"static": True})
  absent: Array | None = None

  def astype(self, dtype: jnp.dtype) -> Batch:
    """Returns the batch with its features converted."""
    return dataclasses.replace(self, features=self.features.astype(dtype))


# Tasks of a system: one label an image, with unseen classes; any number of labels an
# image; or one label an image and no class but those of training, where embeddings
# are evaluated.
SINGLE_LABEL, MULTI_LABEL, CLOSED_SET = "single_label", "multi_label", "closed_set"


_IN_RANGE = {
  "0 or more": lambda x: x >= 0,
  "more than 0": lambda x: x > 0,
  "1 or more": lambda x: x >= 1,
  "between 0 and 1": lambda x: 0 <= x <= 1,
  "between -1 and 0": lambda x: -1 <= x <= 0,
}


class System(Protocol):
  """One published method.

  A system is a frozen dataclass of hyper-parameters that holds no arrays, decorated
  with ``register``. It writes ``init``, ``prepare``, ``score`` and ``loss``; the other
  functions and class variables have defaults where it inherits from this class. All
  functions are pure and are traced by JAX. Two further abilities are optional, each a
  protocol of its own: ``Embeds`` and ``AttendsToRegions``.

  Shapes: B images, C classes of a class space, D width of a feature, R regions, A
  attributes.

  Attributes:
    name: the value of ``config.system.name`` that selects the system.
    presets: by a preset's name, the fields in which the paper and the authors' code
      differ. A config that leaves such a field None takes the preset's value. The
      preset ``paper`` is the one taken when a config names none.
    task: ``SINGLE_LABEL``, ``MULTI_LABEL`` or ``CLOSED_SET``.
    class_params: names of parameters with a row for each class id, which may lie split
      over devices.
    full_batch: True if it needs all training images at once, ``config.batch_size=0``.
    vmappable: fields that enter the equations as plain numbers, so that runs trained
      together may differ in them (``with_fields``).
  """

  name: ClassVar[str]
  presets: ClassVar[Mapping[str, Mapping[str, Any]]]
  class_params: ClassVar[tuple[str, ...]] = ()
  full_batch: ClassVar[bool] = False

  # Properties, so that a system's fields may decide; a class variable does as well.
  @property
  def task(self) -> str:
    return SINGLE_LABEL

  @property
  def vmappable(self) -> tuple[str, ...]:
    return ()

  def init(self, rng: Array, spec: Spec) -> Params:
    """Makes the initial parameters, a pytree of arrays.

    Args:
      rng: a random key.
      spec: shapes of features and classes.

    Raises:
      ZsljaxError: the dataset lacks something that the system needs.
    """

  def check_fields(self, **expected: str | tuple[str, ...]) -> None:
    """Checks fields: the words that each may be, or the range of its number.

    Ranges are ``0 or more``, ``more than 0``, ``1 or more``, ``between 0 and 1`` and
    ``between -1 and 0``.

    Raises:
      ZsljaxError: a field has another value; the message names it.
    """
    for field, kind in expected.items():
      value = getattr(self, field)
      if isinstance(kind, str):
        ok = _IN_RANGE[kind](value)
      else:
        ok, kind = value in kind, f"one of {', '.join(kind)}"
      require(ok, f"config.system.{field}", repr(value), kind)

  def warm_start(
    self, params: Params, batch: Batch, classes: ClassSpace, rng: Array
  ) -> Params:
    """Makes the parameters to begin training with; by default the initial ones.

    Args:
      params: of ``init``.
      batch: the first batch; all training images where training is full-batch.
      classes: the training classes.
      rng: a random key.
    """
    del batch, classes, rng
    return params

  def scores(self, params: Params, features: Array, classes: ClassSpace) -> Array:
    """Scores ``[B, C]`` of images, a column for each class; higher is more likely."""
    return self.score(features, self.prepare(params, classes))

  def prepare(self, params: Params, classes: ClassSpace) -> Any:
    """Computes the part of a score that no image changes, a pytree of arrays."""

  def score(self, features: Array, prepared: Any) -> Array:
    """Scores images against prepared classes.

    Args:
      features: ``[B, D]`` or ``[B, R, D]``.
      prepared: the result of ``prepare`` for C classes.

    Returns:
      ``[B, C]``; higher is more likely.
    """

  def loss(
    self, params: Params, batch: Batch, classes: ClassSpace, rng: Array
  ) -> tuple[Array, dict[str, Array]]:
    """Computes the objective over the global batch.

    Args:
      params: of ``init``.
      batch: images and labels; rows whose mask is false must count for nothing.
      classes: the seen classes and those that stand for the unseen ones.
      rng: a random key, new in each step.

    Returns:
      The objective, a scalar, and its parts by name, scalars that are logged.
    """


@runtime_checkable
class Embeds(Protocol):
  """A system that gives images embeddings."""

  def embed(self, params: Params, features: Array) -> Array:
    """Embeds images: ``[B, d]``, to be compared by their cosine."""


@runtime_checkable
class AttendsToRegions(Protocol):
  """A system that attends to regions of an image."""

  def region_attention(
    self, params: Params, features: Array, classes: ClassSpace
  ) -> dict[str, Any]:
    """Computes the ``attention.AttentionMaps`` of each attention net, by its name."""


def with_fields(system: System, fields: Mapping[str, Array]) -> System:
  """Returns the system with some ``vmappable`` fields replaced by traced ones.

  Their range is not checked: build the system with each value once before.
  """
  changed = copy.copy(system)
  for field, value in fields.items():
    object.__setattr__(changed, field, value)
  return changed


_SYSTEMS: dict[str, type] = {}
# Of installed packages that bring systems: the system's name = its module.
ENTRY_POINTS = "zsljax.systems"
_WRITTEN = ("init", "prepare", "score", "loss")
_GIVEN = ("warm_start", "scores", "task", "class_params", "full_batch", "vmappable")


def register(system: type) -> type:
  """Enters a system under its ``name``, where a config finds it; a class decorator.

  It stands above ``@dataclasses.dataclass(frozen=True)``.

  Raises:
    ZsljaxError: the class lacks a function, ``name`` or ``presets``; the message names
      everything that it lacks.
  """
  missing = [name for name in ("name", "presets") if not hasattr(system, name)]
  for name in _WRITTEN:
    own = getattr(system, name, None)
    if not callable(own) or own is getattr(System, name):
      missing.append(f"{name}()")
  missing += [name for name in _GIVEN if not hasattr(system, name)]
  if not dataclasses.is_dataclass(system):
    missing.append("@dataclasses.dataclass(frozen=True)")
  require(
    not missing,
    f"system {system.__module__}.{system.__qualname__}",
    f"no {', '.join(missing)}",
    "all that zsljax.models.System names",
  )
  _SYSTEMS[system.name] = system
  return system


def build_system(config: Mapping[str, Any]) -> System:
  """Builds the system that a config describes.

  Args:
    config: ``name``, ``preset`` and the system's own fields. A field that is
      absent or None takes the preset's value, or else the system's default.

  Raises:
    ZsljaxError: the name, the preset or a field is unknown, or a value out of range.
  """
  config = dict(config)
  name, preset = config.pop("name"), config.pop("preset", "paper")
  if module := config.pop("module", None):
    import_module("config.system.module", module)
  installed = entry_points(group=ENTRY_POINTS)
  if name not in _SYSTEMS and name in installed.names:
    import_module(f"config.system.name={name}", installed[name].module)
  _known(name, _SYSTEMS.keys() | installed.names, "name: unknown system")
  require(
    name in _SYSTEMS,
    f"config.system.name={name}",
    "a package that registers no system of this name",
    "`register` to be called where its module is imported",
  )
  system = _SYSTEMS[name]
  _known(preset, system.presets, f"preset: {name} has no preset")
  fields = [f.name for f in dataclasses.fields(system)]
  for field in config:
    _known(field, fields, f"{field}: {name} has no field")
  given = {
    field: tuple(value) if isinstance(value, list) else value  # Stored as JSON.
    for field, value in config.items()
    if value is not None
  }
  try:
    return system(**(system.presets[preset] | given))
  except TypeError as error:  # A text in place of a number, and the like.
    raise ZsljaxError(
      f"config.system: found {line_of(error)}, expected values of the fields' types"
    ) from error


def _known(word: str, words: Iterable[str], message: str) -> None:
  if word not in words:
    hint = did_you_mean(word, words)
    raise ZsljaxError(f"config.system.{message} {word!r}. {hint}")


def import_module(where: str, module: str) -> None:
  """Imports a user's module, in which ``register`` is called.

  Args:
    where: what names the module.
    module: its name.

  Raises:
    ZsljaxError: it cannot be imported.
  """
  try:
    importlib.import_module(module)
  except ZsljaxError:
    raise
  except Exception as error:
    raise ZsljaxError(
      f"{where}: found {module!r}, which cannot be imported "
      f"({type(error).__name__}: {error}), expected a module that is installed, or "
      "lies in the working directory or a folder of PYTHONPATH; for training, beside "
      "the config's file too"
    ) from error


def registered() -> dict[str, type | None]:
  """Systems by their names; None for those of packages that are not imported yet."""
  return dict.fromkeys(entry_points(group=ENTRY_POINTS).names) | _SYSTEMS


def outside_module(system: System) -> str | None:
  """The module to import for a system that is not of this package.

  None of a system that this package has, or that no other process can import.
  """
  name = type(system).__module__
  if name.startswith("zsljax.") or name == "__main__":
    return None
  return name if importlib.util.find_spec(name) else None


def where_written(system: System) -> str:
  """The class of a system, for messages."""
  return f"system {type(system).__module__}.{type(system).__qualname__}"


def check_shapes(system: System, spec: Spec, classes: ClassSpace) -> None:
  """Traces the functions of a system that a user wrote, and checks their results.

  Raises:
    ZsljaxError: ``scores`` are not ``[B, C]``, or ``loss`` returns something else than
      a scalar and a dict of scalars.
  """
  where, images = where_written(system), 3
  rng = jax.random.key(0)
  params = jax.eval_shape(lambda: system.init(rng, spec))
  labels = jnp.zeros((images, 2) if system.task == MULTI_LABEL else images, jnp.int32)
  batch = Batch(
    jnp.zeros((images, *spec.feature_shape)),
    classes.ids[labels],
    jnp.ones(images, bool),
    images,
  )

  def check(name: str, value: Any, shape: tuple[int, ...], expected: str) -> None:
    found = getattr(value, "shape", None)
    require(found == shape, f"{where}: {name}", f"shape {found}", expected)

  scores = jax.eval_shape(system.scores, params, batch.features, classes)
  shape = images, len(classes)
  check("scores", scores, shape, f"{shape}, images by classes")
  result = jax.eval_shape(system.loss, params, batch, classes, rng)
  require(
    isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict),
    f"{where}: loss",
    type(result).__name__,
    "the loss and a dict of its parts",
  )
  for name, value in {"loss": result[0], **result[1]}.items():
    check(f"{name} of loss", value, (), "a scalar")
