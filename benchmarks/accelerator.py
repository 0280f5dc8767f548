"""Every figure that needs a GPU or TPU, in one run of less than 8 minutes.

  python benchmarks/accelerator.py --out=OUT
  python benchmarks/accelerator.py --out=OUT --tiny     # to its end on any CPU

Needs neither data nor TensorFlow. Each part writes OUT/<part>.json again after every
row, so that a run that is cut short loses nothing but the row it was at; a row that
fails is written with its error, and the rest goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
import dataclasses
import pathlib
import time
import traceback
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zsljax import training
from zsljax.benchmark import PRESETS, Shapes, Variant, measure, table
from zsljax.benchmark.ceilings import Product, square_product
from zsljax.benchmark.shapes import NUM_EXAMPLES, random_classes
from zsljax.benchmark.step import computed_with
from zsljax.benchmark.timing import time_calls
from zsljax.devices.precision import supported
from zsljax.io.files import write_json
from zsljax.models import Batch

Row = dict[str, Any]
# After so many seconds no further row is begun.
_BUDGET = 440.0


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What is timed.

  Attributes:
    shapes: by the name of their preset.
    large_batch: of MSDN, beside its usual one.
    seeds: trained as one program.
    train_images: of the CUB recipe.
    test_images: of the CUB recipe, scored in ``test_batches`` equal batches.
    test_batches: in each evaluation.
    evaluations: of the CUB recipe.
    seconds: for the timing of a row.
    small: take the ceilings from small arrays.
  """

  shapes: dict[str, Shapes]
  large_batch: int = 512
  seeds: int = 8
  train_images: int = 7057
  test_images: int = 4731
  test_batches: int = 83
  evaluations: int = 30
  seconds: float = 2.0
  small: bool = False


def tiny() -> Sizes:
  """For a CPU: a few classes, regions and steps."""
  shapes = {
    name: dataclasses.replace(
      preset,
      feature_shape=(*(9 for _ in preset.feature_shape[1:]), 16),
      num_attributes=min(preset.num_attributes, 6),
      num_classes=12,
      num_seen=9,
      batch_size=4,
    )
    for name, preset in PRESETS.items()
  }
  return Sizes(shapes, 6, 2, 20, 12, 3, 2, 0.0, True)


def bfloat16_rate(sizes: Sizes) -> float:
  """The rate of bfloat16 matrix products, best of a square one and of MSDN's own."""
  shapes = sizes.shapes["cub14"]
  regions, width = shapes.feature_shape
  rows, maps = sizes.large_batch * regions, 4 * shapes.num_attributes
  over_width = (((1,), (1,)), ((), ()))
  over_rows = (((0,), (0,)), ((), ()))
  products = [
    square_product(sizes.small),
    Product((rows, width), (maps, width), over_width),
    Product((rows, maps), (rows, width), over_rows),
  ]
  calls = {str(product): product.call(jnp.bfloat16) for product in products}
  timings = time_calls(calls, sizes.seconds)
  return max(p.flops / timings[str(p)].median for p in products)


def steps(
  sizes: Sizes, *cases: tuple[str, str, int | None, Variant]
) -> Iterator[Callable[[], Row]]:
  """Figures of one training step for each system, preset, batch size and variant."""
  for system, preset, batch_size, variant in cases:
    shapes = sizes.shapes[preset]

    def row(system=system, preset=preset, shapes=shapes, size=batch_size, v=variant):
      figures, _ = measure(
        shapes.system(system),
        shapes,
        shapes.spec(),
        size or shapes.batch_size,
        v,
        sizes.seconds,
        small=sizes.small,
      )
      return {"system": system, "preset": preset, **figures}

    yield row


def msdn(sizes: Sizes) -> Iterator[Callable[[], Row]]:
  """MSDN at 14 x 14 in every precision, against the bfloat16 matrix rate."""
  best = bfloat16_rate(sizes)
  for size in (None, sizes.large_batch):
    for precision in supported():
      for row in steps(sizes, ("msdn", "cub14", size, Variant(precision))):
        yield lambda row=row: _against(best, row())


