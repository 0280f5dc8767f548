"""All figures of one system's step, and the ``benchmark`` verb."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from zsljax.benchmark.ceilings import (
  Product,
  copy_call,
  square_product,
)
from zsljax.benchmark.compare import compare
from zsljax.benchmark.feeding import from_host, from_store
from zsljax.benchmark.shapes import PRESETS, Shapes
from zsljax.benchmark.step import Step, computed_with, make_step
from zsljax.benchmark.table import show
from zsljax.benchmark.timing import time_calls
from zsljax.devices.mesh import make_mesh
from zsljax.errors import ZsljaxError, did_you_mean, require
from zsljax.io.files import write_json
from zsljax.models import AttendsToRegions, Spec, System
from zsljax.training import (
  check_divides,
)

# Of a step's own products, how many of the largest are timed for the ceiling.
_OWN_PRODUCTS = 2
# How long steps run beside the input pipeline, in seconds; and how many at most.
_INPUT_SECONDS, _INPUT_STEPS = 1.0, 50


@dataclasses.dataclass(frozen=True)
class Variant:
  """How a step is computed: the benchmark's flags of the same names."""

  precision: str = "float32"
  attention: str = "xla"
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
  small: bool = False,
) -> dict[str, Any]:
  """All figures for one system, as JSON values; units are in their names.

  Args:
    system_name: as in a config.
    preset: one of ``PRESETS``.
    batch_size: the preset's when None.
    data_dir: where ``dataset`` lies; its shapes go before the preset's, and its
      streaming is timed.
    dataset: name of the stored set.
    features: of the stored set, where it has several.
    variant: of the step.
    seconds: how long the step and the ceilings are timed, in turns.
    small: take ceilings and input from small arrays, for tests.
  """
  if preset not in PRESETS:
    raise ZsljaxError(
      f"--preset: unknown shapes {preset!r}. {did_you_mean(preset, PRESETS)}"
    )
  shapes = PRESETS[preset]
  system = shapes.system(system_name)
  require(
    variant.attention == "xla" or isinstance(system, AttendsToRegions),
    "--attention",
    variant.attention,
    f"xla with {system_name}, which does not attend over regions",
  )
  batch_size = batch_size or shapes.batch_size
  if not data_dir:
    figures, step = measure(
      system, shapes, shapes.spec(), batch_size, variant, seconds, small=small
    )
    if variant.seeds == 1:
      number = _INPUT_SECONDS / figures["step_seconds"]["median"]
      number = int(min(max(number, 2), _INPUT_STEPS))
      figures["input"] = from_host(
        system, shapes.spec(), step, shapes.num_seen, number, small
      )
  else:
    stored, spec = _stored(system, data_dir, dataset, features)
    figures, step = measure(
      system, shapes, spec, batch_size, variant, seconds, stored, small
    )
    if variant.seeds == 1:
      figures["input"] = from_store(stored, batch_size, step)
  return {"system": system_name, "preset": None if data_dir else preset, **figures}


