"""The device mesh and how arrays lie on it."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from zsljax.errors import require


def make_mesh(data: int = -1) -> Mesh:
  """A mesh with the axes ``data`` and ``model`` over all devices.

  Args:
    data: devices along ``data``, which splits a batch; -1 takes all devices.
      Only as many devices as needed are used.

  Raises:
    ZsljaxError: there are fewer devices.
  """
  devices = jax.devices()
  require(
    data == -1 or 1 <= data <= len(devices),
    "config.mesh.data",
    data,
    f"-1 or 1 to {len(devices)}, the devices here",
  )
  data = len(devices) if data == -1 else data
  # Auto: the compiler places the collectives; labels may index class arrays.
  return Mesh(
    np.array(devices[:data]).reshape(data, 1),
    ("data", "model"),
    axis_types=(AxisType.Auto, AxisType.Auto),
  )


def over_batch(mesh: Mesh) -> NamedSharding:
  """Rows split over the ``data`` axis."""
  return NamedSharding(mesh, PartitionSpec("data"))


def replicated(mesh: Mesh) -> NamedSharding:
  """The same array on every device."""
  return NamedSharding(mesh, PartitionSpec())
