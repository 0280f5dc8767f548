"""Memory of a real run on accelerators that are not here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
import math
from typing import Any

import jax

from zsljax.benchmark.shapes import check_has_steps
from zsljax.benchmark.table import markdown
from zsljax.benchmark.topology import (
  figures_of,
  find_topology,
  largest_batch,
  make_work,
  measured_bytes,
)
from zsljax.devices.precision import nearest
from zsljax.errors import in_bytes
from zsljax.runs.experiment import Experiment
from zsljax.training import check_divides, make_optimizer
from zsljax.training.inputs import SENT_AHEAD

_PLACES = {
  "whole": "resident, whole on every device",
  "split": "resident, a part on each device",
  "streamed": "streamed from the host",
}


def plan(config: Mapping[str, Any], name: str) -> dict[str, Any]:
  """Compiles the training step of a run, and adds up what each device holds.

  Features lie whole on every device of one host, if they take at most half of it or
  there is one device; or in parts; or come in batches. One batch of everything is sent
  once, and stays.

  Args:
    config: all fields, nested, as plain values; the mesh's ``data`` devices are all.
    name: of the topology, as ``find_topology`` takes it.

  Returns:
    JSON values with units in their names. ``largest_batch`` follows a line through
    the memory of two batches, and is 0 where none fits.

  Raises:
    ZsljaxError: a field does not fit the dataset or the devices.
  """
  run = Experiment.build({**config, "mesh": {"data": 1, "model": 1}})
  check_has_steps(run.system, "config.system.name")
  data, stored = run.training_data(), run.dataset
  total = data.total_steps(config["epochs"])
  topology = find_topology(name)
  work = make_work(
    topology,
    config["mesh"]["model"],
    "config.mesh.model",
    precision=nearest(config["matmul_precision"], topology.chip.platform),
    system=run.system,
    spec=run.spec,
    classes=run.classes,
    dtype=jax.dtypes.canonicalize_dtype(stored.storage_dtype),
    label_widths=stored.metadata["label_widths"],
    optimizer=make_optimizer(config["optimizer"], config["batch_size"], total),
  )
  devices = work.mesh.shape["data"]
  size = data.rows_per_batch
  if config["batch_size"]:
    check_divides(size, work.mesh, "config.batch_size")
  size = -(-size // devices) * devices
  compiled = functools.cache(work.training)
  needed = functools.cache(functools.partial(measured_bytes, compiled))
  limit, row = topology.chip.memory, stored.row_bytes
  whole, part = data.num_examples * row, math.ceil(data.num_examples / devices) * row
  # Bytes of features beside a batch's, by its size.
  held: dict[str, Callable[[int], int]] = {"streamed": lambda size: 0}
  if config["batch_size"]:
    held = {
      "split": lambda size: part,
      "streamed": lambda size: SENT_AHEAD * size * row // devices,
    }
    hosts = len({device.process_index for device in topology.devices})
    if hosts == 1 and (devices == 1 or whole <= limit // 2):
      held = {"whole": lambda size: whole, **held}
  places = {}
  for place, features in held.items():

    def together(size: int, features=features) -> float:
      return features(size) + needed(size)

    fits = together(size) <= limit
    most = size if fits else 0
    if config["batch_size"]:
      most = largest_batch(together, size, 2 * size, limit, devices)
      most = min(most, data.num_examples // devices * devices)
    places[place] = {
      "features_bytes": features(size),
      "step_bytes": needed(size),
      "together_bytes": together(size),
      "fits": fits,
      "largest_batch": most,
    }
  figures = {
    "system": run.system.name,
    "dataset": stored.metadata["name"],
    "features": stored.variant,
    "images": data.num_examples,
    "topology": name,
    "devices": work.mesh.size,
    "bytes_of_a_device": limit,
    "batch_size": size,
    "precision": work.precision,
    "compiled_not_run": True,
    "places": places,
  }
  if places["streamed"]["fits"]:
    figures["training"] = figures_of(work, "training", size, compiled(size))
  return figures


def shown(figures: Mapping[str, Any]) -> str:
  """Formats a plan: a line for each place of the features, and the predicted rate."""
  limit = figures["bytes_of_a_device"]
  rows = [
    (
      _PLACES[place],
      in_bytes(row["features_bytes"]),
      in_bytes(row["step_bytes"]),
      _fits(place, row, limit),
      f"{row['largest_batch']:,}" if row["largest_batch"] else "none",
    )
    for place, row in figures["places"].items()
  ]
  title = (
    f"{figures['system']} on {figures['dataset']} ({figures['features']}, "
    f"{figures['images']:,} images), batch {figures['batch_size']}, "
    f"{figures['precision']}, on {figures['topology']}: {figures['devices']} device(s) "
    f"of {in_bytes(limit)}; compiled, not run\n"
  )
  columns = ("features", "a device", "its step", "fits", "largest batch, about")
  lines = [title, markdown(columns, rows)]
  if step := figures.get("training"):
    lines.append(
      f"\npredicted: {step['examples_per_second']:,.0f} examples/s of batches on the "
      f"devices, {100 * step['fraction_of_matmul_rate']:.0f} % of their matrix rate"
    )
  return "\n".join(lines)


def _fits(place: str, row: Mapping[str, Any], limit: int) -> str:
  if not row["fits"]:
    return f"no, by {in_bytes(row['together_bytes'] - limit)}"
  # By itself a run leaves half of a device to its step, see ``Experiment``.
  if place != "streamed" and row["features_bytes"] > limit // 2:
    return "yes, with config.data.cache=device"
  return "yes"
