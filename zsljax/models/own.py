"""Checks of a system that a user wrote outside the package."""

from typing import Any

import jax
import jax.numpy as jnp

from zsljax.classes import ClassSpace
from zsljax.errors import require
from zsljax.models.system import MULTI_LABEL, Batch, Spec, System

_IMAGES = 3


def check_shapes(system: System, spec: Spec, classes: ClassSpace) -> None:
  """Traces a system's functions, and checks the shapes of their results.

  Args:
    system: the system.
    spec: of the dataset.
    classes: the training classes.

  Raises:
    ZsljaxError: ``scores`` are not ``[B, C]``, or ``loss`` returns something else than
      a scalar and a dict of scalars.
  """
  where = f"system {type(system).__module__}.{type(system).__qualname__}"
  rng = jax.random.key(0)
  params = jax.eval_shape(lambda: system.init(rng, spec))
  labels = jnp.zeros((_IMAGES, 2) if system.task == MULTI_LABEL else _IMAGES, jnp.int32)
  batch = Batch(
    jnp.zeros((_IMAGES, *spec.feature_shape)),
    classes.ids[labels],
    jnp.ones(_IMAGES, bool),
    _IMAGES,
  )
  scores = jax.eval_shape(system.scores, params, batch.features, classes)
  expected = f"{_IMAGES, len(classes)}, images by classes"
  _check(f"{where}: scores", scores, (_IMAGES, len(classes)), expected)
  result = jax.eval_shape(system.loss, params, batch, classes, rng)
  require(
    isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict),
    f"{where}: loss",
    type(result).__name__,
    "the loss and a dict of its parts",
  )
  for name, value in {"loss": result[0], **result[1]}.items():
    _check(f"{where}: {name} of loss", value, (), "a scalar")


def _check(where: str, value: Any, shape: tuple[int, ...], expected: str) -> None:
  found = getattr(value, "shape", None)
  require(found == shape, where, f"shape {found}", expected)
