"""Several runs as one program: ``vmap`` over folds, seeds and numbers of the config."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from zsljax import training
from zsljax.classes import ClassSpace
from zsljax.data import sampling
from zsljax.data.folds import Fold
from zsljax.devices.mesh import over_batch, replicated
from zsljax.errors import require
from zsljax.models import Batch, Staged, System, moments, to_fit
from zsljax.models.stage import STAGE, apart, together
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
    fold: trains on this part of the training images; on all of them when None.
  """

  seed: int
  numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
  fold: Fold | None = None


@dataclasses.dataclass(frozen=True)
class _Inputs:
  """Arrays of R runs, arguments of their compiled functions."""

  numbers: dict[str, jax.Array]  # [R] each.
  which: jax.Array  # [R]: each run's place among the sources of rows.
  classes: ClassSpace  # Its ``seen`` is [C], or [R, C].
  num_examples: jax.Array  # Scalar, or [R].
  stage: dict[str, jax.Array] | None  # Fitted to what a fold trains on; [R, ...] each.
  mask: jax.Array | None  # Rows of the one batch of everything, [N].
  one_fold: bool = dataclasses.field(metadata={"static": True})


jax.tree_util.register_dataclass(_Inputs)


def one_of(state: TrainState, run: int) -> TrainState:
  """Takes a run's state from those of runs of one fold."""
  stage, trained = apart(state.params)
  own = dataclasses.replace(state, params=trained)
  own = jax.tree.map(lambda x: x[run], own)
  return dataclasses.replace(own, params=together(stage, own.params))


