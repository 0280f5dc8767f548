"""Throughput, against what the machine it runs on can do.

Needs neither data nor TensorFlow; with a stored dataset the input pipeline is
timed too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
import pathlib
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zsljax.classes import ClassSpace
from zsljax.errors import ZsljaxError
from zsljax.models import Batch, Spec, System, build_system
from zsljax.reporting.files import write_json
from zsljax.training import init_state, make_train_step

_MATMUL_SIZE = 2048
_WARM_UP = 3
_NUM_EXAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Timing:
  """Seconds of repeated calls: median and quartiles."""

  median: float
  low: float
  high: float

  def __str__(self) -> str:
    return f"{1e3 * self.median:.3f} ms ({1e3 * self.low:.3f}-{1e3 * self.high:.3f})"


def time_calls(call: Callable[[], Any], seconds: float = 2.0) -> Timing:
  """Times ``call`` (which returns JAX arrays) after a warm-up.

  Args:
    call: run to its end each time.
    seconds: how long to measure; at least 5 calls.
  """
  for _ in range(_WARM_UP):
    jax.block_until_ready(call())
  times: list[float] = []
  while len(times) < 5 or sum(times) < seconds:
    start = time.perf_counter()
    jax.block_until_ready(call())
    times.append(time.perf_counter() - start)
  low, median, high = statistics.quantiles(times, n=4)
  return Timing(median, low, high)


def matmul_rate() -> float:
  """Operations per second of a large float32 matrix product on one device."""
  a = jax.random.normal(jax.random.key(0), (_MATMUL_SIZE, _MATMUL_SIZE))
  product = jax.jit(jnp.matmul)
  return 2 * _MATMUL_SIZE**3 / time_calls(lambda: product(a, a)).median


def benchmark_step(
  system: System, spec: Spec, batch_size: int, dtype: Any = jnp.float32
) -> tuple[Timing, float, Callable]:
  """Times one training step on random features, with Adam.

  Returns:
    The timing, the seconds of compilation, and a function that takes one step on
    a batch and returns its loss (for timing together with input).
  """
  rng = np.random.default_rng(0)
  classes = ClassSpace.create(
    [f"class {i}" for i in range(spec.num_classes)],
    rng.standard_normal((spec.num_classes, spec.num_attributes)),
  )
  classes = jax.device_put(classes)
  batch = Batch(
    features=jnp.asarray(rng.standard_normal((batch_size, *spec.feature_shape)), dtype),
    labels=jnp.asarray(rng.integers(spec.num_classes, size=batch_size)),
    mask=jnp.ones(batch_size, bool),
    num_examples=_NUM_EXAMPLES,
  )
  optimizer = optax.with_extra_args_support(optax.adam(1e-4))
  state = init_state(system, optimizer, spec, 0)
  step = jax.jit(make_train_step(system, optimizer), donate_argnums=0)
  start = time.perf_counter()
  compiled = step.lower(state, batch, classes).compile()
  compile_time = time.perf_counter() - start

  def one_step(batch: Batch = batch):
    nonlocal state
    state, metrics = compiled(state, batch, classes)
    return metrics["loss"]

  return time_calls(one_step), compile_time, one_step


def input_rates(
  batches: Callable[[], Iterator[Batch]], one_step: Callable, number: int
) -> dict[str, float]:
  """Seconds for ``number`` batches: input alone, steps alone, both together.

  Args:
    batches: starts the input pipeline, batches on the device.
    one_step: from ``benchmark_step``.
    number: of batches.
  """

  def consume(use: Callable[[Batch], Any]) -> float:
    stream = batches()
    jax.block_until_ready(use(next(stream)))
    start = time.perf_counter()
    for _ in range(number):
      last = use(next(stream))
    jax.block_until_ready(last)
    return time.perf_counter() - start

  first = next(batches())
  start = time.perf_counter()
  for _ in range(number):
    last = one_step(first)
  jax.block_until_ready(last)
  step_only = time.perf_counter() - start
  return {
    "input_seconds": consume(lambda batch: batch.features),
    "step_seconds": step_only,
    "together_seconds": consume(one_step),
  }


def run(
  system_name: str,
  batch_size: int,
  data_dir: pathlib.Path | None = None,
  dataset: str = "awa1",
  features: str | None = None,
) -> dict[str, Any]:
  """All figures for one system, as JSON values."""
  system = build_system({"name": system_name})
  stored = _stored(data_dir, dataset, features) if data_dir else None
  spec = (
    Spec(stored.feature_shape, stored.classes.embeddings.shape[1], len(stored.classes))
    if stored
    else Spec((2048,), 312, 200)
  )
  dtype = jax.dtypes.canonicalize_dtype(stored.storage_dtype if stored else jnp.float32)
  timing, compile_time, one_step = benchmark_step(system, spec, batch_size, dtype)
  ceiling = matmul_rate()
  flops = system.step_flops(spec, batch_size)
  figures = {
    "system": system_name,
    "batch_size": batch_size,
    "feature_shape": list(spec.feature_shape),
    "feature_dtype": str(dtype),
    "num_attributes": spec.num_attributes,
    "num_classes": spec.num_classes,
    "device": jax.devices()[0].device_kind,
    "compile_seconds": compile_time,
    "step_seconds": dataclasses.asdict(timing),
    "examples_per_second": batch_size / timing.median,
    "useful_flops_per_step": flops,
    "flops_per_second": flops / timing.median,
    "matmul_flops_per_second": ceiling,
    "fraction_of_matmul_rate": flops / timing.median / ceiling,
  }
  if stored:
    figures["input"] = _time_input(stored, batch_size, one_step)
  return figures


def _stored(data_dir: pathlib.Path, name: str, features: str | None):
  try:
    from zsljax.data.store import find

    return find(data_dir, name, features)
  except ImportError as error:
    raise ZsljaxError(
      f"--data_dir={data_dir}: {error}; reading a stored dataset needs TensorFlow "
      "and TFDS, leave --data_dir out to time the step alone"
    ) from error


def _time_input(stored, batch_size: int, one_step: Callable) -> dict[str, Any]:
  from zsljax.data import TrainingData
  from zsljax.sharding import make_mesh
  from zsljax.training import feed

  data = TrainingData(stored, "trainval", batch_size, seed=0, cache="none")
  mesh = make_mesh(1)

  def batches():
    return feed(data.batches(0), mesh, _NUM_EXAMPLES)

  number = 4 * data.steps_per_epoch
  rounds = [input_rates(batches, one_step, number) for _ in range(3)]
  seconds = {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
  rows = number * batch_size
  return {
    "rows": rows,
    **seconds,
    **{k.replace("seconds", "rows_per_second"): rows / v for k, v in seconds.items()},
    "together_over_sum": seconds["together_seconds"]
    / (seconds["input_seconds"] + seconds["step_seconds"]),
  }


def show(figures: dict[str, Any]) -> str:
  """The figures as lines for the terminal."""
  step = Timing(**figures["step_seconds"])
  shape = " x ".join(map(str, figures["feature_shape"]))
  lines = [
    f"{figures['system']}: batch {figures['batch_size']}, features {shape}, "
    f"{figures['num_attributes']} attributes, {figures['num_classes']} classes, "
    f"{figures['feature_dtype']}, one device ({figures['device']})",
    f"compile            {figures['compile_seconds']:.2f} s",
    f"step               {step}, median and quartiles",
    f"examples/s         {figures['examples_per_second']:,.0f}",
    f"useful GFLOP/s     {figures['flops_per_second'] / 1e9:.1f}",
    f"matrix product     {figures['matmul_flops_per_second'] / 1e9:.1f} GFLOP/s, "
    "measured here",
    f"fraction of it     {100 * figures['fraction_of_matmul_rate']:.1f} %",
  ]
  if "input" in figures:
    rates = figures["input"]
    lines += [
      f"streamed rows/s    input alone {rates['input_rows_per_second']:,.0f}, step "
      f"alone {rates['step_rows_per_second']:,.0f}, together "
      f"{rates['together_rows_per_second']:,.0f}",
      f"together           {rates['together_over_sum']:.2f} of the sum of both times",
    ]
  else:
    lines.append("input              not timed (give --data_dir)")
  return "\n".join(lines)


def main(args) -> None:
  """The ``benchmark`` verb."""
  figures = run(
    args.system, args.batch_size, args.data_dir, args.dataset, args.features
  )
  print(show(figures))
  if args.json:
    write_json(args.json, figures)
