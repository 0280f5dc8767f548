"""Batches from the host onto the mesh."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from zsljax.errors import in_bytes, require
from zsljax.models import Batch
from zsljax.sharding import over_batch, replicated

HostBatch = dict[str, np.ndarray]


def to_mesh(batch: HostBatch, mesh: jax.sharding.Mesh, num_examples: int) -> Batch:
  """This host's rows as part of one global batch over the ``data`` axis."""
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
  for batch in itertools.chain(batches, [None] * depth):
    if batch is not None:
      if batch is not last_host:
        last_host, last_placed = batch, to_mesh(batch, mesh, num_examples)
      queue.append(last_placed)
    if queue and (batch is None or len(queue) > depth):
      yield queue.popleft()


def place_table(table: HostBatch, mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
  """A training set's columns on every device.

  Raises:
    ZsljaxError: they are larger than the free memory of a device.
  """
  size = sum(column.nbytes for column in table.values())
  for device in mesh.local_devices:
    stats = device.memory_stats() or {}
    free = stats.get("bytes_limit", size) - stats.get("bytes_in_use", 0)
    require(
      size <= free,
      "config.data.cache",
      f"'device' with {in_bytes(size)} of features",
      f"host or none: {in_bytes(free)} are free on {device}",
    )
  placed = {}
  for name, column in table.items():
    dtype = jax.dtypes.canonicalize_dtype(column.dtype)
    placed[name] = jax.device_put(column.astype(dtype, copy=False), replicated(mesh))
  return jax.block_until_ready(placed)


def rows_of_table(
  table: Mapping[str, jax.Array], rows: jax.Array, num_examples: int
) -> Batch:
  """The batch of some rows ``[B]`` of a placed table."""
  picked = {name: column[rows] for name, column in table.items()}
  return Batch(**picked, mask=jnp.ones(rows.shape, bool), num_examples=num_examples)


def resident(
  table: HostBatch,
  rows: Iterator[np.ndarray],
  mesh: jax.sharding.Mesh,
  num_examples: int,
) -> Iterator[Batch]:
  """Batches gathered on the devices from a table that lies on each of them.

  Args:
    table: features and labels of the training set.
    rows: of the table, for each batch.
    mesh: the devices.
    num_examples: N.

  Raises:
    ZsljaxError: the table is larger than the free memory of a device.
  """
  placed = place_table(table, mesh)
  del table  # The host's copy.
  gather = functools.partial(rows_of_table, num_examples=num_examples)
  gather = jax.jit(gather, out_shardings=over_batch(mesh))
  for some in rows:
    yield gather(placed, some.astype(np.int32))


def check_divides(batch_size: int, mesh: jax.sharding.Mesh, field: str) -> None:
  """Raises unless a batch splits evenly over the mesh's ``data`` axis."""
  data = mesh.shape["data"]
  require(
    batch_size % data == 0,
    field,
    batch_size,
    f"a multiple of {data}, the devices that share a batch",
  )
