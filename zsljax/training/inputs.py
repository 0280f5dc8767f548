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
from zsljax.numerics import inverse_length
from zsljax.training.state import TrainState
from zsljax.training.step import Metrics, TrainStep

HostBatch = dict[str, np.ndarray]
# Batches that lie on the devices before their step comes.
SENT_AHEAD = 2


def to_mesh(batch: HostBatch, mesh: jax.sharding.Mesh, num_examples: int) -> Batch:
  """One global batch over the ``data`` axis, of which this host has some rows."""
  sharding = over_batch(mesh)

  def place(array: np.ndarray) -> jax.Array:
    array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
    return jax.make_array_from_process_local_data(sharding, array)

  return Batch(**jax.tree.map(place, batch), num_examples=num_examples)


def feed(
  batches: Iterable[HostBatch], mesh: jax.sharding.Mesh, num_examples: int
) -> Iterator[Batch]:
  """Batches of a training set on the mesh, ``SENT_AHEAD`` of them before their step.

  A host batch that comes again (the same object, as in full-batch training) is
  not sent again.
  """
  queue: deque[Batch] = deque()
  last_host, last_placed = None, None
  for batch in batches:
    if batch is not last_host:
      last_host = batch
      last_placed = with_lengths(to_mesh(batch, mesh, num_examples))
    queue.append(last_placed)
    if len(queue) > SENT_AHEAD:
      yield queue.popleft()
  yield from queue


def with_lengths(batch: Batch) -> Batch:
  """Adds the lengths of regions, outside of any step that would compute them again.

  A batch of each of several runs, ``[S, B, ...]``, is taken too.
  """
  if batch.features.ndim - batch.mask.ndim == 1:
    return batch
  lengths = _inverse_lengths(batch.features)
  return dataclasses.replace(batch, inverse_lengths=lengths)


@jax.jit
def _inverse_lengths(regions: jax.Array) -> jax.Array:
  return inverse_length(regions.astype(jnp.float32))


def rows_of_table(
  columns: Mapping[str, jax.Array], rows: jax.Array, num_examples: jax.Array | int
) -> Batch:
  """The batch of some rows ``[B]`` of columns that are whole on every device.

  -1 is padding, which is masked.
  """
  picked = {name: column[rows] for name, column in columns.items()}
  return Batch(**picked, mask=rows >= 0, num_examples=num_examples)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DeviceTable:
  """Columns of a set of images on the devices.

  Attributes:
    columns: features, labels and the like, a row for each image.
    mesh: the devices.
    split: True where each device has a part, along ``data``; else each has all.
  """

  columns: dict[str, jax.Array]
  mesh: jax.sharding.Mesh = dataclasses.field(metadata={"static": True})
  split: bool = dataclasses.field(metadata={"static": True})

  @classmethod
  def placed(
    cls,
    table: HostBatch,
    mesh: jax.sharding.Mesh,
    host_rows: int | None = None,
    field: str = "config.data.cache",
  ) -> DeviceTable:
    """Places the images of all hosts.

    Args:
      table: of this host's share of the images.
      mesh: the devices.
      host_rows: rows of the largest host's table; the table is then split, and padded
        to as many rows for every device. When None it is whole on every device, and
        there is one host.
      field: named by the error if they do not fit.

    Raises:
      ZsljaxError: they are larger than the free memory of a device.
    """
    layout, rows = replicated(mesh), 0
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
      f"{in_bytes(size)} of features for a device",
      f"at most {in_bytes(free or 0)}, which are free there",
    )
    placed = {}
    for name, column in table.items():
      column = column.astype(jax.dtypes.canonicalize_dtype(column.dtype), copy=False)
      if len(column) < rows:
        missing = np.zeros((rows - len(column), *column.shape[1:]), column.dtype)
        column = np.concatenate([column, missing])
      placed[name] = jax.make_array_from_process_local_data(layout, column)
    return cls(jax.block_until_ready(placed), mesh, host_rows is not None)

  def with_lengths(self) -> DeviceTable:
    """Adds the lengths of regions, if images have any."""
    features = self.columns["features"]
    if features.ndim != 3:
      return self

    def some_at_a_time(regions: jax.Array) -> jax.Array:  # No copy of all.
      images = jnp.arange(len(regions))
      return jax.lax.map(lambda i: _inverse_lengths(regions[i]), images, batch_size=64)

    if self.split:
      split = over_batch(self.mesh).spec
      some_at_a_time = jax.shard_map(
        some_at_a_time, mesh=self.mesh, in_specs=split, out_specs=split
      )
    columns = self.columns | {"inverse_lengths": jax.jit(some_at_a_time)(features)}
    return dataclasses.replace(self, columns=columns)

  def rows(self, own: np.ndarray) -> jax.Array:
    """Rows ``[n, B]`` of batches, of which this host has rows of its own table."""
    begin = jax.process_index() * len(self.columns["labels"]) // jax.process_count()
    rows = np.where(own < 0, -1, begin + own)
    return _spread(rows.astype(np.int32), self.mesh)

  def batch(self, rows: jax.Array, num_examples: int) -> Batch:
    """The batch of some rows ``[B]``; -1 is padding, which is masked.

    Of a split table, each device contributes its rows to every device's part.
    """

    def pick(columns: dict[str, jax.Array], rows: jax.Array) -> dict[str, jax.Array]:
      rows = jax.lax.all_gather(rows, "data", tiled=True)

      def of(values: jax.Array) -> jax.Array:
        own = rows - jax.lax.axis_index("data") * len(values)
        own = jnp.where(own < 0, len(values), own)  # Beyond the end: others' rows.
        picked = values.at[own].get(mode="fill", fill_value=0)
        return jax.lax.psum_scatter(picked, "data", tiled=True)

      return jax.tree.map(of, columns)

    if self.split:
      split = over_batch(self.mesh).spec
      pick = jax.shard_map(pick, mesh=self.mesh, in_specs=split, out_specs=split)
      picked = pick(self.columns, rows)
      batch = Batch(**picked, mask=rows >= 0, num_examples=num_examples)
    else:
      batch = rows_of_table(self.columns, rows, num_examples)
    return jax.lax.with_sharding_constraint(batch, over_batch(self.mesh))


