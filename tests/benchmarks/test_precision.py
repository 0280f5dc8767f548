import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax.benchmark import PRESETS
from zsljax.benchmark.ceilings import equations, products_in
from zsljax.benchmark.shapes import random_classes, random_table, rows_of
from zsljax.configs import cosine
from zsljax.devices.precision import computed_in
from zsljax.evaluation import decisions_of
from zsljax.models import Batch
from zsljax.runs.experiment import Experiment
from zsljax.runs.judging import Judge
from zsljax.runs.vmapped import RunSettings, VmappedRuns
from zsljax.training import (
  init_state,
  make_train_step,
)

SYSTEMS = {
  "msdn": ("cub7", "rmsprop"),
  "attended_autoencoder": ("cub7", "adam"),
  "semantic_softmax": ("cub", "lbfgs"),
  "cosine": ("cub", "adam"),
}


@pytest.fixture
def precision(script):
  return script("precision")


def numpy_rounded(x, mantissa):
  """To nearest, of two as near the one whose last bit is 0, by the bits."""
  dropped = 23 - mantissa
  bits = np.asarray(x, np.float32).view(np.uint32)
  last = bits >> dropped & 1
  bits = bits + (2 ** (dropped - 1) - 1) + last
  return (bits >> dropped << dropped).view(np.float32)


@pytest.mark.parametrize("mantissa", [10, 7])
def test_a_product_is_that_of_operands_rounded_by_their_bits(precision, mantissa):
  rng = np.random.default_rng(0)
  left, right = rng.standard_normal((2, 300)).astype(np.float32)
  # Half-way between two neighbours, below an even and an odd one.
  left[:2] = 1 + np.array([1, 3]) / 2 ** (mantissa + 1)
  expected = np.outer(numpy_rounded(left, mantissa), numpy_rounded(right, mantissa))
  outer = precision.rounded(lambda a, b: a[:, None] @ b[None], mantissa)
  np.testing.assert_array_equal(outer(left, right), expected)
  assert numpy_rounded(left[:2], mantissa).tolist() == [1, 1 + 2 / 2**mantissa]
  # Numbers multiplied one by one are no matrix product.
  by_one = precision.rounded(lambda a, b: a[:, None] * b[None], mantissa)
  np.testing.assert_array_equal(by_one(left, right), np.outer(left, right))
  summed = precision.rounded(jnp.dot, mantissa)(left, right)
  assert summed == pytest.approx(np.trace(expected), abs=1e-4)
  assert abs(summed - left @ right) > 1e-4


def test_products_are_rounded_wherever_they_stand(precision):
  @jax.custom_vjp
  def own(x):
    return x @ x

  own.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x,))

  def f(x):
    def body(i, x):
      return jax.lax.cond(i > 0, lambda x: jnp.tanh(x @ x), lambda x: x, x)

    x = jax.lax.fori_loop(0, jnp.sum(x > 0), body, x)
    x, _ = jax.lax.scan(lambda c, _: (c @ c / 4, None), x, None, 2)
    x = jax.nn.relu(jax.jit(lambda x: x @ x)(x))
    return own(jax.vmap(jnp.dot, (0, None))(x, x))

  x = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
  traced = jax.make_jaxpr(precision.rounded(f, 7))(x)
  assert roundings(traced) == 2 * sum(products_in(f, x).values()) == 2 * 5
  np.testing.assert_array_equal(precision.rounded(f, 23)(x), jax.jit(f)(x))
  gradient = jax.make_jaxpr(precision.rounded(jax.grad(lambda x: own(x).sum()), 7))(x)
  assert roundings(gradient) == 2 * 2


def roundings(program):
  return sum(e.primitive.name == "reduce_precision" for e in equations(program.jaxpr))


def test_products_that_state_their_precision_are_left_alone(precision):
  exact = functools.partial(jnp.dot, precision=jax.lax.Precision.HIGHEST)
  x = np.float32([1 + 2**-20])
  assert precision.rounded(exact, 7)(x, x) == x * x
  assert precision.rounded(jnp.dot, 7)(x, x) == 1


def test_a_product_where_no_rounding_is_known(precision):
  again = jax.grad(jax.checkpoint(lambda x: jnp.sin(x @ x).sum()))
  with pytest.raises(NotImplementedError, match="matrix products within"):
    precision.rounded(again, 7)(jnp.ones((2, 2)))


