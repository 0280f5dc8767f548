"""Several runs as one program: ``vmap`` over seeds and over numbers of the config."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
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
from zsljax.training import (
  TrainState,
)

# Steps that may wait on the devices, as in `training.train`.
_IN_FLIGHT = 8
_OPTIMIZER_NUMBERS = ("learning_rate", "weight_decay")


def vmappable_fields(system: System) -> set[str]:
  """Fields of the config in which runs that are trained together may differ."""
  return {
    *(f"system.{field}" for field in system.vmappable),
    *(f"optimizer.{field}" for field in _OPTIMIZER_NUMBERS),
  }


@dataclasses.dataclass(frozen=True)
class Variant:
  """In what one run differs from those that it is trained with.

  Attributes:
    seed: takes the place of ``config.seed``.
    numbers: values of some of ``vmappable_fields``, the same ones in every variant.
  """

  seed: int
  numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)


class VmappedRuns:
  """R runs of one experiment, trained in one compiled step.

  Each has the initial parameters, the batches and the randomness that ``train.py`` has
  with its seed and numbers; what they compute agrees with it up to the rounding of
  sums. The training images lie on the devices, whole.

  Attributes:
    run: the experiment.
    variants: R.
    finite: which runs' losses and updates have been finite so far, ``[R]`` bool.
  """

  def __init__(
    self,
    run: Experiment,
    variants: Sequence[Variant],
    total_steps: int,
    transform: Callable[[Callable], Callable] = lambda function: function,
  ):
    """Reads the training images.

    Args:
      run: an experiment; the values of its config that a variant has are not looked at.
      variants: R of them.
      total_steps: that the schedule of the learning rate is made for.
      transform: what the initial state, the step and outputs go through before they
        are compiled.

    Raises:
      ZsljaxError: the images do not fit into memory; parameters or hosts are split.
    """
    require(
      run.mesh.shape["model"] == 1,
      "config.mesh.model",
      run.mesh.shape["model"],
      "1 where several runs are trained together",
    )
    require(
      jax.process_count() == 1,
      "hosts",
      jax.process_count(),
      "1 where several runs are trained together",
    )
    self.run, self.variants = run, tuple(variants)
    self.finite = np.ones(len(self.variants), bool)
    self._total_steps, self._transform = total_steps, transform
    self._numbers = {
      field: jnp.array([v.numbers[field] for v in self.variants], jnp.float32)
      for field in self.variants[0].numbers
    }
    seeds = sorted({v.seed for v in self.variants})
    self._which = np.array([seeds.index(v.seed) for v in self.variants], np.int32)
    data = [run.with_seed(seed).training_data() for seed in seeds]
    self._num_examples = data[0].num_examples
    self._order = data
    self._images = self._placed(data[0])
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
      Of each stop its number and the states, stacked ``[R, ...]``; they are gone when
      the next is asked for.
    """
    config = self.run.config
    tolerance = 0.0 if config["batch_size"] else config["optimizer"]["tolerance"]
    rows = self._rows()
    first = next(rows)
    state = jax.jit(self._transform(self._initial))(
      np.array([v.seed for v in self.variants]),
      self._numbers,
      first,
      self._images,
      self._classes,
    )
    step = functools.partial(self._step, tolerance)
    step = jax.jit(self._transform(step), donate_argnums=0)
    in_flight: deque = deque()
    converged = np.zeros(len(self.variants), bool)
    done, batch = 0, first
    for stop in stops:
      while done < stop and not converged.all():
        state, metrics = step(state, self._numbers, batch, self._images, self._classes)
        in_flight.append(metrics)
        done += 1
        batch = next(rows)
        progress(1)
        if len(in_flight) >= (1 if tolerance else _IN_FLIGHT):
          converged = self._settle(in_flight.popleft())
      while in_flight:
        converged = self._settle(in_flight.popleft())
      progress(stop - done)
      done = stop
      yield stop, state

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

      self._outputs[protocol] = jax.jit(self._transform(over_runs))
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
    return training.place_table(data.table(), self.run.mesh)

  def _rows(self) -> Iterator[jax.Array | None]:
    """Of each step the rows of every run's batch ``[seeds, B]``; None for all rows."""
    if not self.run.config["batch_size"]:
      while True:
        yield None
    over_batch = NamedSharding(self.run.mesh, PartitionSpec(None, "data"))
    for rows in zip(*(data.rows() for data in self._order), strict=True):
      yield jax.device_put(np.stack(rows).astype(np.int32), over_batch)

  def _batch(self, rows, which, images) -> Batch:
    if rows is None:
      return images
    return training.rows_of_table(images, rows[which], self._num_examples)

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

  def _initial(self, seeds, numbers, rows, images, classes) -> TrainState:
    def one(seed, numbers, which):
      system, optimizer = self._system(numbers), self._optimizer(numbers)
      state = training.init_state(system, optimizer, self.run.spec, seed)
      batch = self._batch(rows, which, images)
      return training.warm_start(system, optimizer, state, batch, classes)

    return jax.vmap(one)(seeds, numbers, self._which)

  def _step(self, tolerance, state, numbers, rows, images, classes):
    def one(state, numbers, which):
      step = training.make_train_step(
        self._system(numbers), self._optimizer(numbers), tolerance
      )
      return step(state, self._batch(rows, which, images), classes)

    return jax.vmap(one)(state, numbers, self._which)

  def _settle(self, metrics) -> np.ndarray:
    """Waits for a step's metrics; which runs have converged."""
    metrics = jax.device_get(metrics)
    nothing = np.zeros(len(self.variants), bool)
    converged = metrics.get("converged", nothing)
    updated = np.isfinite(metrics["update_norm"]) | converged
    self.finite &= np.isfinite(metrics["loss"]) & updated
    return converged | ~self.finite
