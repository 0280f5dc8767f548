"""The training loop: restore or initialise, step, log, checkpoint."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
import dataclasses
import math
import time

import jax

from zsljax.checkpoints import Checkpoints, abstract
from zsljax.classes import ClassSpace
from zsljax.errors import ZsljaxError
from zsljax.models import Batch
from zsljax.reporting.metrics_log import MetricsLog
from zsljax.reporting.progress import step_bar
from zsljax.sharding import over_classes, replicated
from zsljax.training.state import TrainState, warm_start, without_params
from zsljax.training.step import make_train_step

# Steps that may wait on the devices. More gains nothing, and queued collectives
# on CPU devices time out.
_IN_FLIGHT = 8


@dataclasses.dataclass(frozen=True)
class Schedule:
  """When a run ends, logs and saves.

  Attributes:
    total_steps: the last step.
    log_every: steps between lines of metrics.
    save_every: steps between checkpoints; the last step is always saved.
    tolerance: ends the run early, see ``make_train_step``; 0 never does.
  """

  total_steps: int
  log_every: int
  save_every: int
  tolerance: float = 0.0


def train(
  system,
  optimizer,
  initial_state: Callable[[], TrainState],
  batches_from: Callable[[int], Iterator[Batch]],
  classes: ClassSpace,
  schedule: Schedule,
  checkpoints: Checkpoints,
  log: Callable[[int], MetricsLog],
  mesh: jax.sharding.Mesh,
) -> TrainState:
  """Trains to the end of the schedule, from the latest checkpoint if any.

  Steps, batches and randomness are functions of the seed and the step number,
  so a run that was killed ends bit-identical to one that was not.

  Args:
    system: a ``System``.
    optimizer: from ``make_optimizer``.
    initial_state: makes the state before the first step.
    batches_from: the batches from a step on, the same ones every time, on the mesh.
    classes: the training class space.
    schedule: when to end, log and save.
    checkpoints: where to save and resume.
    log: opens the metrics log, given the step at which the run starts.
    mesh: the devices.

  Returns:
    The final state, saved as the latest checkpoint.

  Raises:
    ZsljaxError: the loss is not finite, or a checkpoint cannot be written or
      read.
  """
  everywhere = replicated(mesh)
  shapes = jax.eval_shape(initial_state)
  layout = over_classes(shapes, system.class_params, mesh)
  state = _restore(checkpoints, abstract(shapes, layout))
  fresh = state is None
  if fresh:
    state = jax.jit(initial_state, out_shardings=layout)()
  start, saved = int(state.step), checkpoints.latest_step()
  if start >= schedule.total_steps:
    return state
  classes = jax.device_put(classes, everywhere)
  step_fn = jax.jit(
    make_train_step(system, optimizer, schedule.tolerance),
    donate_argnums=0,
    out_shardings=(layout, everywhere),
  )
  batches = batches_from(start)
  metrics_log = log(start)
  in_flight: deque = deque()

  with step_bar(schedule.total_steps, "training", start) as bar:
    batch = next(batches)
    if fresh:
      warm = jax.jit(warm_start, static_argnums=(0, 1), out_shardings=layout)
      state = warm(system, optimizer, state, batch, classes)
    step_fn = _compiled(step_fn, state, batch, classes, bar)

    def settle(last: bool = False) -> bool:
      """Waits for the oldest step in flight; whether it had converged."""
      step, metrics = in_flight.popleft()
      metrics = {k: v.item() for k, v in jax.device_get(metrics).items()}
      converged = metrics.pop("converged", False)
      for name in ("loss",) if converged else ("loss", "update_norm"):
        if not math.isfinite(metrics[name]):
          raise ZsljaxError(
            f"{name} is {metrics[name]} at step {step}, expected a finite number: "
            "lower config.optimizer.learning_rate or look at the features"
          )
      if step % schedule.log_every == 0 or last or converged:
        metrics_log.write(step, metrics)
      bar.set_postfix(loss=f"{metrics['loss']:.6g}", refresh=False)
      bar.update(0 if converged else 1)
      return converged

    step = start
    while True:
      state, metrics = step_fn(state, batch, classes)
      in_flight.append((step, metrics))
      if schedule.tolerance:
        if settle():
          bar.total = step
          break
      elif len(in_flight) >= _IN_FLIGHT:
        settle()
      step += 1
      if step == schedule.total_steps:
        break
      if step % schedule.save_every == 0:
        while in_flight:  # The log must reach as far as the checkpoint.
          settle()
        checkpoints.save(step, state.params, without_params(state))
        saved = step
      batch = next(batches)
    while in_flight:
      settle(last=len(in_flight) == 1)
  if saved != step:
    checkpoints.save(step, state.params, without_params(state))
  checkpoints.wait()
  metrics_log.close()
  return state


def _restore(checkpoints, shapes: TrainState) -> TrainState | None:
  step = checkpoints.latest_step()
  if step is None:
    return None
  params, rest = checkpoints.restore(shapes.params, without_params(shapes), step)
  return TrainState(params=params, **rest)


def _compiled(step_fn, state, batch, classes, bar):
  bar.set_postfix_str("compiling")
  start = time.perf_counter()
  compiled = step_fn.lower(state, batch, classes).compile()
  bar.set_postfix_str(f"compiled in {time.perf_counter() - start:.1f} s")
  return compiled