def _spread(array: np.ndarray, mesh: jax.sharding.Mesh) -> jax.Array:
  """An array ``[n, B]`` over the ``data`` axis, of which this host has a part."""
  return jax.make_array_from_process_local_data(over_batch(mesh, axis=1), array)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DeviceImages:
  """Images on the devices, for a compiled call that goes through all of them.

  Attributes:
    table: their columns.
    rows: of the table, in equal batches ``[n, B]``; padded.
    mask: True where a row is an image, ``[n, B]``.
  """

  table: DeviceTable
  rows: jax.Array
  mask: jax.Array

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
    split_rows = host_rows if mesh.shape["data"] > 1 else None
    placed = DeviceTable.placed(table, mesh, split_rows, "images to be scored")
    rows = np.arange(len(table["labels"]), dtype=np.int32)
    return cls.of_rows(placed, rows, host_rows, batch_size, mesh)

  @classmethod
  def of_rows(
    cls,
    table: DeviceTable,
    rows: np.ndarray,
    padded: int,
    batch_size: int,
    mesh: jax.sharding.Mesh,
  ) -> DeviceImages:
    """Some images of a placed table.

    Args:
      table: of all hosts.
      rows: of this host's table.
      padded: rows of every host, with padding.
      batch_size: the most images in a batch, over all hosts, a multiple of the devices.
      mesh: the devices.
    """
    hosts = jax.process_count()
    batches = -(-padded * hosts // batch_size)
    devices = mesh.shape["data"] // hosts
    size = -(-padded // (batches * devices)) * devices
    places = np.zeros(batches * size, np.int32)
    places[: len(rows)] = rows
    mask = np.arange(batches * size) < len(rows)
    places, mask = places.reshape(batches, size), mask.reshape(batches, size)
    return cls(table, table.rows(places), _spread(mask, mesh))

  def map(self, function: Callable[[Batch], Any]) -> Any:
    """Outputs of ``function`` for each batch, one after the other, ``[n, ...]``."""

    def of_batch(rows_and_mask: tuple[jax.Array, jax.Array]) -> Any:
      rows, mask = rows_and_mask
      batch = dataclasses.replace(self.table.batch(rows, num_examples=0), mask=mask)
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
    host_rows: see ``DeviceTable.placed``.
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
    table = DeviceTable.placed(self.table(), self.mesh, self.host_rows).with_lengths()
    rows = self.rows(start)
    while True:
      count = min(self.at_once, stop(start) - start)
      yield (table, table.rows(np.stack(list(itertools.islice(rows, count))))), count
      start += count

  def first(self, piece: tuple[DeviceTable, jax.Array]) -> Batch:
    """The first batch of a piece."""
    table, rows = piece
    return table.batch(rows[0], self.num_examples)

  def steps(self, step: TrainStep) -> TrainStep:
    """Calls of ``step`` one after the other; metrics stacked ``[steps]``."""

    def scan(
      state: TrainState, piece: tuple[DeviceTable, jax.Array], classes: ClassSpace
    ) -> tuple[TrainState, Metrics]:
      table, rows = piece

      def one(state: TrainState, rows: jax.Array) -> tuple[TrainState, Metrics]:
        # Nothing moves between the step and the operations around it: it is compiled as
        # for a batch that was sent, and has the same bits.
        inputs = state, table.batch(rows, self.num_examples), classes
        return jax.lax.optimization_barrier(step(*jax.lax.optimization_barrier(inputs)))

      return jax.lax.scan(one, state, rows)

    return scan


def check_divides(batch_size: int, mesh: jax.sharding.Mesh, field: str) -> None:
  """Raises unless a batch splits evenly over the mesh's ``data`` axis."""
  data = mesh.shape["data"]
  require(
    batch_size % data == 0,
    field,
    batch_size,
    f"a multiple of {data}, the devices that share a batch",
  )
