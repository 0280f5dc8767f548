"""Figures of one system's training step, beside the ceilings of the machine."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from zsljax.benchmark.ceilings import copy_call, square_product
from zsljax.benchmark.feeding import from_host, from_store
from zsljax.benchmark.shapes import Shapes, shapes_of
from zsljax.benchmark.step import Step, make_step, useful_flops
from zsljax.benchmark.timing import time_calls
from zsljax.devices.mesh import make_mesh
from zsljax.devices.precision import computed_in, supported
from zsljax.errors import ZsljaxError, require
from zsljax.models import System
from zsljax.training import check_divides

# Number of a step's own products, the largest, that are timed alone.
_OWN_PRODUCTS = 6
# Duration of steps beside the input pipeline in seconds, and most steps.
_INPUT_SECONDS, _INPUT_STEPS = 1.0, 50


@dataclasses.dataclass(frozen=True)
class Variant:
  """Ways to compute a step, as in the command's options."""

  precision: str = "float32"
  seeds: int = 1
  data_devices: int = 1
  model_devices: int = 1


def run(
  system_name: str,
  preset: str = "cub",
  batch_size: int | None = None,
  data_dir: pathlib.Path | None = None,
  dataset: str = "awa1",
  features: str | None = None,
  variant: Variant = Variant(),
  seconds: float = 4.0,
) -> dict[str, Any]:
  """Measures all figures of one system, as JSON values with units in their names.

  Args:
    system_name: as in a config.
    preset: one of ``PRESETS``.
    batch_size: images in a step (of one seed); the preset's when None.
    data_dir: folder of ``dataset``, whose shapes replace the preset's and whose
      streaming is timed.
    dataset: name of the stored set.
    features: features of the stored set, where it has several.
    variant: ways to compute the step.
    seconds: time to spend on the step and the ceilings, in turns.
  """
  shapes = shapes_of(preset, batch_size)
  system = shapes.system(system_name)
  stored = _stored(system, data_dir, dataset, features) if data_dir else None
  figures, step = measure(system, shapes, variant, seconds, stored)
  if variant.seeds == 1 and stored:
    figures["input"] = from_store(stored, shapes.batch_size, step)
  elif variant.seeds == 1:
    number = _INPUT_SECONDS / figures["step_seconds"]["median"]
    number = int(min(max(number, 2), _INPUT_STEPS))
    figures["input"] = from_host(system, shapes.spec(), step, shapes.num_seen, number)
  return {"system": system_name, "preset": None if stored else preset, **figures}


def measure(
  system: System,
  shapes: Shapes,
  variant: Variant = Variant(),
  seconds: float = 4.0,
  stored: Any = None,
) -> tuple[dict[str, Any], Step]:
  """Measures the step alone, beside the ceilings of the machine.

  Arguments are those of ``run``; the shapes and types of a ``stored`` dataset replace
  all but the batch size.

  Returns:
    The figures, and the compiled step.

  Raises:
    ZsljaxError: the devices do not compute in this precision (another in its place
      would falsify the figures), or the batch does not split over them.
  """
  known, precision = supported(), variant.precision
  require(
    precision in known, "--precision", repr(precision), f"{' or '.join(known)} here"
  )
  mesh = make_mesh(variant.data_devices, variant.model_devices)
  check_divides(shapes.batch_size, mesh, "--batch_size")
  dtype = product_dtype = jnp.dtype(
    "bfloat16" if precision == "bfloat16" else "float32"
  )
  spec, num_seen, widths = shapes.spec(), shapes.num_seen, None
  if stored:
    from zsljax.runs.experiment import spec_of

    spec, num_seen = spec_of(stored.feature_shape, stored.classes), None
    dtype = jax.dtypes.canonicalize_dtype(stored.storage_dtype)
    widths = stored.metadata["label_widths"]

  def built(seeds: int) -> Step:
    return make_step(
      system, spec, shapes.batch_size, dtype, num_seen, widths, mesh, seeds
    )

  with computed_in(precision):
    step = built(variant.seeds)
    calls = {"step": step.call}
    if variant.seeds > 1:
      calls["one_seed"] = built(1).call
    weight = {p: count * p.flops for p, count in step.products.items()}
    largest = sorted(weight, key=weight.__getitem__, reverse=True)[:_OWN_PRODUCTS]
    products = [square_product(), *largest]
    calls |= {str(product): product.call(product_dtype) for product in products}
  calls["copy"], copied = copy_call()
  timings = time_calls(calls, seconds)
  rates = {str(p): p.flops / timings[str(p)]["median"] for p in products}
  # A CPU's devices are one machine.
  machines = 1 if jax.default_backend() == "cpu" else mesh.size
  ceiling = machines * max(rates.values())
  copy_rate = machines * copied / timings["copy"]["median"]
  timing = timings["step"]
  median, moved = timing["median"], step.figures["useful_bytes_per_step"]
  flops = variant.seeds * useful_flops(system, spec, shapes.batch_size, num_seen)
  figures = {
    "batch_size": shapes.batch_size,
    "feature_shape": list(spec.feature_shape),
    "feature_dtype": str(dtype),
    "num_attributes": spec.num_attributes,
    "num_classes": spec.num_classes,
    **dataclasses.asdict(variant),
    "device": jax.devices()[0].device_kind,
    "devices": mesh.size,
    "cpu_load_average": os.getloadavg()[0],
    **step.figures,
    # Of the first device; a CPU does not say.
    "peak_bytes_since_start": (jax.devices()[0].memory_stats() or {}).get(
      "peak_bytes_in_use"
    ),
    "step_seconds": timing,
    "examples_per_second": variant.seeds * shapes.batch_size / median,
    "useful_flops_per_step": flops,
    "flops_per_second": flops / median,
    "matmul_flops_per_second": ceiling,
    "matmul_flops_per_second_by_shape": rates,
    "fraction_of_matmul_rate": flops / median / ceiling,
    "copy_bytes_per_second": copy_rate,
    "fraction_of_copy_rate": moved / median / copy_rate,
    # The least time that arithmetic and memory leave, were they to overlap fully.
    "floor_seconds": max(flops / ceiling, moved / copy_rate),
  }
  if mesh.size == 1:
    alone = sum(step.products[p] * timings[str(p)]["median"] for p in largest)
    rest = sum(weight.values()) - sum(weight[p] for p in largest)
    written = sum(cost.traffic for cost in step.costs if not cost.flops)
    figures["seconds_of_products_alone"] = alone + rest / ceiling
    figures["seconds_of_traffic_beside_products"] = written / copy_rate
  if variant.seeds > 1:
    one = shapes.batch_size / timings["one_seed"]["median"]
    figures["examples_per_second_of_one_seed"] = one
    figures["gain_of_seeds_together"] = figures["examples_per_second"] / one
  return figures, step


def _stored(
  system: System, data_dir: pathlib.Path, name: str, features: str | None
) -> Any:
  """Finds a stored dataset and checks that the system takes its labels."""
  try:
    from zsljax.data.store import find
    from zsljax.runs.experiment import check_labels
  except ImportError as error:
    raise ZsljaxError(
      f"--data_dir={data_dir}: {error}; reading a stored dataset needs TensorFlow "
      "and TFDS, leave --data_dir out to time random features from memory"
    ) from error
  stored = find(data_dir, name, features)
  check_labels(system, stored)
  return stored
