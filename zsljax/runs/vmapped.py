"""Several runs as one program: ``vmap`` over seeds and over numbers of the config."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from zsljax import training
from zsljax.devices.mesh import replicated
from zsljax.errors import require
from zsljax.models import Batch, System, with_fields
from zsljax.runs.evaluation_set import EvaluationSet
from zsljax.runs.experiment import Experiment
from zsljax.training import TrainState

_OPTIMIZER_NUMBERS = ("learning_rate", "weight_decay")


def vmappable_fields(system: System) -> set[str]:
  """Fields of the config in which runs that are trained together may differ."""
  return {
    *(f"system.{field}" for field in system.vmappable),
    *(f"optimizer.{field}" for field in _OPTIMIZER_NUMBERS),
  }


@dataclasses.dataclass(frozen=True)
class RunSettings:
  """Settings of one run, where it differs from those that it is trained with.

  Attributes:
    seed: takes the place of ``config.seed``.
    numbers: values of some of ``vmappable_fields``, the same ones for every run.
  """

  seed: int
  numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)


class VmappedRuns:
  """R runs of one experiment, trained in one compiled step.

  Each has the initial parameters, the batches and the randomness that ``train.py`` has
  with its seed and numbers; its numbers agree with that up to the rounding of sums. The
  training images lie on the devices, whole.

  Attributes:
    run: the experiment.
    finite: False for runs whose loss or update was not finite, ``[R]`` bool.
  """

  def __init__(
    self, run: Experiment, settings: Sequence[RunSettings], total_steps: int
  ):
    """Reads the training images.

    Args:
      run: an experiment; ``settings`` go before its config.
      settings: of R runs.
      total_steps: number of steps in the schedule of the learning rate.

    Raises:
      ZsljaxError: the images do not fit into memory; parameters or hosts are split.
    """
    for field, parts in (
      ("config.mesh.model", run.mesh.shape["model"]),
      ("hosts", jax.process_count()),
    ):
      require(parts == 1, field, parts, "1 where several runs are trained together")
    self.run = run
    self.finite = np.ones(len(settings), bool)
    self._total_steps = total_steps
    self._seeds = np.array([one.seed for one in settings])
    self._numbers = {
      field: jnp.array([one.numbers[field] for one in settings], jnp.float32)
      for field in settings[0].numbers
    }
    seeds, which = np.unique(self._seeds, return_inverse=True)
    self._which = which.astype(np.int32)
    self._data = [run.with_seed(int(seed)).training_data() for seed in seeds]
    self._images = self._placed(self._data[0])
    self._classes = jax.device_put(run.classes, replicated(run.mesh))
    self._outputs: dict[str, Callable] = {}  # By protocol.

  def states(
    self, stops: Sequence[int], progress: Callable[[int], Any] = lambda steps: None
  ) -> Iterator[tuple[int, TrainState]]:
    """Trains, and gives the states of all runs at each of ``stops``.

    Args:
      stops: numbers of steps, ascending.
      progress: is told of steps as they are done, or no longer needed.

    Yields:
      For each stop its number and the states, stacked ``[R, ...]``; they are gone when
      the next is asked for.
    """
    config = self.run.config
    tolerance = 0.0 if config["batch_size"] else config["optimizer"]["tolerance"]
    constant = self._numbers, self._images, self._classes
    rows = self._rows()
    first = next(rows)
    state = jax.jit(self._initial)(self._seeds, first, *constant)
    step = jax.jit(functools.partial(self._step, tolerance), donate_argnums=0)
    stops, told, ended = list(stops), 0, False

    def call(state, rows, before, count):
      nonlocal told
      told = before + count
      progress(count)
      return step(state, rows, *constant)

    def settle(before, metrics):
      nonlocal ended
      ended = self._settle(metrics).all()
      return before if ended else None

    def pauses(done):
      return tolerance > 0 or done in stops

    pieces = ((rows, 1) for rows in itertools.chain([first], rows))
    states = training.advance(call, state, pieces, 0, pauses, settle)
    for done, state in states:
      while stops and (ended or done == stops[0]):
        stop = stops.pop(0)
        progress(max(0, stop - told))
        told = max(told, stop)
        yield stop, state
      if not stops:
        return

  def outputs(self, images: EvaluationSet, state: TrainState) -> list[Any]:
    """The evaluator's outputs of each run, on the host; None of those not finite.

    ``state`` is one of ``states``.
    """
    protocol = images.evaluator.protocol
    if protocol not in self._outputs:

      def over_runs(params, numbers, placed, classes):
        def one(params, numbers):
          return images.outputs(self._system(numbers), params, placed, classes)

        return jax.vmap(one)(params, numbers)

      self._outputs[protocol] = jax.jit(over_runs)
    outputs = jax.device_get(
      self._outputs[protocol](state.params, self._numbers, *images.inputs)
    )
    return [
      jax.tree.map(lambda x, r=r: x[r], outputs) if finite else None
      for r, finite in enumerate(self.finite)
    ]

  def _placed(self, data):
    """The training images: a table for every device, or one batch of everything."""
    if not self.run.config["batch_size"]:
      return training.to_mesh(next(data.batches()), self.run.mesh, data.num_examples)
    return training.DeviceTable.placed(data.table(), self.run.mesh).columns

  def _rows(self) -> Iterator[jax.Array | None]:
    """Rows of every run's batch ``[seeds, B]`` in each step; None for all rows."""
    if not self.run.config["batch_size"]:
      yield from itertools.repeat(None)
    over_batch = NamedSharding(self.run.mesh, PartitionSpec(None, "data"))
    for rows in zip(*(data.rows() for data in self._data), strict=True):
      yield jax.device_put(np.stack(rows).astype(np.int32), over_batch)

  def _batch(self, rows, which, images) -> Batch:
    if rows is None:
      return images
    return training.rows_of_table(images, rows[which], self._data[0].num_examples)

  def _system(self, numbers) -> System:
    prefix = "system."
    return with_fields(
      self.run.system,
      {
        field.removeprefix(prefix): value
        for field, value in numbers.items()
        if field.startswith(prefix)
      },
    )

  def _optimizer(self, numbers):
    config = dict(self.run.config["optimizer"])
    for field in _OPTIMIZER_NUMBERS:
      config[field] = numbers.get(f"optimizer.{field}", config[field])
    return training.make_optimizer(
      config, self.run.config["batch_size"], self._total_steps
    )

  def _initial(self, seeds, rows, numbers, images, classes) -> TrainState:
    def one(seed, numbers, which):
      system, optimizer = self._system(numbers), self._optimizer(numbers)
      state = training.init_state(system, optimizer, self.run.spec, seed)
      batch = self._batch(rows, which, images)
      return training.warm_start(system, optimizer, state, batch, classes)

    return jax.vmap(one)(seeds, numbers, self._which)

  def _step(self, tolerance, state, rows, numbers, images, classes):
    def one(state, numbers, which):
      step = training.make_train_step(
        self._system(numbers), self._optimizer(numbers), tolerance
      )
      return step(state, self._batch(rows, which, images), classes)

    return jax.vmap(one)(state, numbers, self._which)

  def _settle(self, metrics) -> np.ndarray:
    """Waits for a step's metrics; gives True for runs that need no further step."""
    metrics = jax.device_get(metrics)
    converged = metrics.get("converged", np.zeros(len(self.finite), bool))
    updated = np.isfinite(metrics["update_norm"]) | converged
    self.finite &= np.isfinite(metrics["loss"]) & updated
    return converged | ~self.finite