def _against(rate: float, row: Row) -> Row:
  of_rate = row["flops_per_second"] / rate
  return row | {
    "bfloat16_matmul_flops_per_second": rate,
    "fraction_of_bfloat16_matmul_rate": of_rate,
  }


def recipe(sizes: Sizes) -> Iterator[Callable[[], Row]]:
  """The released CUB recipe whole, one program, on random features of its size."""
  for precision in supported():
    yield lambda precision=precision: whole_recipe(sizes, precision)


def whole_recipe(sizes: Sizes, precision: str) -> Row:
  """Trains and evaluates as the released script, features on the device.

  The steps of 30 epochs (4,234 of 50 images drawn independently), with an evaluation of
  all test images after each epoch, as nested ``lax.scan``.
  """
  shapes, dtype = sizes.shapes["cub14"], jnp.float32
  if precision == "bfloat16":
    dtype = jnp.bfloat16
  spec, size = shapes.spec(), shapes.batch_size
  system, classes = shapes.system("msdn"), random_classes(spec, shapes.num_seen)
  total = sizes.train_images * sizes.evaluations // size
  each = total // sizes.evaluations
  optimizer = training.make_optimizer(
    {
      "name": "rmsprop", "learning_rate": 1e-4, "weight_decay": 1e-4, "momentum": 0.9,
      "schedule": "constant", "clip_norm": None,
    },
    size,
    total,
  )  # fmt: skip
  rng = np.random.default_rng(0)
  table = {
    "features": _random_images(0, sizes.train_images, spec.feature_shape, dtype),
    "labels": jnp.asarray(rng.integers(shapes.num_seen, size=sizes.train_images)),
  }
  test = _random_images(1, sizes.test_images, spec.feature_shape, dtype)
  test = test.reshape(sizes.test_batches, -1, *spec.feature_shape)
  test_labels = jnp.asarray(rng.integers(shapes.num_classes, size=test.shape[:2]))
  rows = jnp.asarray(rng.integers(sizes.train_images, size=(total, size)))
  train_step = training.make_train_step(system, optimizer)

  def run(state, rows, table, test, test_labels, classes):
    def step(state, rows):
      batch: Batch = training.rows_of_table(table, rows, NUM_EXAMPLES)
      state, metrics = train_step(state, batch, classes)
      return state, metrics["loss"]

    def epoch(state, rows):
      state, losses = jax.lax.scan(step, state, rows)

      def right(batch):
        features, labels = batch
        scores = system.scores(state.params, features.astype(jnp.float32), classes)
        return jnp.sum(jnp.argmax(scores, 1) == labels)

      return state, (losses[-1], jax.lax.map(right, (test, test_labels)).sum())

    epochs = rows[: each * sizes.evaluations].reshape(sizes.evaluations, each, size)
    state, (losses, right) = jax.lax.scan(epoch, state, epochs)
    state, _ = jax.lax.scan(step, state, rows[each * sizes.evaluations :])
    return state, losses, right

  with computed_with(precision):
    state = jax.jit(lambda: training.init_state(system, optimizer, spec, 0))()
    inputs = (state, rows, table, test, test_labels, classes)
    start = time.perf_counter()
    compiled = jax.jit(run, donate_argnums=0).lower(*inputs).compile()
    compile_seconds = time.perf_counter() - start
  start = time.perf_counter()
  _, losses, right = jax.block_until_ready(compiled(*inputs))
  seconds = time.perf_counter() - start
  regions, width = spec.feature_shape
  # Scores take the forward half of the regions' products.
  scoring = 2.0 * sizes.test_images * regions * width * 4 * spec.num_attributes
  flops = total * system.step_flops(spec, size) + sizes.evaluations * scoring
  return {
    "system": "msdn",
    "preset": "cub14",
    "precision": precision,
    "device": jax.devices()[0].device_kind,
    "steps": total,
    "evaluations": sizes.evaluations,
    "feature_bytes_on_device": table["features"].nbytes + test.nbytes,
    "compile_seconds": compile_seconds,
    "seconds_after_compilation": seconds,
    "useful_flops": flops,
    "flops_per_second": flops / seconds,
    "first_and_last_loss": [float(losses[0]), float(losses[-1])],
    "test_images_right_at_last": int(right[-1]),
  }


