"""What a training run carries from step to step."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from zsljax.models import Spec, System

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Everything that the next step depends on, beside the batch.

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
  return TrainState(jnp.int32(0), params, optimizer.init(params), rng)
