"""Steps compiled for accelerators that are not here, and predictions from them.

The real compilers run without a device. Figures are of a program that was compiled and
not run: its memory is what the compiler plans, its time a model of its instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies
import jax.numpy as jnp
import numpy as np
import optax

from zsljax.benchmark.ceilings import flops_in
from zsljax.benchmark.chips import CHIPS, Chip
from zsljax.benchmark.program import Cost, Program
from zsljax.benchmark.shapes import (
  NUM_EXAMPLES,
  random_classes,
  random_labels,
  random_table,
  rows_of,
  shapes_of,
)
from zsljax.benchmark.step import OPTIMIZER, useful_flops
from zsljax.classes import ClassSpace
from zsljax.devices.mesh import make_mesh, over_batch, over_classes, replicated
from zsljax.devices.precision import PRECISIONS, supported
from zsljax.errors import (
  ZsljaxError,
  in_bytes,
  line_of,
  require,
  require_known,
)
from zsljax.models import MULTI_LABEL, Batch, Spec, System
from zsljax.training import check_divides, init_state, make_train_step
from zsljax.training.checkpoints import abstract
from zsljax.training.inputs import with_lengths

_COMPILERS = {"tpu": ("libtpu", "tpu"), "cuda": ("jax_cuda13_plugin", "cuda")}
_LARGEST = 10
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices that only compile.

  Attributes:
    name: as a user typed it.
    chip: numbers of one device.
    devices: of JAX.
  """

  name: str
  chip: Chip
  devices: list[Any]


