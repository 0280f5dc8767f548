"""Batches from the host onto the mesh."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zsljax.classes import ClassSpace
from zsljax.devices.mesh import free_memory, over_batch, replicated
from zsljax.errors import in_bytes, require
from zsljax.models import Batch
from zsljax.training.state import TrainState
from zsljax.training.step import Metrics, TrainStep

HostBatch = dict[str, np.ndarray]
Table = dict[str, jax.Array]


def to_mesh(batch: HostBatch, mesh: jax.sharding.Mesh, num_examples: int) -> Batch:
  """One global batch over the ``data`` axis, of which this host has some rows."""
  sharding = over_batch(mesh)

  def place(array: np.ndarray) -> jax.Array:
    array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
    return jax.make_array_from_process_local_data(sharding, array)

  return Batch(**jax.tree.map(place, batch), num_examples=num_examples)


def feed(
  batches: Iterable[HostBatch],
  mesh: jax.sharding.Mesh,
  num_examples: int,
  depth: int = 2,
) -> Iterator[Batch]:
  """Batches on the mesh, ``depth`` of them sent ahead.

  A host batch that comes again (the same object, as in full-batch training) is
  not sent again.
  """
  queue: deque[Batch] = deque()
  last_host, last_placed = None, None
  for batch in batches:
    if batch is not last_host:
      last_host, last_placed = batch, to_mesh(batch, mesh, num_examples)
    queue.append(last_placed)
    if len(queue) > depth:
      yield queue.popleft()
  yield from queue


def place_table(
  table: HostBatch,
  mesh: jax.sharding.Mesh,
  host_rows: int | None = None,
  field: str = "config.data.cache",
  instead: str = "host or none",
) -> Table:
  """The columns of a set of images, placed on the devices.

  Args:
    table: of this host's share of the images.
    mesh: the devices.
    host_rows: rows of the largest host's table; the table is then split over the
      ``data`` axis, padded to as many rows for every device. When None it is whole on
      every device, and there is one host.
    field: named by the error if they do not fit.
    instead: expected by that error.

  Raises:
    ZsljaxError: they are larger than the free memory of a device.
  """
  layout, rows = replicated(mesh), host_rows
  size = sum(column.nbytes for column in table.values())
  if host_rows is not None:
    layout = over_batch(mesh)
    devices = mesh.shape["data"] // jax.process_count()
    rows = -(-host_rows // devices) * devices
    size //= devices
  free = free_memory(mesh)
  require(
    free is None or size <= free,
    field,
    f"{in_bytes(size)} of features on a device",
    f"{instead}: {in_bytes(free or 0)} are free there",
  )
  placed = {}
  for name, column in table.items():
    column = column.astype(jax.dtypes.canonicalize_dtype(column.dtype), copy=False)
    if rows is not None:
      missing = [(0, rows - len(column))] + [(0, 0)] * (column.ndim - 1)
      column = np.pad(column, missing)
    placed[name] = jax.make_array_from_process_local_data(layout, column)
  return jax.block_until_ready(placed)


def rows_of_table(
  table: Mapping[str, jax.Array],
  rows: jax.Array,
  num_examples: int,
  split_over: jax.sharding.Mesh | None = None,
) -> Batch:
  """The batch of some rows ``[B]`` of a placed table.

  Of a table that is split over the ``data`` axis of ``split_over``, each device
  contributes the rows that it has, to the batch's part of every device.
  """

  def pick(part: Table, rows: jax.Array) -> Table:
    rows = jax.lax.all_gather(rows, "data", tiled=True)

    def column(values: jax.Array) -> jax.Array:
      own = rows - jax.lax.axis_index("data") * len(values)
      own = jnp.where(own < 0, len(values), own)  # Beyond the end, as others' rows are.
      picked = values.at[own].get(mode="fill", fill_value=0)
      return jax.lax.psum_scatter(picked, "data", tiled=True)

    return jax.tree.map(column, part)

  if split_over is None:
    picked = {name: column[rows] for name, column in table.items()}
  else:
    split = over_batch(split_over).spec
    pick = jax.shard_map(pick, mesh=split_over, in_specs=split, out_specs=split)
    picked = pick(table, rows)
  return Batch(**picked, mask=jnp.ones(rows.shape, bool), num_examples=num_examples)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DeviceImages:
  """Images on the devices, for a compiled call that goes through all of them.

  Attributes:
    table: their columns, see ``place_table``.
    rows: of the table, in equal batches ``[n, B]``; padded.
    mask: True where a row is an image, ``[n, B]``.
    mesh: the devices.
    split: True where each device has a part of the table.
  """

  table: Table
  rows: jax.Array
  mask: jax.Array
  mesh: jax.sharding.Mesh = dataclasses.field(metadata={"static": True})
  split: bool = dataclasses.field(metadata={"static": True})

  @classmethod
  def placed(
    cls, table: HostBatch, batch_size: int, mesh: jax.sharding.Mesh, host_rows: int
  ) -> DeviceImages:
    """Places a table of images.

    Args:
      table: of this host's share of the images.
      batch_size: the most images in a batch, over all hosts, a multiple of the devices.
      mesh: the devices; with several along ``data`` each has a part.
      host_rows: images of the host with the most.

    Raises:
      ZsljaxError: they are larger than the free memory of a device.
    """
    split, hosts = mesh.shape["data"] > 1, jax.process_count()
    placed = place_table(
      table,
      mesh,
      host_rows if split else None,
      "images to be scored",
      "fewer, or while training config.evaluation.every_epochs=0",
    )
    begin = jax.process_index() * len(placed["labels"]) // hosts
    batches = -(-host_rows * hosts // batch_size)
    devices = mesh.shape["data"] // hosts
    size = -(-host_rows // (batches * devices)) * devices
    places = np.arange(batches * size, dtype=np.int32).reshape(batches, size)
    mask = places < len(table["labels"])
    layout = over_batch(mesh, axis=1)
    rows, mask = (
      jax.make_array_from_process_local_data(layout, array)
      for array in (begin + np.where(mask, places, 0), mask)
    )
    return cls(placed, rows, mask, mesh, split)

  def map(self, function: Callable[[Batch], Any]) -> Any:
    """Outputs of ``function`` for each batch, one after the other, ``[n, ...]``."""

    def of_batch(rows_and_mask: tuple[jax.Array, jax.Array]) -> Any:
      rows, mask = rows_and_mask
      split_over = self.mesh if self.split else None
      batch = rows_of_table(self.table, rows, 0, split_over)
      batch = jax.lax.with_sharding_constraint(batch, over_batch(self.mesh))
      batch = dataclasses.replace(batch, mask=mask)
      # As for a batch that was sent, see ``DeviceInputs.steps``.
      return jax.lax.optimization_barrier(function(jax.lax.optimization_barrier(batch)))

    return jax.lax.map(of_batch, (self.rows, self.mask))


@dataclasses.dataclass(frozen=True)
class HostInputs:
  """Batches from the host, sent to the devices ahead of their steps.

  Attributes:
    batches: this host's, from a step on, the same ones every time.
    mesh: the devices.
    num_examples: N.
  """

  batches: Callable[[int], Iterator[HostBatch]]
  mesh: jax.sharding.Mesh
  num_examples: int

  def pieces(self, start: int, stop: Callable[[int], int]) -> Iterator[tuple[Any, int]]:
    """Batches from step ``start`` on, each with the number of its steps: one."""
    del stop
    batches = feed(self.batches(start), self.mesh, self.num_examples)
    yield from ((batch, 1) for batch in batches)

  def first(self, piece: Batch) -> Batch:
    """The first batch of a piece."""
    return piece

  def steps(self, step: TrainStep) -> TrainStep:
    """One call of ``step``; its metrics have one more axis, the steps."""

    def one(
      state: TrainState, batch: Batch, classes: ClassSpace
    ) -> tuple[TrainState, Metrics]:
      state, metrics = step(state, batch, classes)
      return state, jax.tree.map(lambda value: value[None], metrics)

    return one


@dataclasses.dataclass(frozen=True)
class DeviceInputs:
  """A training set on the devices, where many steps are one compiled call.

  Attributes:
    table: reads this host's features and labels.
    rows: of its table, for its part of each batch from a step on, the same ones every
      time.
    mesh: the devices.
    num_examples: N.
    at_once: the most steps in a call.
    host_rows: see ``place_table``.
  """

  table: Callable[[], HostBatch]
  rows: Callable[[int], Iterator[np.ndarray]]
  mesh: jax.sharding.Mesh
  num_examples: int
  at_once: int
  host_rows: int | None = None

  def pieces(self, start: int, stop: Callable[[int], int]) -> Iterator[tuple[Any, int]]:
    """Arguments of each call of ``steps``, each with its number of steps.

    Args:
      start: the first step.
      stop: the step that no piece goes beyond, of the step at which it begins.

    Raises:
      ZsljaxError: the table is larger than the free memory of a device.
    """
    table = place_table(self.table(), self.mesh, self.host_rows)
    # Where this host's rows begin in a table that is split.
    begin = jax.process_index() * len(table["labels"]) // jax.process_count()
    rows, layout = self.rows(start), over_batch(self.mesh, axis=1)
    while True:
      count = min(self.at_once, stop(start) - start)
      some = begin + np.stack(list(itertools.islice(rows, count))).astype(np.int32)
      yield (table, jax.make_array_from_process_local_data(layout, some)), count
      start += count

  def first(self, piece: tuple[Table, jax.Array]) -> Batch:
    """The first batch of a piece."""
    table, rows = piece
    return self._batch(table, rows[0])

  def steps(self, step: TrainStep) -> TrainStep:
    """Calls of ``step`` one after the other; metrics stacked ``[steps]``."""

    def scan(
      state: TrainState, piece: tuple[Table, jax.Array], classes: ClassSpace
    ) -> tuple[TrainState, Metrics]:
      table, rows = piece

      def one(state: TrainState, rows: jax.Array) -> tuple[TrainState, Metrics]:
        # Nothing moves between the step and what is around it: it is compiled as for a
        # batch that was sent, and has the same bits.
        inputs = state, self._batch(table, rows), classes
        return jax.lax.optimization_barrier(step(*jax.lax.optimization_barrier(inputs)))

      return jax.lax.scan(one, state, rows)

    return scan

  def _batch(self, table: Table, rows: jax.Array) -> Batch:
    split_over = None if self.host_rows is None else self.mesh
    batch = rows_of_table(table, rows, self.num_examples, split_over)
    return jax.lax.with_sharding_constraint(batch, over_batch(self.mesh))


def check_divides(batch_size: int, mesh: jax.sharding.Mesh, field: str) -> None:
  """Raises unless a batch splits evenly over the mesh's ``data`` axis."""
  data = mesh.shape["data"]
  require(
    batch_size % data == 0,
    field,
    batch_size,
    f"a multiple of {data}, the devices that share a batch",
  )
