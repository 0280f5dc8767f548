"""The training loop: restore or initialise, step, log, checkpoint."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
import dataclasses
import math
import time
from typing import Any

import jax

from zsljax.classes import ClassSpace
from zsljax.devices.mesh import over_classes, replicated
from zsljax.devices.processes import Sigterm, is_writer
from zsljax.errors import Stopped, ZsljaxError
from zsljax.io.progress import step_bar
from zsljax.reporting.metrics_log import MetricsLog
from zsljax.training.checkpoints import Checkpoints, abstract
from zsljax.training.inputs import DeviceInputs, HostInputs
from zsljax.training.state import TrainState, warm_start, without_params
from zsljax.training.step import make_train_step

# Steps that may wait on the devices beside those of the latest call. More gains
# nothing, and queued collectives on CPU devices time out.
_BEHIND = 7


@dataclasses.dataclass(frozen=True)
class Schedule:
  """When a run ends, logs and saves.

  Attributes:
    total_steps: the last step.
    log_every: steps between lines of metrics.
    save_every: steps between checkpoints; the last step is always saved.
    tolerance: ends the run early, see ``make_train_step``; 0 never does.
    watch_every: steps between evaluations, see ``PeriodicEval``; the state after
      ``total_steps`` is evaluated too.
  """

  total_steps: int
  log_every: int
  save_every: int
  tolerance: float = 0.0
  watch_every: int = 0

  def stop(self, step: int) -> int:
    """The first step after ``step`` that is saved or evaluated."""
    periods = [self.save_every, self.watch_every or self.total_steps]
    return min(self.total_steps, *(step + n - step % n for n in periods))

  def saved(self, step: int) -> bool:
    """Whether the state after ``step`` steps is saved."""
    return step % self.save_every == 0 or step == self.total_steps

  def logged(self, step: int) -> bool:
    """Whether the metrics of a step, counted from 0, are logged."""
    return step % self.log_every == 0 or step + 1 == self.total_steps

  def watched(self, step: int) -> bool:
    """Whether the state after ``step`` steps is evaluated."""
    last = step == self.total_steps
    return self.watch_every > 0 and (last or step % self.watch_every == 0)


@dataclasses.dataclass(frozen=True)
class PeriodicEval:
  """What is evaluated while a run trains, in the same call as the steps before it.

  Attributes:
    images: arrays on the devices.
    outputs: what is computed of the parameters and ``images``; traced.
    metrics: of the outputs, on the host.
    shown: the metric that stands beside the progress.
  """

  images: Any
  outputs: Callable[[Any, Any], Any]
  metrics: Callable[[Any], Mapping[str, float]]
  shown: str


def train(
  system,
  optimizer,
  initial_state: Callable[[], TrainState],
  inputs: HostInputs | DeviceInputs,
  classes: ClassSpace,
  schedule: Schedule,
  checkpoints: Checkpoints,
  log: Callable[[int], MetricsLog | None],
  mesh: jax.sharding.Mesh,
  watch: PeriodicEval | None = None,
) -> TrainState:
  """Trains to the end of the schedule, from the latest checkpoint if any.

  Steps, batches and randomness are functions of the seed and the step number,
  so a run that was killed ends bit-identical to one that was not.

  Args:
    system: a ``System``.
    optimizer: from ``make_optimizer``.
    initial_state: makes the state before the first step.
    inputs: the batches.
    classes: the training class space.
    schedule: when to end, log and save.
    checkpoints: where to save and resume.
    log: opens the metrics log, given the step at which the run starts; None on
      processes that write none.
    mesh: the devices.
    watch: what to evaluate, where the schedule says when.

  Returns:
    The final state, saved as the latest checkpoint.

  Raises:
    ZsljaxError: the loss is not finite, or a checkpoint cannot be written or
      read.
    Stopped: a process received SIGTERM; the state was saved.
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
  over_piece = inputs.steps(make_train_step(system, optimizer, schedule.tolerance))

  def call(state, piece, classes, told, images):
    """The steps of a piece, an evaluation, and whether any process was told to end."""
    state, metrics = over_piece(state, piece, classes)
    outputs = None
    if images is not None:
      state = jax.lax.optimization_barrier(state)  # Steps have the bits of others.
      outputs = watch.outputs(state.params, images)
    return state, metrics, outputs, None if told is None else told.any()

  steps = jax.jit(
    call, donate_argnums=0, out_shardings=(layout, everywhere, everywhere, everywhere)
  )
  compiled: dict[tuple[int, bool], Callable] = {}
  pieces = inputs.pieces(start, schedule.stop)
  metrics_log = log(start)
  in_flight: deque = deque()

  with (
    Sigterm() as sigterm,
    step_bar(schedule.total_steps, "training", start, shown=is_writer()) as bar,
  ):
    piece, count = next(pieces)
    if fresh:
      warm = jax.jit(
        lambda state, piece, classes: warm_start(
          system, optimizer, state, inputs.first(piece), classes
        ),
        out_shardings=layout,
      )
      state = warm(state, piece, classes)

    def settle(last: int) -> int | None:
      """Waits for calls that began by step ``last``; the step that had converged."""
      nonlocal stopping
      while in_flight and in_flight[0][0] <= last:
        first, metrics, outputs, told = in_flight.popleft()
        metrics = jax.device_get(metrics)
        stopping = stopping or sigterm.agreed(told)
        count = len(metrics["loss"])
        for i in range(count):
          of_step = {name: values[i].item() for name, values in metrics.items()}
          converged = _converged(first + i, of_step)
          if outputs is not None and i == count - 1:
            evaluated = watch.metrics(jax.device_get(outputs))
            shown[watch.shown] = f"{evaluated[watch.shown]:.2f}"
            of_step |= evaluated
          if metrics_log and (
            schedule.logged(first + i) or converged or watch and watch.shown in of_step
          ):
            metrics_log.write(first + i, of_step)
          if converged:
            bar.update(i)
            return first + i
        shown["loss"] = f"{of_step['loss']:.6g}"
        bar.set_postfix(shown, refresh=False)
        bar.update(count)
      return None

    shown: dict[str, str] = {}
    step, stopping = start, False
    while not stopping:
      watched = schedule.watched(step + count)
      inputs_of_call = (
        *(state, piece, classes),
        sigterm.told(mesh),
        watch.images if watched else None,
      )
      if (count, watched) not in compiled:
        compiled[count, watched] = _compiled(steps, inputs_of_call, bar)
      state, metrics, outputs, told = compiled[count, watched](*inputs_of_call)
      in_flight.append((step, metrics, outputs, told))
      # The log must reach as far as a checkpoint.
      wait = schedule.tolerance or schedule.saved(step + count)
      converged = settle(step - (0 if wait else _BEHIND))
      step += count
      stopping = stopping or told is None and sigterm.agreed(told)
      if converged is not None:
        bar.total = step = converged
        break
      if step == schedule.total_steps:
        break
      if schedule.saved(step):
        checkpoints.save(step, state.params, without_params(state))
        saved = step
      if not stopping:
        piece, count = next(pieces)
    settle(step)
    if saved != step:
      checkpoints.save(step, state.params, without_params(state))
    checkpoints.wait()  # A second SIGTERM must not end this.
  if metrics_log:
    metrics_log.close()
  if stopping and converged is None and step < schedule.total_steps:
    raise Stopped(
      f"stopped by SIGTERM at step {step} of {schedule.total_steps}, which is saved: "
      "start the same command again and the run continues"
    )
  return state


def _converged(step: int, metrics: dict[str, float]) -> bool:
  """Takes out of one step's metrics whether it converged; the rest must be finite."""
  converged = metrics.pop("converged", False)
  for name in ("loss",) if converged else ("loss", "update_norm"):
    if not math.isfinite(metrics[name]):
      raise ZsljaxError(
        f"{name} is {metrics[name]} at step {step}, expected a finite number: "
        "lower config.optimizer.learning_rate or look at the features"
      )
  return converged


def _restore(checkpoints, shapes: TrainState) -> TrainState | None:
  step = checkpoints.latest_step()
  if step is None:
    return None
  params, rest = checkpoints.restore(shapes.params, without_params(shapes), step)
  return TrainState(params=params, **rest)


def _compiled(steps, inputs, bar):
  bar.set_postfix_str("compiling")
  start = time.perf_counter()
  compiled = steps.lower(*inputs).compile()
  bar.set_postfix_str(f"compiled in {time.perf_counter() - start:.1f} s")
  return compiled