def find_topology(name: str) -> Topology:
  """Finds the devices of ``v5e:2x2``, ``h100:8`` or, for one device, of ``v5e``.

  Raises:
    ZsljaxError: there is no such chip or slice, or its compiler is not installed.
  """
  kind, _, grid = name.lower().partition(":")
  require_known(kind, CHIPS, "--topology", "unknown chip")
  chip = CHIPS[kind]
  is_tpu = chip.platform == "tpu"
  form, example = (r"\d+(x\d+)+", "2x2") if is_tpu else (r"[1-9]\d*", "8")
  require(
    not grid or re.fullmatch(form, grid) is not None,
    f"--topology={name}",
    repr(grid),
    f"{'a grid of chips' if is_tpu else 'a number of cards'} as in {kind}:{example}",
  )
  number = 1 if is_tpu else int(grid or 1)
  require(
    number <= 8 or number % 8 == 0,
    f"--topology={name}",
    number,
    "at most 8 cards, those of a machine, or a multiple",
  )
  module, extra = _COMPILERS[chip.platform]
  require(
    importlib.util.find_spec(module) is not None,
    f"--topology={name}",
    f"no compiler for {'TPUs' if is_tpu else 'NVIDIA cards'} here",
    f'it to be installed by pip install "zsljax[{extra}]"; no device is needed',
  )
  jax.config.update("jax_platforms", "cpu")  # No device is looked for.
  # A kept program cannot be read without its device.
  jax.config.update("jax_enable_compilation_cache", False)
  # All frames: a library's own are more than the usual ten.
  jax.config.update("jax_traceback_in_locations_limit", -1)
  # Neither metadata of a TPU's host, nor the lock by which one process has its TPUs.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  options = {}
  slice_name = f"{kind}:{grid or chip.smallest}"
  if not is_tpu:
    hosts = -(-number // 8)
    options["target_config"] = chip.card
    options["topology"] = f"{hosts}x{number // hosts}x1"
  try:
    found = topologies.get_topology_desc(slice_name, chip.platform, **options)
  except Exception as error:
    raise ZsljaxError(
      f"--topology={name}: found {line_of(error)}, expected a slice that its compiler "
      "knows"
    ) from error
  return Topology(name, chip, found.devices if grid else found.devices[:1])


@dataclasses.dataclass(frozen=True)
class Work:
  """Steps of a system on devices that only compile.

  Attributes:
    topology: the devices.
    mesh: over all of them.
    precision: of matrix products.
    system: the system.
    spec: sizes of features and classes.
    classes: the training classes.
    dtype: of the features in memory.
    label_widths: widths of a multi-label set's columns; None of random labels.
    optimizer: of the training step.
  """

  topology: Topology
  mesh: jax.sharding.Mesh
  precision: str
  system: System
  spec: Spec
  classes: ClassSpace
  dtype: Any
  label_widths: Mapping[str, int] | None = None
  optimizer: optax.GradientTransformationExtraArgs = OPTIMIZER

  @property
  def num_seen(self) -> int:
    """Number of classes with training images."""
    return int(np.sum(self.classes.seen))

  def batch(self, size: int) -> Batch:
    """Shapes of a batch."""
    widths = self.label_widths
    if self.system.task == MULTI_LABEL and not widths:
      widths = {"labels": random_labels(min(size, 512), self.num_seen).shape[1]}
    table = random_table(self.system, self.spec, 1, self.num_seen, self.dtype, widths)
    columns = {
      name: jax.ShapeDtypeStruct((size, *column.shape[1:]), column.dtype)
      for name, column in rows_of(table, np.zeros(1, int)).items()
    }
    return Batch(**columns, num_examples=NUM_EXAMPLES)

  def training(self, size: int) -> Any:
    """Compiles a training step."""
    initial = functools.partial(init_state, self.system, self.optimizer, self.spec)
    step = make_train_step(self.system, self.optimizer, mesh=self.mesh)
    layout, arguments = self._arguments(
      jax.eval_shape(initial, 0), jax.eval_shape(with_lengths, self.batch(size))
    )
    options = {"donate_argnums": 0, "out_shardings": (layout, replicated(self.mesh))}
    with jax.default_matmul_precision(PRECISIONS[self.precision]):
      return jax.jit(step, **options).lower(*arguments).compile()

  def scoring(self, size: int) -> Any:
    """Compiles the scores of a batch."""
    step = jax.jit(self._scores, out_shardings=over_batch(self.mesh))
    with jax.default_matmul_precision(PRECISIONS[self.precision]):
      return step.lower(*self._scored(size)).compile()

  def useful_flops(self, step: str, size: int) -> float:
    """Operations that ``training`` or ``scoring`` must do, over all devices."""
    if step == "training":
      return useful_flops(self.system, self.spec, size, self.num_seen)
    return flops_in(self._scores, *self._scored(size))

  def _scores(self, params: Any, batch: Batch, classes: ClassSpace) -> jax.Array:
    return self.system.scores(params, batch.astype(jnp.float32).features, classes)

  def _scored(self, size: int) -> tuple[Any, ...]:
    params = jax.eval_shape(lambda: self.system.init(jax.random.key(0), self.spec))
    return self._arguments(params, self.batch(size))[1]

  def _arguments(self, state: Any, batch: Batch) -> tuple[Any, tuple[Any, ...]]:
    """The layout of a state or of parameters, and shapes of a step's arguments."""
    layout = over_classes(state, self.system.class_params, self.mesh)
    batch = _on(over_batch(self.mesh), batch)
    classes = _on(replicated(self.mesh), self.classes)
    return layout, (abstract(state, layout), batch, classes)


def _on(layout: jax.sharding.Sharding, tree: Any) -> Any:
  """Shapes of the host's arrays as they lie on devices."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, jax.dtypes.canonicalize_dtype(x.dtype), sharding=layout
    ),
    tree,
  )


def make_work(
  topology: Topology, model_devices: int, field: str, **fields: Any
) -> Work:
  """Lays a mesh over all devices of a topology.

  Args:
    topology: the devices.
    model_devices: devices over which parameters with a row for each class are split.
    field: of which ``model_devices`` is the value.
    **fields: the other fields of ``Work``.

  Raises:
    ZsljaxError: the devices do not divide.
  """
  number = len(topology.devices)
  require(
    0 < model_devices <= number and number % model_devices == 0,
    field,
    model_devices,
    f"a divisor of the {number} devices of {topology.name}",
  )
  mesh = make_mesh(-1, model_devices, topology.devices)
  return Work(topology, mesh, **fields)


def run(
  name: str,
  system_name: str,
  preset: str = "cub",
  batch_size: int | None = None,
  precision: str = "float32",
  model_devices: int = 1,
) -> dict[str, Any]:
  """Compiles a system's training and scoring step, and predicts their time.

  Args:
    name: of the topology.
    system_name: as in a config.
    preset: one of ``PRESETS``.
    batch_size: images in a step, over all devices; the preset's when None.
    precision: of matrix products.
    model_devices: devices over which parameters with a row for each class are split.

  Returns:
    JSON values with units in their names; bytes are of one device.

  Raises:
    ZsljaxError: an argument does not fit, or the step does not fit the devices.
  """
  shapes = shapes_of(preset, batch_size)
  size, spec, system = shapes.batch_size, shapes.spec(), shapes.system(system_name)
  topology = find_topology(name)
  known = supported(topology.chip.platform)
  require(
    precision in known, "--precision", repr(precision), f"{' or '.join(known)} there"
  )
  work = make_work(
    topology,
    model_devices,
    "--model_devices",
    precision=precision,
    system=system,
    spec=spec,
    classes=random_classes(spec, shapes.num_seen),
    dtype=jnp.dtype("bfloat16" if precision == "bfloat16" else "float32"),
  )
  check_divides(size, work.mesh, "--batch_size")
  return {
    "system": system_name,
    "preset": preset,
    "batch_size": size,
    "feature_shape": list(spec.feature_shape),
    "feature_dtype": str(work.dtype),
    "num_attributes": spec.num_attributes,
    "num_classes": spec.num_classes,
    "precision": precision,
    "data_devices": work.mesh.shape["data"],
    "model_devices": model_devices,
    "topology": name,
    "device": work.topology.devices[0].device_kind,
    "devices": work.mesh.size,
    "compiled_not_run": True,
    "peaks_from": work.topology.chip.source,
    "matmul_flops_per_second": work.topology.chip.flops[precision],
    "memory_bytes_per_second": work.topology.chip.bandwidth,
    "training": figures_of(work, "training", size, _fitting(work, work.training, size)),
    "scoring": figures_of(work, "scoring", size, _fitting(work, work.scoring, size)),
  }


def bytes_needed(compiled: Any) -> float:
  """Bytes that a compiled step needs on each device."""
  planned = compiled.memory_analysis()
  return (
    planned.argument_size_in_bytes
    + planned.temp_size_in_bytes
    + planned.output_size_in_bytes
    - planned.alias_size_in_bytes
    + planned.generated_code_size_in_bytes
  )


def measured_bytes(compile_step: Callable[[int], Any], size: int) -> float:
  """Bytes on each device of a step, also where the compiler refuses its size."""
  try:
    return bytes_needed(compile_step(size))
  except jax.errors.JaxRuntimeError as error:
    found = re.search(r"Used ([\d.]+)([KMG]) of [\d.]+[KMG] hbm", str(error))
    if not found:
      raise
    return float(found[1]) * _UNITS[found[2]]


def largest_batch(
  needed: Callable[[int], float], low: int, high: int, limit: float, multiple: int
) -> int:
  """Estimates the largest batch that fits, by a line through two sizes.

  Args:
    needed: bytes on each device, of a batch.
    low: one size.
    high: another, larger one.
    limit: bytes of a device.
    multiple: of which a batch is one.

  Returns:
    The batch, rounded down; 0 where none fits.
  """
  slope = (needed(high) - needed(low)) / (high - low)
  rows = low + (limit - needed(low)) / max(slope, 1e-9)
  return max(int(rows) // multiple * multiple, 0)


def _fitting(work: Work, compile_step: Callable[[int], Any], size: int) -> Any:
  """Compiles a step that must fit the devices.

  Raises:
    ZsljaxError: it does not; the message names about the largest batch that does.
  """
  limit, multiple = work.topology.chip.memory, work.mesh.shape["data"]
  compiled = functools.cache(compile_step)
  needed = functools.cache(functools.partial(measured_bytes, compiled))
  used = needed(size)
  if used <= limit:
    return compiled(size)
  low = max(size // 4 // multiple, 1) * multiple
  best = largest_batch(needed, low, size, limit, multiple) if low < size else 0
  while best and needed(best) > limit:
    best = best * 9 // 10 // multiple * multiple
  raise ZsljaxError(
    f"--batch_size: found {size} with {in_bytes(used)} on each device of "
    f"{work.topology.name}, {in_bytes(used - limit)} more than the "
    f"{in_bytes(limit)} there, expected "
    + (f"at most about {best}" if best else "more devices: no batch fits")
  )


def figures_of(work: Work, step: str, size: int, compiled: Any) -> dict[str, Any]:
  """Figures of a compiled step, of one device unless they say otherwise.

  Args:
    work: the system and the devices.
    step: ``training`` or ``scoring``.
    size: images in the batch, over all devices.
    compiled: the step.
  """
  chip, mesh = work.topology.chip, work.mesh
  rate, useful = chip.flops[work.precision], work.useful_flops(step, size)
  features = math.prod((size, *work.spec.feature_shape)) * work.dtype.itemsize
  costs = Program(compiled.as_text(), chip.platform).costs()
  collectives: dict[str, dict[str, float]] = {}
  for cost in costs:
    for kind, moved in cost.collectives.items():
      figures = collectives.setdefault(kind, {"number": 0, "bytes": 0.0})
      figures["number"] += 1
      figures["bytes"] += moved
  traffic = sum(cost.traffic for cost in costs)
  flops = sum(cost.flops for cost in costs)

  # An all-reduce sends and receives its bytes twice, but for a device's own part.
  def on_links(kind: str, moved: float) -> float:
    return (4 if kind == "all-reduce" else 2) * moved * (1 - 1 / mesh.size)

  def seconds(cost: Cost) -> float:
    linked = sum(on_links(*each) for each in cost.collectives.items())
    return linked / chip.interconnect + max(
      cost.flops / rate, cost.traffic / chip.bandwidth
    )

  predicted = sum(map(seconds, costs))
  by_products, by_traffic = flops / rate, traffic / chip.bandwidth
  floor = useful / mesh.size / rate
  planned, used = compiled.memory_analysis(), bytes_needed(compiled)
  largest = sorted(costs, key=lambda cost: -cost.traffic)[:_LARGEST]
  return {
    "bytes_per_device": {
      "arguments": planned.argument_size_in_bytes,
      "temporaries": planned.temp_size_in_bytes,
      "needed": used,
      "there": chip.memory,
    },
    "fits": used <= chip.memory,
    "collectives": collectives,
    "traffic_bytes": traffic,
    "features_read": sum(cost.feature_bytes for cost in costs)
    / (features / mesh.shape["data"]),
    "product_flops": flops,
    "product_flops_over_useful": flops * mesh.size / useful,
    "seconds_by_products": by_products,
    "seconds_by_traffic": by_traffic,
    "predicted_seconds": predicted,
    "examples_per_second": size / predicted,
    "fraction_of_matmul_rate": floor / predicted,
    "fraction_if_traffic_overlaps": floor / max(by_products, by_traffic),
    "largest_traffic_bytes": {
      f"{cost.source or '(no source)'} {cost.name}": cost.traffic for cost in largest
    },
  }
