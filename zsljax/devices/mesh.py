"""The device mesh and how arrays lie on it."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from zsljax.errors import require


def make_mesh(
  data: int = -1, model: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """A mesh with the axes ``data`` and ``model``.

  Args:
    data: devices along ``data``, which splits a batch; -1 takes all that ``model``
      leaves.
    model: devices along ``model``, which splits parameters that have a row for each
      class. Only as many devices as needed are used.
    devices: those here when None.

  Raises:
    ZsljaxError: there are fewer devices.
  """
  devices = devices or jax.devices()
  for field, value, most in (
    ("model", model, len(devices)),
    ("data", data, len(devices) // max(model, 1)),
  ):
    require(
      1 <= value <= most or (field == "data" and value == -1),
      f"config.mesh.{field}",
      value,
      f"{'-1 or ' if field == 'data' else ''}1 to {most}, the devices here",
    )
  data = len(devices) // model if data == -1 else data
  require(
    jax.process_count() == 1
    or data * model == len(devices)
    and jax.local_device_count() % model == 0,
    "config.mesh",
    f"data={data} and model={model}",
    f"all {len(devices)} devices of the {jax.process_count()} processes, those along "
    "model on one process",
  )
  # Auto: the compiler places the collectives; labels may index class arrays.
  return Mesh(
    np.array(devices[: data * model]).reshape(data, model),
    ("data", "model"),
    axis_types=(AxisType.Auto, AxisType.Auto),
  )


def over_batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
  """An array whose ``axis`` has the rows of a batch, split over the ``data`` axis."""
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def replicated(mesh: Mesh) -> NamedSharding:
  """The same array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def by_own_rows(function: Callable, *rows: Any, whole: Sequence[Any] = ()) -> Any:
  """Calls a function of a batch on each device's own rows, where a mesh splits them.

  The mesh is that of ``jax.sharding.use_abstract_mesh``; ``make_train_step`` names it.

  Args:
    function: takes trees of arrays with a row for each image, then those that are
      ``whole`` on every device; gives arrays with a row for each image, of which none
      depends on other images.
    *rows: its trees of arrays with a row for each image.
    whole: its other ones.
  """
  if jax.sharding.get_abstract_mesh().shape.get("data", 1) == 1:
    return function(*rows, *whole)
  split, everywhere = PartitionSpec("data"), PartitionSpec()
  specs = (split,) * len(rows) + (everywhere,) * len(whole)
  # Loops begin with constants, which do not vary over devices.
  own = jax.shard_map(function, in_specs=specs, out_specs=split, check_vma=False)
  return own(*rows, *whole)


def free_memory(mesh: Mesh) -> int | None:
  """The least bytes that are free on a device of this host; None if none says so."""
  stats = [device.memory_stats() for device in mesh.local_devices]
  free = [s["bytes_limit"] - s["bytes_in_use"] for s in stats if s]
  return min(free, default=None)


def over_classes(tree: Any, class_params: Collection[str], mesh: Mesh) -> Any:
  """Shardings of the parameters, or of a state that holds them, on the mesh.

  Args:
    tree: of arrays or their shapes.
    class_params: parameters with a row for each class; they, and what an optimizer
      keeps of them, are split over the ``model`` axis. All else is everywhere.
    mesh: the devices.

  Raises:
    ZsljaxError: the classes do not divide over the axis.
  """
  parts = mesh.shape["model"]

  def lay(path, leaf) -> NamedSharding:
    if not any(getattr(key, "key", None) in class_params for key in path):
      return replicated(mesh)
    require(
      leaf.shape[0] % parts == 0,
      "config.mesh.model",
      parts,
      f"a divisor of the {leaf.shape[0]} classes",
    )
    return NamedSharding(mesh, PartitionSpec("model"))

  return jax.tree_util.tree_map_with_path(lay, tree)
