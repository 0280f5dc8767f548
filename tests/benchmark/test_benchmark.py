import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from zsljax import benchmark
from zsljax.benchmark import PRESETS, Variant, useful_flops
from zsljax.benchmark.ceilings import Product, copy_call, flops_in, products_in
from zsljax.benchmark.step import make_step
from zsljax.devices.mesh import make_mesh
from zsljax.errors import ZsljaxError
from zsljax.models import Spec, build_system

pytestmark = pytest.mark.usefixtures("small_ceilings")


def figures_of(**variant):
  shapes = dataclasses.replace(
    PRESETS["cub"],
    feature_shape=(16,),
    num_attributes=6,
    num_classes=12,
    num_seen=9,
    batch_size=4,
  )
  system = shapes.system("semantic_softmax")
  return benchmark.measure(system, shapes, Variant(**variant), 0.0)


def test_flops_of_a_product():
  product = Product((7, 3, 4), (5, 4, 7), (((2,), (1,)), ((0,), (2,))))
  assert product.flops == 2 * 7 * 3 * 4 * 5
  assert product.call()().shape == (7, 3, 5)


def test_flops_of_a_convolution():
  images, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
  numbers = ("NHWC", "HWIO", "NHWC")

  def convolved(x):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", None, None, numbers)

  assert flops_in(convolved, images) == 2 * (2 * 8 * 8 * 5) * (3 * 3 * 3)


def test_products_are_found_within_loops_and_gradients():
  def f(a, b):
    return jax.lax.scan(lambda c, _: (jnp.tanh(c @ b), None), a, None, 3)[0].sum()

  found = products_in(jax.grad(f, (0, 1)), jnp.ones((2, 4)), jnp.ones((4, 4)))
  # Three times the product forward, and the gradients of both sides.
  assert sum(found.values()) == 3 * 3
  assert sum(n * p.flops for p, n in found.items()) == 3 * 3 * 2 * 2 * 4 * 4


def test_devices_share_the_work_of_sdl():
  shapes = dataclasses.replace(PRESETS["nus"], feature_shape=(64,), batch_size=256)
  spec, system = shapes.spec(), shapes.system("sdl")

  def of_a_device(devices):
    mesh = make_mesh(devices, 1)
    step = make_step(
      system, spec, 256, jnp.float32, shapes.num_seen, {"labels": 8}, mesh, 1
    )
    return [sum(getattr(c, name) for c in step.costs) for name in ("flops", "traffic")]

  (flops, traffic), (own_flops, own_traffic) = of_a_device(1), of_a_device(4)
  assert own_flops == pytest.approx(flops / 4, rel=0.05)
  # A quarter, and parameters and their moments, which are everywhere.
  assert own_traffic < 0.55 * traffic


# Products of one gradient by hand, for B = 8 images and C = 10 classes: forward, the
# gradient of each kernel, and of each activation that is no data.
CONVOLUTIONS = 64 * 9 * 32, 16 * 9 * 32 * 64, 4 * 64 * 16
BY_HAND = {
  "semantic softmax": (
    {"name": "semantic_softmax"},
    Spec((5,), 3, 10),
    2 * 10 * 3 * 5 + 2 * 8 * 10 * 5,
  ),
  "hidden layer": (
    {"name": "semantic_softmax", "hidden": (4,)},
    Spec((5,), 3, 10),
    2 * 10 * 3 * 4 + 3 * 8 * 10 * 4 + 2 * 8 * 5 * 4,
  ),
  "sdl": (
    {"name": "sdl", "rows": 7},
    Spec((5,), 6, 10),
    2 * 8 * 5 * 7 * 6 + 2 * 8 * 7 * 6 * 10,
  ),
  "convolutions": (
    {"name": "cosine", "preset": "embedding", "embedding_size": 16},
    Spec((64,), 4, 10),
    3 * (8 * sum(CONVOLUTIONS) + 8 * 10 * 16) - 8 * CONVOLUTIONS[0],
  ),
  "class normalization": (
    {"name": "cosine", "preset": "class_norm_official_code", "generator_hidden": 7},
    Spec((5,), 4, 10),
    3 * 10 * (4 * 7 + 7 * 7 + 7 * 5) - 10 * 4 * 7 + 2 * 8 * 10 * 5,
  ),
  "msdn": (
    {"name": "msdn", "preset": "official_code"},
    Spec((9, 5), 6, 10, jnp.ones((6, 4))),
    4 * (2 * 8 * 9 * 5 * 6 + 3 * 6 * 4 * 5) + 2 * 2 * 8 * 6 * 10,
  ),
  "attended autoencoder": (
    {"name": "attended_autoencoder", "preset": "dot_product"},
    Spec((9, 5), 6, 10),
    # Projections, read-outs and their constant, encoder, alignment, decoder.
    2 * 2 * 8 * 9 * 5 * 10
    + 2 * 10 * 6 * 5
    + 2 * 10 * 6
    + 2 * 10 * 6 * 5
    + 10 * 10 * (3 * 5 + 6)
    + 3 * 10 * 6 * 5,
  ),
}