class VmappedRuns:
  """Runs of one experiment, R at a time trained in one compiled step.

  Each has the initial parameters, the batches and the randomness that ``train.py`` has
  with its seed and numbers; its numbers agree with that up to the rounding of sums. The
  training images lie on the devices, whole.

  Runs on minibatches may differ in their folds. Runs that are given everything at once
  share one fold, so that nothing which only depends on the images is done twice.

  Attributes:
    run: the experiment, on ``trainval``.
    table: its images on the devices.
    labels: their class ids, on the host.
  """

  def __init__(self, run: Experiment, total_steps: int):
    """Reads the training images.

    Args:
      run: an experiment; settings go before its config.
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
    self._total_steps = total_steps
    self._full_batch = not run.config["batch_size"]
    table = run.training_data().table()
    self.labels = table["labels"]
    rows = len(self.labels) if self._full_batch and run.mesh.shape["data"] > 1 else None
    placed = training.DeviceTable.placed(table, run.mesh, rows)
    self.table = placed.with_lengths()
    tolerance = 0.0
    if self._full_batch:
      tolerance = run.config["optimizer"]["tolerance"]
    self._pauses_always = tolerance > 0
    self._fit = jax.jit(self._fitted)
    self._start = jax.jit(self._initial)
    self._advance = jax.jit(functools.partial(self._step, tolerance), donate_argnums=0)
    self._outputs: dict[tuple[str, bool, bool], Callable] = {}

  def classes(self, fold: Fold | None) -> ClassSpace:
    """The class space of runs on a fold."""
    if fold is None:
      return self.run.dataset.classes
    return self.run.dataset.classes.validation_fold(fold.held_out)

  def images(self, fold: Fold | None, rows: np.ndarray, padded: int) -> EvaluationSet:
    """Some of the training images, scored among the classes of a fold.

    Args:
      fold: of the runs that score them.
      rows: of the images.
      padded: their number with padding.
    """
    images = training.DeviceImages.of_rows(
      self.table, rows, padded, self.run.scored_at_once, self.run.mesh
    )
    return EvaluationSet.of(self.run, self.classes(fold), images)

  def states(
    self,
    settings: Sequence[RunSettings],
    stops: Sequence[int],
    progress: Callable[[int], Any] = lambda steps: None,
  ) -> Iterator[tuple[int, TrainState, np.ndarray]]:
    """Trains, and gives the states of all runs at each of ``stops``.

    Args:
      settings: of R runs.
      stops: numbers of steps, ascending.
      progress: is told of steps as they are done, or no longer needed.

    Yields:
      For each stop its number, the states, stacked ``[R, ...]``, and False for runs
      whose loss or update was not finite, ``[R]`` bool. The states are gone when the
      next are asked for.
    """
    inputs, rows = self._inputs(settings)
    seeds = np.array([one.seed for one in settings])
    finite = np.ones(len(settings), bool)
    first = next(rows)
    state = self._start(seeds, first, inputs, self.table)
    stops, told, ended = list(stops), 0, False

    def call(state, rows, before, count):
      nonlocal told
      told = before + count
      progress(count)
      return self._advance(state, rows, inputs, self.table)

    def settle(before, metrics):
      nonlocal ended
      metrics = jax.device_get(metrics)
      converged = metrics.get("converged", np.zeros(len(finite), bool))
      updated = np.isfinite(metrics["update_norm"]) | converged
      finite[:] &= np.isfinite(metrics["loss"]) & updated
      ended = bool((converged | ~finite).all())
      return before if ended else None

    def pauses(done):
      return self._pauses_always or done in stops

    pieces = ((rows, 1) for rows in itertools.chain([first], rows))
    states = training.advance(call, state, pieces, 0, pauses, settle)
    for done, state in states:
      while stops and (ended or done == stops[0]):
        stop = stops.pop(0)
        progress(max(0, stop - told))
        told = max(told, stop)
        yield stop, state, finite.copy()
      if not stops:
        return

  def outputs(
    self,
    settings: Sequence[RunSettings],
    images: Sequence[EvaluationSet],
    state: TrainState,
  ) -> list[Any]:
    """The evaluator's outputs of each run, on the host.

    Args:
      settings: of the R runs.
      images: one set for each run, of equal shape, or one for all; of this table.
      state: one of ``states``.
    """
    shared = all(one is images[0] for one in images)
    protocol = images[0].evaluator.protocol
    one_fold = len({one.fold for one in settings}) == 1
    key = protocol, shared, one_fold
    if key not in self._outputs:

      def over_runs(params, numbers, seen, places, placed, classes):
        def one(params, numbers, seen, places):
          rows, mask = places
          own = dataclasses.replace(placed, rows=rows, mask=mask)
          among = dataclasses.replace(classes, seen=seen)
          return images[0].outputs(self._system(numbers), params, own, among)

        axes = None if shared else 0
        in_axes = self._axes(one_fold).params, 0, axes, axes
        return jax.vmap(one, in_axes=in_axes)(params, numbers, seen, places)

      self._outputs[key] = jax.jit(over_runs)
    placed, classes = images[0].inputs
    seen, places = classes.seen, (placed.rows, placed.mask)
    if not shared:
      seen = jnp.stack([one.classes.seen for one in images])
      places = jax.tree.map(
        lambda *x: jnp.stack(x), *((i.images.rows, i.images.mask) for i in images)
      )
    outputs = jax.device_get(
      self._outputs[key](
        state.params, self._numbers(settings), seen, places, placed, classes
      )
    )
    return [jax.tree.map(lambda x, r=r: x[r], outputs) for r in range(len(settings))]

  def _numbers(self, settings: Sequence[RunSettings]) -> dict[str, jax.Array]:
    return {
      field: jnp.array([one.numbers[field] for one in settings], jnp.float32)
      for field in settings[0].numbers
    }

  def _inputs(
    self, settings: Sequence[RunSettings]
  ) -> tuple[_Inputs, Iterator[jax.Array | None]]:
    """Arrays of the runs, and the rows of the batches of their sources."""
    numbers = self._numbers(settings)
    sources = [(one.seed, one.fold) for one in settings]
    distinct = list(dict.fromkeys(sources))
    folds = list(dict.fromkeys(fold for _, fold in sources))
    which = jnp.array([distinct.index(source) for source in sources], jnp.int32)
    everything = np.arange(len(self.labels))
    trained_on = {fold: everything if fold is None else fold.train for fold in folds}
    classes = self.classes(folds[0]).without_names()
    size = len(trained_on[folds[0]])
    if len(folds) > 1:
      require(not self._full_batch, "folds of full-batch runs", len(folds), "1")
      seen = np.stack([self.classes(fold).seen for _, fold in sources])
      classes = dataclasses.replace(classes, seen=seen)
      size = [len(trained_on[fold]) for _, fold in sources]
    classes = jax.device_put(classes, replicated(self.run.mesh))
    mask = None
    if self._full_batch:
      mask = self._mask(trained_on[folds[0]], over_batch(self.run.mesh))
    else:
      for rows in trained_on.values():
        self._check_batch(rows)
    stage = None
    if to_fit(self.run.system):
      features, everywhere = self.table.columns["features"], replicated(self.run.mesh)
      found = {
        fold: self._fit(features, self._mask(rows, everywhere))
        for fold, rows in trained_on.items()
      }
      stage = found[folds[0]]
      if len(folds) > 1:
        runs = [found[fold] for _, fold in sources]
        stage = jax.tree.map(lambda *x: jnp.stack(x), *runs)
    inputs = _Inputs(
      numbers, which, classes, jnp.asarray(size), stage, mask, len(folds) == 1
    )
    return inputs, self._rows(distinct)

  def _mask(self, trained_on: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """True for the rows of the table that are trained on."""
    mask = np.zeros(len(self.table.columns["labels"]), bool)
    mask[trained_on] = True
    return jax.device_put(mask, sharding)

  def _fitted(self, features: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """The stage's numbers for some training images."""
    stage = to_fit(self.run.system)
    assert stage is not None
    return stage.fitted(*moments(features, mask))

  def _check_batch(self, trained_on: np.ndarray) -> None:
    """Raises unless the rows of a fold have the images, or classes, of a batch."""
    size, drawn = self.run.config["batch_size"], self.run.config["data"]["sampling"]
    if drawn == "class_balanced":
      classes = len(np.unique(self.labels[trained_on]))
      rows = math.prod(sampling.balanced(size, classes))
      training.check_divides(rows, self.run.mesh, "images of a batch on a fold")
    else:
      most = len(trained_on)
      expected = f"at most {most}, the training images of a fold"
      require(size <= most, "config.batch_size", size, expected)

  def _rows(
    self, sources: Sequence[tuple[int, Fold | None]]
  ) -> Iterator[jax.Array | None]:
    """Rows ``[sources, B]`` of the batches of each step; None for all rows."""
    if self._full_batch:
      yield from itertools.repeat(None)
    drawn, size = self.run.config["data"]["sampling"], self.run.config["batch_size"]
    batches = [
      self.run.with_seed(seed).training_data().rows()
      if fold is None
      else fold.batches(self.labels, drawn, size, self.run.with_seed(seed).data_seed)
      for seed, fold in sources
    ]
    for rows in zip(*batches, strict=True):
      yield jax.device_put(
        np.stack(rows).astype(np.int32),
        NamedSharding(self.run.mesh, PartitionSpec(None, "data")),
      )

  def _system(self, numbers) -> System:
    prefix = "system."
    return self.run.system.with_fields(
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

  def _over_runs(self, function, runs, rows, inputs: _Inputs, table, axes, out_axes):
    """Maps ``function(of_run, numbers, batch, classes)`` over R runs."""

    def one(of_run, numbers, which, seen, num_examples):
      if rows is None:
        batch = Batch(**table.columns, mask=inputs.mask, num_examples=num_examples)
      else:
        batch = training.rows_of_table(table.columns, rows[which], num_examples)
      classes = dataclasses.replace(inputs.classes, seen=seen)
      return function(of_run, numbers, batch, classes)

    seen = inputs.classes.seen
    axis = 0 if seen.ndim == 2 else None
    in_axes = axes, 0, 0, axis, axis
    return jax.vmap(one, in_axes=in_axes, out_axes=out_axes)(
      runs, inputs.numbers, inputs.which, seen, inputs.num_examples
    )

  def _initial(self, seeds, rows, inputs, table) -> TrainState:
    def one(start, numbers, batch, classes):
      seed, stage = start
      system, optimizer = self._system(numbers), self._optimizer(numbers)
      spec = dataclasses.replace(self.run.spec, stage=stage)
      state = training.init_state(system, optimizer, spec, seed)
      return training.warm_start(system, optimizer, state, batch, classes)

    axes = 0, None if inputs.one_fold else 0
    out = self._axes(inputs.one_fold)
    start = seeds, inputs.stage
    return self._over_runs(one, start, rows, inputs, table, axes, out)

  def _step(self, tolerance, state, rows, inputs, table):
    def one(state, numbers, batch, classes):
      step = training.make_train_step(
        self._system(numbers), self._optimizer(numbers), tolerance, self.run.mesh
      )
      return step(state, batch, classes)

    axes = self._axes(inputs.one_fold)
    return self._over_runs(one, state, rows, inputs, table, axes, (axes, 0))

  def _axes(self, one_fold: bool) -> TrainState:
    """Axes of the runs in states: a stage is the same for all runs of a fold."""
    params: Any = 0
    if isinstance(self.run.system, Staged) and one_fold:
      params = {STAGE: None, "system": 0}
    return TrainState(step=0, params=params, opt_state=0, rng=0)
