"""The state that a training run carries from step to step."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from zsljax.classes import ClassSpace
from zsljax.models import Batch, Spec, System
from zsljax.models.stage import apart

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Arrays that the next step depends on, beside the batch.

  Attributes:
    step: number of updates so far, scalar int32.
    params: of the system.
    opt_state: of the optimizer.
    rng: the run's key; step t uses ``fold_in(rng, t)``.
  """

  step: Array
  params: Any
  opt_state: Any
  rng: Array


def init_state(
  system: System,
  optimizer: optax.GradientTransformation,
  spec: Spec,
  seed: Array,
) -> TrainState:
  """The state before the first step, a pure function of ``seed``."""
  init_rng, rng = jax.random.split(jax.random.key(seed))
  params = system.init(init_rng, spec)
  _, trained = apart(params)
  return TrainState(jnp.int32(0), params, optimizer.init(trained), rng)


def warm_start(
  system: System,
  optimizer: optax.GradientTransformation,
  state: TrainState,
  batch: Batch,
  classes: ClassSpace,
) -> TrainState:
  """The state to begin training with, given the run's first batch."""
  rng = jax.random.fold_in(state.rng, 2**32 - 1)  # No step has this number.
  params = system.warm_start(state.params, batch.astype(jnp.float32), classes, rng)
  _, trained = apart(params)
  return dataclasses.replace(state, params=params, opt_state=optimizer.init(trained))


def without_params(state: TrainState) -> dict[str, Any]:
  """The rest of the state; parameters have an item of their own in checkpoints."""
  return {"step": state.step, "opt_state": state.opt_state, "rng": state.rng}