@pytest.mark.parametrize(("config", "spec", "products"), BY_HAND.values(), ids=BY_HAND)
def test_useful_operations_are_those_counted_by_hand(config, spec, products):
  assert useful_flops(build_system(config), spec, 8) == 2 * products


def test_least_bytes_are_features_and_state_twice():
  figures, step = figures_of()
  # The map and Adam's two moments; three counters and a key.
  state = 3 * 6 * 16 * 4
  assert 2 * (4 * 16 * 4 + state) <= figures["useful_bytes_per_step"]
  assert figures["useful_bytes_per_step"] <= 2 * (4 * 16 * 4 + state + 32)
  time = figures["step_seconds"]["median"]
  of_products = figures["useful_flops_per_step"] / figures["matmul_flops_per_second"]
  assert figures["seconds_of_products_alone"] >= of_products
  assert figures["seconds_of_traffic_beside_products"] > 0
  rate = figures["useful_bytes_per_step"] / time
  assert figures["fraction_of_copy_rate"] == pytest.approx(
    rate / figures["copy_bytes_per_second"]
  )
  rates = figures["matmul_flops_per_second_by_shape"]
  assert figures["fraction_of_matmul_rate"] == pytest.approx(
    figures["flops_per_second"] / max(rates.values())
  )
  assert len(rates) == 5  # A square one, and the step's own.


def test_copying_touches_every_number_each_time():
  call, moved = copy_call()
  assert moved == 2 * call().nbytes
  assert (call() == 1).all() and (call() == -1).all()


def test_seeds_are_trained_together_on_batches_of_their_own():
  figures, step = figures_of(seeds=3)
  losses = step.call()
  assert losses.shape == (3,) and len(set(losses.tolist())) == 3
  assert step.batch.features.shape == (3, 4, 16)
  gain = figures["examples_per_second"] / figures["examples_per_second_of_one_seed"]
  assert figures["gain_of_seeds_together"] == pytest.approx(gain)
  row = {"system": "semantic_softmax", "preset": "cub", **figures}
  assert "| 4 | float32, 3 seeds |" in benchmark.table([row])


@pytest.mark.parametrize(
  ("variant", "message"),
  [
    ({"precision": "bfloat16"}, "--precision: found 'bfloat16', expected float32 here"),
    ({"seeds": 2, "model_devices": 2}, "--seeds: found 2, expected 1 with more than"),
  ],
)
def test_variants_that_cannot_be(variant, message):
  with pytest.raises(ZsljaxError, match=message):
    figures_of(**variant)


def test_two_files_side_by_side(tmp_path):
  files = [tmp_path / name for name in ("a.json", "b.json")]
  files[0].write_text(json.dumps({"step": {"median": 2.0}, "device": "x", "old": 1}))
  files[1].write_text(json.dumps({"step": {"median": 3.0}, "device": "y"}))
  lines = [line.split() for line in benchmark.compare(files).splitlines()]
  assert lines[1] == ["step.median", "2", "3", "1.500"]
  assert lines[2:] == [["device", "x", "y"], ["old", "1", "absent"]]
  (tmp_path / "c.json").write_text("[")
  for paths, message in (
    (["a.json"], "1 file"),
    (["a.json", "c.json"], "c.json: .*what --json wrote"),
    (["d.json", "a.json"], "d.json: .*what --json wrote"),
  ):
    with pytest.raises(ZsljaxError, match=message):
      benchmark.compare([tmp_path / path for path in paths])
