"""The training loop: restore or initialize, step, log, evaluate, checkpoint."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import tqdm

from zsljax.classes import ClassSpace
from zsljax.devices.mesh import over_classes, replicated
from zsljax.devices.processes import Alarm, StopSignals, is_writer
from zsljax.errors import Stopped, ZsljaxError
from zsljax.io.progress import step_bar
from zsljax.training.checkpoints import Checkpoints, abstract
from zsljax.training.inputs import DeviceInputs, HostInputs
from zsljax.training.state import TrainState, warm_start, without_params
from zsljax.training.step import make_train_step

if TYPE_CHECKING:
  from zsljax.reporting.metrics_log import MetricsLog

# Steps that may wait on the devices beside those of the latest call. More gains
# nothing, and queued collectives on CPU devices time out.
_BEHIND = 7

State = TypeVar("State")


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Steps at which a run logs, saves, is evaluated and ends.

  Attributes:
    total_steps: the last step.
    log_every: steps between lines of metrics.
    save_every: steps between checkpoints; the last step is always saved.
    save_seconds: the most seconds between checkpoints, about; 0 is no limit.
    tolerance: ends the run early, see ``make_train_step``; 0 never does.
    watch_every: steps between evaluations, see ``PeriodicEval``; the state after
      ``total_steps`` is evaluated too.
  """

  total_steps: int
  log_every: int
  save_every: int
  tolerance: float = 0.0
  watch_every: int = 0
  save_seconds: float = 0.0

  def stop(self, step: int) -> int:
    """The first step after ``step`` that is saved or evaluated."""
    periods = [self.save_every, self.watch_every or self.total_steps]
    return min(self.total_steps, *(step + n - step % n for n in periods))

  def saved(self, step: int) -> bool:
    """True if the state after ``step`` steps is saved."""
    return step % self.save_every == 0 or step == self.total_steps

  def logged(self, step: int) -> bool:
    """True if the metrics of a step, counted from 0, are logged."""
    return step % self.log_every == 0 or step + 1 == self.total_steps

  def watched(self, step: int) -> bool:
    """True if the state after ``step`` steps is evaluated."""
    last = step == self.total_steps
    return self.watch_every > 0 and (last or step % self.watch_every == 0)


@dataclasses.dataclass(frozen=True)
class PeriodicEval:
  """An evaluation while a run trains, in the same call as the steps before it.

  Attributes:
    images: arrays on the devices.
    outputs: a function of the parameters and ``images``, traced.
    metrics: a function of the outputs, on the host.
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
  shown: bool = True,
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
    log: opens the metrics log, given the step at which the run starts; gives None on
      processes that write none.
    mesh: the devices.
    watch: an evaluation, at the steps that the schedule names.
    shown: whether a bar shows the progress.

  Returns:
    The final state, saved as the latest checkpoint.

  Raises:
    ZsljaxError: the loss is not finite, or a checkpoint cannot be written or
      read.
    Stopped: a process received SIGTERM, or the only one Ctrl-C; the state was saved.
  """
  # Restore, or initialize.
  everywhere = replicated(mesh)
  shapes = jax.eval_shape(initial_state)
  layout = over_classes(shapes, system.class_params, mesh)
  saved = checkpoints.latest_step()
  if saved is None:
    state = jax.jit(initial_state, out_shardings=layout)()
  else:
    target = abstract(shapes, layout)
    params, rest = checkpoints.restore(target.params, without_params(target), saved)
    state = TrainState(params=params, **rest)
  start = int(state.step)
  if start >= schedule.total_steps:
    return state
  classes = jax.device_put(classes, everywhere)
  pieces = inputs.pieces(start, schedule.stop)
  if saved is None:
    first, count = next(pieces)
    pieces = itertools.chain([(first, count)], pieces)
    warm = jax.jit(
      lambda state, piece, classes: warm_start(
        system, optimizer, state, inputs.first(piece), classes
      ),
      out_shardings=layout,
    )
    state = warm(state, first, classes)

  # Step, and evaluate where the schedule says so, in one compiled call.
  signals, alarm = StopSignals(), Alarm(schedule.save_seconds)
  bar = step_bar(schedule.total_steps, "training", start, shown=shown and is_writer())
  step = make_train_step(system, optimizer, schedule.tolerance, mesh)
  steps = inputs.steps(step)

  def steps_and_outputs(state, piece, classes, images):
    state, metrics = steps(state, piece, classes)
    if images is None:
      return state, (metrics, None)
    assert watch is not None
    state = jax.lax.optimization_barrier(state)  # Steps have the bits of others.
    return state, (metrics, watch.outputs(state.params, images))

  traced = jax.jit(
    steps_and_outputs, donate_argnums=0, out_shardings=(layout, everywhere)
  )
  compiled: dict[tuple[int, bool], Callable] = {}

  def call(state, piece, step, count):
    watched = watch is not None and schedule.watched(step + count)
    arguments = state, piece, classes, watch.images if watched else None
    if (count, watched) not in compiled:
      bar.set_postfix_str("compiling")
      compiled[count, watched] = traced.lower(*arguments).compile()
      bar.set_postfix_str("")
    return compiled[count, watched](*arguments)

  # Log, and checkpoint where nothing is in flight: the log must reach as far.
  def pauses(step):
    nonlocal stopping, due
    stopping, due = signals.told(), alarm.rings() or schedule.saved(step)
    return stopping or due or schedule.tolerance > 0

  stopping = due = False
  report = _StepMetrics(schedule, log(start), bar, watch)
  with signals, bar:
    states = advance(call, state, pieces, start, pauses, report)
    for step, state in states:
      ended = report.converged or step == schedule.total_steps
      if (ended or stopping or due) and step != saved:
        checkpoints.save(step, state.params, without_params(state))
        saved = step
      if ended or stopping:
        break
    checkpoints.wait()  # A second SIGTERM must not end this.
  if report.log:
    report.log.close()
  if not ended:
    raise Stopped(
      f"stopped by {signals.received.name} at step {step} of {schedule.total_steps}, "
      "which is saved: start the same command again and the run continues",
      signals.received,
    )
  return state


