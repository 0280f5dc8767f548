import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax import benchmark
from zsljax.benchmark import PRESETS, Variant
from zsljax.benchmark.ceilings import Product, copy_call, products_in
from zsljax.benchmark.run import largest
from zsljax.benchmark.shapes import random_classes, random_table, rows_of
from zsljax.errors import ZsljaxError
from zsljax.models import Batch


def small(preset, **fields):
  shapes = PRESETS[preset]
  usual = {
    "feature_shape": (*(5 for _ in shapes.feature_shape[1:]), 16),
    "num_attributes": 6,
    "num_classes": 12,
    "num_seen": 9,
    "batch_size": 4,
  }
  return dataclasses.replace(shapes, **(usual | fields))


def figures_of(system, preset, **variant):
  shapes = small(preset)
  return benchmark.measure(
    shapes.system(system),
    shapes,
    shapes.spec(),
    shapes.batch_size,
    Variant(**variant),
    0.0,
    small=True,
  )


def test_flops_of_a_product():
  product = Product((7, 3, 4), (5, 4, 7), (((2,), (1,)), ((0,), (2,))))
  assert product.flops == 2 * 7 * 3 * 4 * 5
  assert product.call()().shape == (7, 3, 5)


def test_products_are_found_within_loops_and_gradients():
  def f(a, b):
    return jax.lax.scan(lambda c, _: (jnp.tanh(c @ b), None), a, None, 3)[0].sum()

  found = products_in(jax.grad(f, (0, 1)), jnp.ones((2, 4)), jnp.ones((4, 4)))
  # Forward, and the gradients of both sides; the body counts once.
  assert sum(found.values()) == 3
  assert sum(n * p.flops for p, n in found.items()) == 3 * 2 * 2 * 4 * 4


@pytest.mark.parametrize(
  ("system", "preset", "relative"),
  [
    ("semantic_softmax", "cub", 0),
    ("msdn", "cub7", 0),
    ("sdl", "nus", 0),
    ("cosine", "cub", 0),
    # Products of a matrix and the bias are not counted.
    ("attended_autoencoder", "cub7", 0.01),
  ],
)
def test_analytic_operations_are_those_of_the_program(system, preset, relative):
  shapes = small(preset)
  system, spec = shapes.system(system), shapes.spec()
  table = random_table(system, spec, 4, shapes.num_seen, jnp.float32)
  batch = Batch(**rows_of(table, np.arange(4)), num_examples=10)
  classes, key = random_classes(spec, shapes.num_seen), jax.random.key(0)
  params = jax.eval_shape(lambda: system.init(key, spec))
  gradient = jax.grad(lambda p: system.loss(p, batch, classes, key)[0])
  counted = sum(n * p.flops for p, n in products_in(gradient, params).items())
  assert system.step_flops(spec, 4) == pytest.approx(counted, rel=relative)


def test_least_bytes_are_features_and_state_twice():
  figures, step = figures_of("semantic_softmax", "cub")
  # The map and Adam's two moments; three counters and a key.
  state = 3 * 6 * 16 * 4
  assert 2 * (4 * 16 * 4 + state) <= figures["useful_bytes_per_step"]
  assert figures["useful_bytes_per_step"] <= 2 * (4 * 16 * 4 + state + 32)
  time = figures["step_seconds"]["median"]
  rate = figures["useful_bytes_per_step"] / time
  assert figures["fraction_of_copy_rate"] == pytest.approx(
    rate / figures["copy_bytes_per_second"]
  )
  best = max(figures["matmul_flops_per_second_by_shape"].values())
  assert figures["fraction_of_matmul_rate"] == pytest.approx(
    figures["flops_per_second"] / best
  )
  assert set(map(str, largest(step.products))) < set(
    figures["matmul_flops_per_second_by_shape"]
  )


def test_copying_touches_every_number_each_time():
  call, moved = copy_call(small=True)
  assert moved == 2 * call().nbytes
  assert (call() == 1).all() and (call() == -1).all()


def test_seeds_are_trained_together_on_batches_of_their_own():
  figures, step = figures_of("semantic_softmax", "cub", seeds=3)
  losses = step.call()
  assert losses.shape == (3,) and len(set(losses.tolist())) == 3
  assert step.batch.features.shape == (3, 4, 16)
  gain = figures["examples_per_second"] / figures["examples_per_second_of_one_seed"]
  assert figures["gain_of_seeds_together"] == pytest.approx(gain)
  assert "| 4 | float32, 3 seeds |" in benchmark.table(
    [{"system": "semantic_softmax", "preset": "cub", **figures}]
  )


def test_a_step_with_the_kernel_has_the_same_loss():
  (_, plain), (figures, kernel) = (
    figures_of("msdn", "cub7", attention=form) for form in ("xla", "pallas")
  )
  assert figures["attention"] == "pallas"
  # Both have taken the same number of steps.
  assert kernel.call().item() == pytest.approx(plain.call().item(), rel=1e-5)


@pytest.mark.parametrize(
  ("variant", "message"),
  [
    ({"precision": "bfloat16"}, "--precision: found 'bfloat16', expected float32 here"),
    ({"attention": "pallas"}, "which does not attend over regions"),
    ({"seeds": 2, "model_devices": 2}, "--seeds: found 2, expected 1 with more than"),
  ],
)
def test_variants_that_cannot_be(variant, message):
  with pytest.raises(ZsljaxError, match=message):
    benchmark.run("semantic_softmax", variant=Variant(**variant), small=True)


def test_two_files_side_by_side(tmp_path):
  files = [tmp_path / name for name in ("a.json", "b.json")]
  files[0].write_text(json.dumps({"step": {"median": 2.0}, "device": "x", "old": 1}))
  files[1].write_text(json.dumps({"step": {"median": 3.0}, "device": "y"}))
  lines = benchmark.compare(files).splitlines()
  assert lines[1].split() == ["step.median", "2", "3", "1.500"]
  assert lines[2].split() == ["device", "x", "y"]
  assert lines[3] == "only in a.json: old"


def test_comparing_what_cannot_be_compared(tmp_path):
  (tmp_path / "a.json").write_text("[")
  for paths, message in (
    (["a.json"], "1 file"),
    (["a.json", "a.json"], "a.json: found no JSON object"),
    (["b.json", "a.json"], "b.json: No such file"),
  ):
    with pytest.raises(ZsljaxError, match=message):
      benchmark.compare([tmp_path / path for path in paths])
