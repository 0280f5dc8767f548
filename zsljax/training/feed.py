"""Batches from the host onto the mesh."""

from collections import deque
from collections.abc import Iterable, Iterator
import itertools

import jax
import numpy as np

from zsljax.errors import require
from zsljax.models import Batch
from zsljax.sharding import over_batch

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


def check_divides(batch_size: int, mesh: jax.sharding.Mesh, field: str) -> None:
  """Raises unless a batch splits evenly over the mesh's ``data`` axis."""
  data = mesh.shape["data"]
  require(
    batch_size % data == 0,
    field,
    batch_size,
    f"a multiple of {data}, the devices that share a batch",
  )