def advance(
  call: Callable[[State, Any, int, int], tuple[State, Any]],
  state: State,
  pieces: Iterable[tuple[Any, int]],
  step: int,
  pauses: Callable[[int], bool],
  settle: Callable[[int, Any], int | None],
) -> Iterator[tuple[int, State]]:
  """Steps through ``pieces``; a bounded number of steps waits on the devices.

  Args:
    call: the next state and some results, from a state, a piece, the number of steps
      before it and of its steps.
    state: to begin with.
    pieces: inputs of calls, each with its number of steps.
    step: number of steps before ``state``.
    pauses: asked after each call, with the number of steps done: True to give that
      state, with all results up to it settled.
    settle: takes the first step and the results of each call, in order; gives the
      number of steps after which training has converged, or None.

  Yields:
    At each pause, and when training has converged, the number of steps done and the
    state after them, which is gone when the next is asked for.
  """
  in_flight: deque = deque()
  for piece, count in pieces:
    state, results = call(state, piece, step, count)
    in_flight.append((step, results))
    paused = pauses(step + count)
    last = step if paused else step - _BEHIND
    step += count
    while in_flight and in_flight[0][0] <= last:
      converged = settle(*in_flight.popleft())
      if converged is not None:
        yield converged, state
        return
    if paused:
      yield step, state


class _StepMetrics:
  """Checks the metrics of steps, writes them to the log and shows them.

  Attributes:
    log: the metrics log, or None.
    converged: True after a step that had converged.
  """

  def __init__(
    self,
    schedule: Schedule,
    log: MetricsLog | None,
    bar: tqdm.tqdm,
    watch: PeriodicEval | None,
  ):
    self.log, self.converged = log, False
    self._schedule, self._bar, self._watch = schedule, bar, watch
    self._shown: dict[str, str] = {}

  def __call__(self, first: int, results: tuple[Any, Any]) -> int | None:
    """Settles a call whose first step is ``first``; see ``advance``."""
    stacked, outputs = results
    stacked = jax.device_get(stacked)
    count = len(stacked["loss"])
    for i in range(count):
      metrics = {name: values[i].item() for name, values in stacked.items()}
      self.converged = metrics.pop("converged", False)
      self._check(first + i, metrics)
      evaluated = {}
      if outputs is not None and i == count - 1:
        assert self._watch is not None
        evaluated = self._watch.metrics(jax.device_get(outputs))
        self._shown[self._watch.shown] = f"{evaluated[self._watch.shown]:.2f}"
      if self.log and (evaluated or self.converged or self._schedule.logged(first + i)):
        self.log.write(first + i, metrics | evaluated)
      if self.converged:
        self._bar.update(i)
        self._bar.total = first + i
        return first + i
    self._shown["loss"] = f"{stacked['loss'][-1].item():.6g}"
    self._bar.set_postfix(self._shown, refresh=False)
    self._bar.update(count)
    return None

  def _check(self, step: int, metrics: Mapping[str, float]) -> None:
    """Raises unless the loss, and an update that was made, are finite."""
    for name in ("loss",) if self.converged else ("loss", "update_norm"):
      if not math.isfinite(metrics[name]):
        raise ZsljaxError(
          f"{name} is {metrics[name]} at step {step}, expected a finite number: "
          "lower config.optimizer.learning_rate or look at the features"
        )