@pytest.mark.parametrize(
  "name",
  [
    "msdn",
    "semantic_softmax",
    pytest.param("attended_autoencoder", marks=pytest.mark.slow),
    pytest.param("cosine", marks=pytest.mark.slow),
  ],
)
def test_a_whole_step_is_the_plain_one_but_for_its_products(precision, optimizer, name):
  preset, kind = SYSTEMS[name]
  shapes = dataclasses.replace(
    PRESETS[preset],
    feature_shape=(*(4 for _ in PRESETS[preset].feature_shape[1:]), 16),
    num_attributes=6,
    num_classes=10,
    num_seen=7,
  )
  system, spec = shapes.system(name), shapes.spec()
  table = random_table(system, spec, 8, shapes.num_seen, np.float32)
  batch = Batch(**rows_of(table, np.arange(8)), num_examples=8)
  classes = random_classes(spec, shapes.num_seen)
  update = optimizer(0 if kind == "lbfgs" else 8, name=kind)
  step = make_train_step(system, update)
  state = init_state(system, update, spec, 0)
  inputs = state, batch, classes

  with computed_in("float32"):
    plain = jax.jit(step)(*inputs)
  same = jax.jit(precision.rounded(step, 23))(*inputs)
  for a, b in itertools.zip_longest(jax.tree.leaves(plain), jax.tree.leaves(same)):
    assert (a == b).all()
  other = jax.eval_shape(precision.rounded(step, 7), *inputs)
  assert jax.tree.map(lambda x: x.dtype, other) == jax.tree.map(
    lambda x: x.dtype, plain
  )

  # L-BFGS has products of its own, in float32.
  gradient = jax.grad(lambda p: system.loss(p, batch, classes, state.rng)[0])
  counted = {
    "step": (step, inputs) if kind != "lbfgs" else (gradient, (state.params,)),
    "scores": (
      lambda params, batch: decisions_of(system, params, batch, classes),
      (state.params, batch),
    ),
  }
  for function, args in counted.values():
    rounded = jax.make_jaxpr(precision.rounded(function, 7))(*args)
    assert roundings(rounded) == 2 * sum(products_in(function, *args).values()) > 0


def test_settings_are_those_that_validation_chose(precision):
  found = precision.chosen(precision.DOCS / "results")
  assert found.keys() == set(precision.SYSTEMS)
  for rows in found.values():
    assert [row["seed"] for row in rows] == list(range(5))
    assert len({(row["step"], row["provenance"]["gamma"]) for row in rows}) == 1
    assert rows[0]["provenance"]["gamma_from"] == "highest mean H on val"


def test_means_and_paired_differences(precision):
  def row(name, t1):
    rest = dict.fromkeys(("u", "s", "h"), [1.0, 1.0])
    return {"system": "a", "precision": name, "t1": t1, **rest}

  exact, rounded = row("float32", [50.0, 60.0]), row("bfloat16", [51.0, 63.0])
  *_, first, second = precision.table([exact, rounded]).splitlines()
  assert first.startswith("| a | float32 | 55.0 (7.1) | 1.0 (0.0) |")
  assert second.startswith("| a | bfloat16 | 57.0 (8.5) | 1.0 (0.0) |")
  same = "+0.00 (0.00)"
  assert second.endswith(f"| +2.00 (1.41) | {same} | {same} | {same} |")


def test_the_page_shows_what_is_kept(precision):
  page = (precision.DOCS / "performance.md").read_text()
  kept = json.loads((precision.DOCS / "performance" / "precision.json").read_text())
  assert precision.table(kept["figures"]) in page


@pytest.mark.slow
def test_float32_is_what_runs_together_have(precision, stand_in, tmp_path):
  stand_in("scene15", tmp_path)
  config = cosine.get_config("scene15,normface")
  config.data.dir = str(tmp_path)
  config.batch_size = 16
  config.mesh.data = 1
  run = Experiment.build(config.to_dict())
  runs = VmappedRuns(run, [RunSettings(0), RunSettings(1)], 100)
  ((_, state),) = runs.states([20])
  expected = [j.calibrated(0.1) for j in runs.judgements(Judge.of(run, "test"), state)]
  rows = [
    {"seed": seed, "step": 20, "provenance": {"gamma": 0.1, "config": run.config}}
    for seed in range(2)
  ]
  figures = precision.measured(tmp_path, {"cosine normface": rows})
  assert [row["precision"] for row in figures] == list(precision.MANTISSA)
  for metric in precision.METRICS:
    assert figures[0][metric] == [of_seed[metric] for of_seed in expected]