def _random_images(seed: int, count: int, shape: tuple, dtype: Any) -> jax.Array:
  """Made on the device, an image at a time, so that nothing larger is needed."""
  keys = jax.random.split(jax.random.key(seed), count)
  return jax.jit(
    lambda keys: jax.lax.map(lambda key: jax.random.normal(key, shape, dtype), keys)
  )(keys)


def systems(sizes: Sizes) -> Iterator[Callable[[], Row]]:
  """The other systems beside their floors, in the slowest and fastest precision."""
  cases = (
    ("semantic_softmax", "cub"),
    ("attended_autoencoder", "cub14"),
    ("sdl", "nus"),
    ("sdl", "openimages"),
    ("cosine", "classes1m"),
  )
  for precision in dict.fromkeys((supported()[0], supported()[-1])):
    for system, preset in cases:
      yield from steps(sizes, (system, preset, None, Variant(precision)))


def attention(sizes: Sizes) -> Iterator[Callable[[], Row]]:
  """Steps with attention as XLA makes it and with the Pallas kernel."""
  for precision in dict.fromkeys((supported()[0], supported()[-1])):
    for system, preset in (("msdn", "cub14"), ("attended_autoencoder", "cub14")):
      for form in ("xla", "pallas"):
        variant = Variant(precision, attention=form)
        yield from steps(sizes, (system, preset, None, variant))


def seeds(sizes: Sizes) -> Iterator[Callable[[], Row]]:
  """Runs that differ in their seed, trained as one program."""
  variant = Variant(seeds=sizes.seeds)
  return steps(
    sizes,
    ("semantic_softmax", "cub", None, variant),
    ("cosine", "cub", None, variant),
    ("msdn", "cub7", None, variant),
  )


PARTS = {
  "msdn": msdn,
  "recipe": recipe,
  "systems": systems,
  "attention": attention,
  "seeds": seeds,
}


def main(argv: list[str] | None = None) -> None:
  """Runs the parts."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR")
  parser.add_argument("--tiny", action="store_true", help="sizes for a CPU")
  parser.add_argument(
    "--parts",
    type=lambda text: text.split(","),
    default=list(PARTS),
    help=f"of {','.join(PARTS)} (default: all)",
  )
  args = parser.parse_args(argv)
  sizes = tiny() if args.tiny else Sizes(PRESETS)
  args.out.mkdir(parents=True, exist_ok=True)
  start = time.perf_counter()
  for part in args.parts:
    rows: list[Row] = []
    for row in PARTS[part](sizes):
      if time.perf_counter() - start > _BUDGET:
        rows.append({"error": f"not begun: {_BUDGET:.0f} s had passed"})
      else:
        try:
          rows.append(row())
        except Exception:  # What comes after may still be measured.
          rows.append({"error": traceback.format_exc()})
      write_json(args.out / f"{part}.json", {"rows": rows})
      print(f"{part}: {_summary(rows[-1])}", flush=True)
    done = [row for row in rows if "step_seconds" in row]
    if done:
      print(f"\n{table(done)}\n", flush=True)


def _summary(row: Row) -> str:
  if "error" in row:
    return row["error"]
  what = f"{row['system']} {row['preset']} {row['precision']}"
  if "steps" in row:
    return f"{what}: {row['steps']} steps in {row['seconds_after_compilation']:.2f} s"
  return f"{what} {row['attention']}: {1e3 * row['step_seconds']['median']:.3f} ms"


if __name__ == "__main__":
  main()