def measure(
  system: System,
  shapes: Shapes,
  spec: Spec,
  batch_size: int,
  variant: Variant,
  seconds: float,
  stored: Any = None,
  small: bool = False,
) -> tuple[dict[str, Any], Step]:
  """Figures of the step alone, beside the ceilings of the machine, and the step.

  Args:
    system: what is trained.
    shapes: its number of seen classes counts where nothing is ``stored``.
    spec: shapes of features and classes.
    batch_size: images in a step of one seed.
    variant: of the step.
    seconds: how long to time.
    stored: the dataset whose label widths and precision to take.
    small: take the ceilings from small arrays, for tests.
  """
  mesh = make_mesh(variant.data_devices, variant.model_devices)
  check_divides(batch_size, mesh, "--batch_size")
  dtype = jnp.dtype("bfloat16" if variant.precision == "bfloat16" else "float32")
  if stored:
    dtype = jax.dtypes.canonicalize_dtype(stored.storage_dtype)

  def built(seeds: int) -> Step:
    return make_step(
      system,
      spec,
      batch_size,
      dtype,
      None if stored else shapes.num_seen,
      stored.metadata["label_widths"] if stored else None,
      mesh,
      seeds,
    )

  with computed_with(variant.precision, variant.attention):
    step = built(variant.seeds)
    calls = {"step": step.call}
    if variant.seeds > 1:
      calls["one_seed"] = built(1).call
    products = [square_product(small), *largest(step.products)]
    product_dtype = jnp.bfloat16 if variant.precision == "bfloat16" else jnp.float32
    calls |= {str(product): product.call(product_dtype) for product in products}
  calls["copy"], copied = copy_call(small)
  timings = time_calls(calls, seconds)
  rates = {str(p): p.flops / timings[str(p)].median for p in products}
  # A CPU's devices are one machine.
  machines = 1 if jax.default_backend() == "cpu" else mesh.size
  ceiling = machines * max(rates.values())
  copy_rate = machines * copied / timings["copy"].median
  timing = timings["step"]
  images = variant.seeds * batch_size
  flops = variant.seeds * system.step_flops(spec, batch_size)
  figures = {
    "batch_size": batch_size,
    "feature_shape": list(spec.feature_shape),
    "feature_dtype": str(dtype),
    "num_attributes": spec.num_attributes,
    "num_classes": spec.num_classes,
    **dataclasses.asdict(variant),
    "device": jax.devices()[0].device_kind,
    "devices": mesh.size,
    "cpu_load_average": os.getloadavg()[0],
    "compile_seconds": step.compile_seconds,
    "bytes_per_device": step.bytes_per_device,
    "peak_bytes_since_start": _peak_bytes(),
    "step_seconds": dataclasses.asdict(timing),
    "examples_per_second": images / timing.median,
    "useful_flops_per_step": flops,
    "flops_per_second": flops / timing.median,
    "matmul_flops_per_second": ceiling,
    "matmul_flops_per_second_by_shape": rates,
    "fraction_of_matmul_rate": flops / timing.median / ceiling,
    "useful_bytes_per_step": step.least_bytes,
    "copy_bytes_per_second": copy_rate,
    "fraction_of_copy_rate": step.least_bytes / timing.median / copy_rate,
  }
  # The least time that arithmetic and memory leave, were they to overlap fully.
  figures["floor_seconds"] = max(flops / ceiling, step.least_bytes / copy_rate)
  if variant.seeds > 1:
    one = batch_size / timings["one_seed"].median
    figures["examples_per_second_of_one_seed"] = one
    figures["gain_of_seeds_together"] = figures["examples_per_second"] / one
  return figures, step


def largest(products: dict[Product, int]) -> list[Product]:
  """Those in which most of the arithmetic lies, the largest first."""
  return sorted(products, key=lambda p: products[p] * p.flops, reverse=True)[
    :_OWN_PRODUCTS
  ]


def _peak_bytes() -> int | None:
  """Of the first device's memory; a CPU does not say."""
  return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def _stored(system: System, data_dir: pathlib.Path, name: str, features: str | None):
  try:
    from zsljax.data.store import find
    from zsljax.runs.experiment import check_labels, spec_of

    stored = find(data_dir, name, features)
    check_labels(system, stored)
    return stored, spec_of(stored.feature_shape, stored.classes)
  except ImportError as error:
    raise ZsljaxError(
      f"--data_dir={data_dir}: {error}; reading a stored dataset needs TensorFlow "
      "and TFDS, leave --data_dir out to time random features from memory"
    ) from error


def main(args) -> None:
  """The ``benchmark`` verb."""
  if args.compare:
    print(compare(args.compare))
    return
  figures = run(
    args.system,
    args.preset,
    args.batch_size,
    args.data_dir,
    args.dataset,
    args.features,
    Variant(
      args.precision,
      args.attention,
      args.seeds,
      args.data_devices,
      args.model_devices,
    ),
  )
  print(show(figures))
  if args.json:
    write_json(args.json, figures)
