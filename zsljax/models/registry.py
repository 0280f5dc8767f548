"""The systems that a config can name."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import importlib
from importlib.metadata import entry_points
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp

from zsljax.classes import ClassSpace
from zsljax.errors import ZsljaxError, line_of, require, require_known
from zsljax.models.stage import Stage, staged
from zsljax.models.system import MULTI_LABEL, Batch, Spec, System

_SYSTEMS: dict[str, type] = {}
# Of installed packages that bring systems: the system's name = its module.
ENTRY_POINTS = "zsljax.systems"
_WRITTEN = ("init", "prepare", "score", "loss")
_GIVEN = (
  *("warm_start", "scores", "with_fields"),
  *("task", "class_params", "full_batch", "vmappable"),
)


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
    config: ``name``, ``preset``, the fields of a ``stage`` before it, and the system's
      own fields. A field that is absent or None takes the preset's value, or else the
      system's default.

  Raises:
    ZsljaxError: the name, the preset or a field is unknown, or a value out of range.
  """
  config = dict(config)
  name, preset = config.pop("name"), config.pop("preset", "paper")
  stage = config.pop("stage", None) or {}
  if module := config.pop("module", None):
    import_module("config.system.module", module)
  installed = entry_points(group=ENTRY_POINTS)
  if name not in _SYSTEMS and name in installed.names:
    import_module(f"config.system.name={name}", installed[name].module)
  known = _SYSTEMS.keys() | installed.names
  require_known(name, known, "config.system.name", "unknown system")
  require(
    name in _SYSTEMS,
    f"config.system.name={name}",
    "a package that registers no system of this name",
    "`register` to be called where its module is imported",
  )
  system = _SYSTEMS[name]
  where = "config.system.preset"
  require_known(preset, system.presets, where, f"{name} has no preset")
  fields = [f.name for f in dataclasses.fields(system)]
  for field in config:
    require_known(field, fields, f"config.system.{field}", f"{name} has no field")
  given = {
    field: tuple(value) if isinstance(value, list) else value  # Stored as JSON.
    for field, value in config.items()
    if value is not None
  }
  try:
    return staged(system(**(system.presets[preset] | given)), Stage(**stage))
  except TypeError as error:  # A text in place of a number, and the like.
    raise ZsljaxError(
      f"config.system: found {line_of(error)}, expected values of the fields' types"
    ) from error


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
