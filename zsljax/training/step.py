"""One step of training."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import optax

from zsljax.classes import ClassSpace
from zsljax.models import System
from zsljax.models.stage import apart, together
from zsljax.training.state import TrainState

Array = jax.Array
Metrics = dict[str, Array]
# From a state and a batch, or inputs that make several, to the next state.
TrainStep = Callable[[TrainState, Any, ClassSpace], tuple[TrainState, Metrics]]


def make_train_step(
  system: System,
  optimizer: optax.GradientTransformationExtraArgs,
  tolerance: float = 0.0,
  mesh: jax.sharding.Mesh | None = None,
) -> TrainStep:
  """A pure function from state and batch to the next state and its metrics.

  The metrics are those of the parameters before the update: ``loss``, its parts,
  ``grad_norm`` and ``update_norm``. With a ``tolerance``, ``converged`` is True where
  ``grad_norm`` is at most ``tolerance * max(1, |loss|)``; then the state stays as it
  is, so that a run ends at the same parameters wherever it was interrupted. A loss may
  take each device's rows by themselves where the ``mesh`` is known (``by_own_rows``).
  """

  def train_step(state, batch, classes):
    batch = batch.astype(jnp.float32)
    rng = jax.random.fold_in(state.rng, state.step)

    fixed, trained = apart(state.params)

    def objective(trained):
      with contextlib.ExitStack() as within:
        if mesh:
          within.enter_context(jax.sharding.use_abstract_mesh(mesh.abstract_mesh))
        return system.loss(together(fixed, trained), batch, classes, rng)

    (loss, parts), grads = jax.value_and_grad(objective, has_aux=True)(trained)
    updates, opt_state = optimizer.update(
      grads,
      state.opt_state,
      trained,
      value=loss,
      grad=grads,
      value_fn=lambda trained: objective(trained)[0],
    )
    params = together(fixed, optax.apply_updates(trained, updates))
    new = TrainState(state.step + 1, params, opt_state, state.rng)
    metrics = {"loss": loss, **parts, "grad_norm": optax.tree.norm(grads)}
    metrics["update_norm"] = optax.tree.norm(updates)
    if tolerance:
      small = tolerance * jnp.maximum(1, jnp.abs(loss))
      converged = metrics["grad_norm"] <= small
      new = jax.tree.map(lambda a, b: jnp.where(converged, a, b), state, new)
      metrics["converged"] = converged
    return new, metrics

  return train_step
