"""Throughput, against what the machine it runs on can do.

Needs neither data nor TensorFlow; with a stored dataset the input pipeline is
timed too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
import pathlib
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zsljax.classes import ClassSpace
from zsljax.errors import ZsljaxError, did_you_mean, in_bytes
from zsljax.models import Batch, Spec, System, build_system
from zsljax.reporting.files import write_json
from zsljax.sharding import make_mesh, over_batch, over_classes, replicated
from zsljax.training import init_state, make_train_step

_MATMUL_SIZE = 2048
_WARM_UP = 3
_NUM_EXAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Shapes:
  """Sizes of a published training set, and its usual batch.

  ``system_fields`` are what a system needs to be of these sizes.
  """

  feature_shape: tuple[int, ...]
  num_attributes: int
  num_classes: int
  num_seen: int
  batch_size: int
  system_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def spec(self) -> Spec:
    """With random word vectors of 300 numbers."""
    vectors = np.random.default_rng(0).standard_normal((self.num_attributes, 300))
    return Spec(
      self.feature_shape,
      self.num_attributes,
      self.num_classes,
      vectors.astype(np.float32),
    )


# CUB pooled, and with regions on a grid of 7 x 7 and of 14 x 14; NUS-WIDE and Open
# Images, whose images have several labels; a million learned prototypes, as in face
# recognition.
PRESETS = {
  "cub": Shapes((2048,), 312, 200, 150, 256),
  "cub7": Shapes((49, 2048), 312, 200, 150, 50),
  "cub14": Shapes((196, 2048), 312, 200, 150, 50),
  "nus": Shapes((2048,), 300, 1006, 925, 128),
  "openimages": Shapes((2048,), 300, 7586, 7186, 64),
  "classes1m": Shapes(
    (512,), 1, 10**6, 10**6, 256, {"preset": "embedding", "encoder": "none"}
  ),
}
# Labels of an image, on average, where it has several.
_LABELS = 5


@dataclasses.dataclass(frozen=True)
class Timing:
  """Seconds of repeated calls: median and quartiles."""

  median: float
  low: float
  high: float

  def __str__(self) -> str:
    return f"{1e3 * self.median:.3f} ms ({1e3 * self.low:.3f}-{1e3 * self.high:.3f})"


def time_calls(
  calls: Mapping[str, Callable[[], Any]], seconds: float = 4.0
) -> dict[str, Timing]:
  """Times calls (which return JAX arrays) in turns, after a warm-up.

  In turns, because the speed of a machine that others share changes with time: what
  is compared should have met the same moments.

  Args:
    calls: each run to its end each time.
    seconds: how long to measure; at least 5 rounds.
  """
  for call in calls.values():
    for _ in range(_WARM_UP):
      jax.block_until_ready(call())
  times: dict[str, list[float]] = {name: [] for name in calls}
  begin = time.perf_counter()
  while len(next(iter(times.values()))) < 5 or time.perf_counter() < begin + seconds:
    for name, call in calls.items():
      start = time.perf_counter()
      jax.block_until_ready(call())
      times[name].append(time.perf_counter() - start)
  quartiles = {name: statistics.quantiles(t, n=4) for name, t in times.items()}
  return {
    name: Timing(median, low, high) for name, (low, median, high) in quartiles.items()
  }


def matrix_product() -> tuple[Callable[[], Any], float]:
  """A large float32 matrix product on one device, and its operations."""
  a = jax.random.normal(jax.random.key(0), (_MATMUL_SIZE, _MATMUL_SIZE))
  product = jax.jit(jnp.matmul)
  return lambda: product(a, a), 2.0 * _MATMUL_SIZE**3


def random_labels(
  batch_size: int, num_seen: int, width: int | None = None
) -> np.ndarray:
  """Several labels for each image, 1 and a Poisson number, padded with -1.

  They are padded to ``width``, or to the most of them.
  """
  rng = np.random.default_rng(0)
  most = min(num_seen, width or num_seen)
  counts = np.minimum(1 + rng.poisson(_LABELS - 1, batch_size), most)
  labels = np.full((batch_size, width or counts.max()), -1)
  for row, count in zip(labels, counts, strict=True):
    row[:count] = rng.choice(num_seen, count, replace=False)
  return labels


def make_step(
  system: System,
  spec: Spec,
  batch_size: int,
  dtype: Any = jnp.float32,
  num_seen: int | None = None,
  label_widths: Mapping[str, int] | None = None,
  mesh: jax.sharding.Mesh | None = None,
) -> tuple[Callable, float, dict[str, int]]:
  """A training step on random features, with Adam.

  Args:
    system: what is trained.
    spec: shapes of features and classes.
    batch_size: images in a step.
    dtype: of the features.
    num_seen: of the classes; three quarters when None.
    label_widths: of a stored multi-label set's columns.
    mesh: the devices; one when None.

  Returns:
    A function that takes one step (on a batch, or on the random one) and returns its
    loss; the seconds of compilation; and the bytes of each device's memory that hold
    the ``arguments`` (state and batch, written over by the next state) and
    ``temporaries``, as the compiler plans them.
  """
  mesh = mesh or make_mesh(1)
  rng = np.random.default_rng(0)
  num_seen = num_seen or max(1, 3 * spec.num_classes // 4)
  classes = ClassSpace.create(
    [f"class {i}" for i in range(spec.num_classes)],
    rng.standard_normal((spec.num_classes, spec.num_attributes)),
    seen=np.arange(spec.num_classes) < num_seen,
  )
  classes = jax.device_put(classes, replicated(mesh))
  widths, absent = label_widths or {}, None
  if system.multi_label:
    labels = random_labels(batch_size, num_seen, widths.get("labels"))
  else:
    labels = rng.integers(num_seen, size=batch_size)
  if "absent" in widths:
    absent = jnp.asarray(random_labels(batch_size, num_seen, widths["absent"]))
  batch = Batch(
    features=jnp.asarray(rng.standard_normal((batch_size, *spec.feature_shape)), dtype),
    labels=jnp.asarray(labels),
    mask=jnp.ones(batch_size, bool),
    num_examples=_NUM_EXAMPLES,
    absent=absent,
  )
  optimizer = optax.with_extra_args_support(optax.adam(1e-4))
  batch = jax.device_put(batch, over_batch(mesh))
  initial = functools.partial(init_state, system, optimizer, spec, 0)
  layout = over_classes(jax.eval_shape(initial), system.class_params, mesh)
  state = jax.jit(initial, out_shardings=layout)()
  step = jax.jit(
    make_train_step(system, optimizer),
    donate_argnums=0,
    out_shardings=(layout, replicated(mesh)),
  )
  start = time.perf_counter()
  compiled = step.lower(state, batch, classes).compile()
  compile_time = time.perf_counter() - start
  planned = compiled.memory_analysis()
  memory = {
    "arguments": planned.argument_size_in_bytes,
    "temporaries": planned.temp_size_in_bytes,
  }

  def one_step(batch: Batch = batch):
    nonlocal state
    state, metrics = compiled(state, batch, classes)
    return metrics["loss"]

  return one_step, compile_time, memory


def input_rates(
  batches: Callable[[], Iterator[Batch]], one_step: Callable, number: int
) -> dict[str, float]:
  """Seconds for ``number`` batches: input alone, steps alone, both together.

  Args:
    batches: starts the input pipeline, batches on the device.
    one_step: from ``make_step``.
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
  preset: str = "cub",
  batch_size: int | None = None,
  data_dir: pathlib.Path | None = None,
  dataset: str = "awa1",
  features: str | None = None,
  model_devices: int = 1,
) -> dict[str, Any]:
  """All figures for one system, as JSON values."""
  if preset not in PRESETS:
    raise ZsljaxError(
      f"--preset: unknown shapes {preset!r}. {did_you_mean(preset, PRESETS)}"
    )
  shapes = PRESETS[preset]
  system = _built(system_name, shapes)
  stored, spec = None, None
  if data_dir:
    stored, spec = _stored(system, data_dir, dataset, features)
  batch_size = batch_size or shapes.batch_size
  spec = spec or shapes.spec()
  dtype = jax.dtypes.canonicalize_dtype(stored.storage_dtype if stored else jnp.float32)
  mesh = make_mesh(1, model_devices)
  one_step, compile_time, memory = make_step(
    system,
    spec,
    batch_size,
    dtype,
    None if stored else shapes.num_seen,
    stored.metadata["label_widths"] if stored else None,
    mesh,
  )
  product, product_flops = matrix_product()
  timings = time_calls({"step": one_step, "matmul": product})
  timing, ceiling = timings["step"], product_flops / timings["matmul"].median
  flops = system.step_flops(spec, batch_size)
  figures = {
    "system": system_name,
    "batch_size": batch_size,
    "feature_shape": list(spec.feature_shape),
    "feature_dtype": str(dtype),
    "num_attributes": spec.num_attributes,
    "num_classes": spec.num_classes,
    "device": jax.devices()[0].device_kind,
    "devices": mesh.size,
    "compile_seconds": compile_time,
    "bytes_per_device": memory,
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


def _built(name: str, shapes: Shapes) -> System:
  """A system as its authors' code has it, or as the paper where there is none."""
  if shapes.system_fields:
    return build_system({"name": name, **shapes.system_fields})
  if name == "cosine":
    return build_system({"name": name, "preset": "class_norm"})
  system = build_system({"name": name})
  if "official_code" in system.presets:
    return build_system({"name": name, "preset": "official_code"})
  return system


def _stored(system: System, data_dir: pathlib.Path, name: str, features: str | None):
  try:
    from zsljax.data.store import find
    from zsljax.experiment import check_labels, spec_of

    stored = find(data_dir, name, features)
    check_labels(system, stored)
    return stored, spec_of(stored.feature_shape, stored.classes)
  except ImportError as error:
    raise ZsljaxError(
      f"--data_dir={data_dir}: {error}; reading a stored dataset needs TensorFlow "
      "and TFDS, leave --data_dir out to time the step alone"
    ) from error


def _time_input(stored, batch_size: int, one_step: Callable) -> dict[str, Any]:
  from zsljax.data import TrainingData
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
  step, memory = Timing(**figures["step_seconds"]), figures["bytes_per_device"]
  shape = " x ".join(map(str, figures["feature_shape"]))
  lines = [
    f"{figures['system']}: batch {figures['batch_size']}, features {shape}, "
    f"{figures['num_attributes']} attributes, {figures['num_classes']} classes, "
    f"{figures['feature_dtype']}, {figures['devices']} device(s) "
    f"({figures['device']})",
    f"compile            {figures['compile_seconds']:.2f} s",
    f"memory             {in_bytes(memory['arguments'])} for state and batch, "
    f"{in_bytes(memory['temporaries'])} beside them, on each device",
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
      f"together           {rates['together_over_sum']:.2f} of the sum of both times "
      "(1: nothing overlaps)",
    ]
  else:
    lines.append("input              not timed (give --data_dir)")
  return "\n".join(lines)


def main(args) -> None:
  """The ``benchmark`` verb."""
  figures = run(
    args.system,
    args.preset,
    args.batch_size,
    args.data_dir,
    args.dataset,
    args.features,
    args.model_devices,
  )
  print(show(figures))
  if args.json:
    write_json(args.json, figures)
