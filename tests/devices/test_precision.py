import importlib
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zsljax
from zsljax.benchmark import PRESETS
from zsljax.benchmark.ceilings import equations
from zsljax.benchmark.shapes import random_classes, random_table, rows_of
from zsljax.configs import semantic_softmax
from zsljax.devices.precision import PRECISIONS, computed_in, nearest, note, supported
from zsljax.errors import ZsljaxError
from zsljax.models import Batch, build_system
from zsljax.training import (
  init_state,
  make_train_step,
)

train = importlib.import_module("zsljax.runs.train").train
evaluate = importlib.import_module("zsljax.runs.evaluate").evaluate


@pytest.fixture
def devices(monkeypatch):
  """Pretends that the devices are a ``gpu`` or ``tpu``, until something is run."""
  return lambda backend: monkeypatch.setattr(jax, "default_backend", lambda: backend)


@pytest.mark.parametrize(
  ("backend", "found"),
  [
    ("cpu", ["float32", "float32", "float32"]),
    ("tpu", ["float32", "float32", "bfloat16"]),
    ("gpu", ["float32", "tensorfloat32", "bfloat16"]),
  ],
)
def test_the_next_more_exact_precision_is_taken(devices, backend, found):
  devices(backend)
  assert [nearest(precision) for precision in PRECISIONS] == found
  assert set(supported()) == set(found)
  for precision, other in zip(PRECISIONS, found, strict=True):
    text = f"products in {other}: this {backend} has no {precision} ones"
    assert note(precision) == ("" if other == precision else text)


def test_unknown_precision_is_named(tmp_path):
  config = semantic_softmax.get_config("digits")
  config.matmul_precision = "bfloat"
  with pytest.raises(ZsljaxError, match="config.matmul_precision.*'bfloat'.*bfloat16'"):
    train(config.to_dict(), tmp_path / "w")
  assert not (tmp_path / "w").exists()
  with pytest.raises(ZsljaxError, match="Known: bfloat16, float32, tensorfloat32"):
    nearest("highest")


@pytest.mark.parametrize(
  ("name", "preset", "kept"),
  [("msdn", "cub7", 2), ("attended_autoencoder", "cub7", 2), ("sdl", "nus", 0)],
)
def test_products_alone_are_not_float32(devices, optimizer, name, preset, kept):
  """``kept`` products, of regions, stay bfloat16: moved and converted, no more."""
  devices("gpu")
  shapes = PRESETS[preset]
  system, spec = shapes.system(name), shapes.spec()
  table = random_table(system, spec, 4, shapes.num_seen, np.float32)
  batch = Batch(**rows_of(table, np.arange(4)), num_examples=10)
  classes = random_classes(spec, shapes.num_seen)
  step = make_train_step(system, optimizer())
  state = jax.eval_shape(lambda: init_state(system, optimizer(), spec, 0))
  with computed_in("bfloat16"):
    lowered = jax.jit(step).trace(state, batch, classes)
    text = lowered.lower(lowering_platforms=("cuda",)).as_text()
  rounded = [line for line in text.splitlines() if "xbf16" in line]
  moved = "convert|dot_general|reshape|slice|concatenate|transpose|call|func|return"
  assert all(re.search(moved, line) for line in rounded)
  assert bool(rounded) == bool(kept)
  algorithm = "lhs_precision_type = bf16, rhs_precision_type = bf16, accumulation_type"
  assert text.count(f"{algorithm} = f32") == text.count(algorithm) > 3
  assert text.count("stablehlo.dot_general") == text.count(algorithm) + kept


def test_equations_are_solved_in_float32(devices, class_space):
  devices("gpu")
  system, classes = build_system({"name": "eszsl", "preset": "paper"}), class_space()
  params = {"map": jnp.zeros((3, 4))}
  labels = jnp.asarray(classes.ids)[jnp.array([0, 1, 2, 3, 0])]
  batch = Batch(
    features=jnp.ones((5, 3)), labels=labels, mask=jnp.ones(5, bool), num_examples=5
  )
  with computed_in("bfloat16"):
    program = jax.make_jaxpr(system.warm_start)(params, batch, classes, None)
    scores = jax.make_jaxpr(system.scores)(params, batch.features, classes)
  asked, exact = jax.lax.DotAlgorithmPreset.BF16_BF16_F32, jax.lax.Precision.HIGHEST
  assert precisions_in(program) == {(exact, exact)}
  assert precisions_in(scores) == {asked}


def precisions_in(program):
  return {
    equation.params["precision"]
    for equation, _ in equations(program.jaxpr)
    if equation.primitive.name == "dot_general"
  }


@pytest.mark.slow
def test_a_run_says_what_was_asked_for_and_what_was_computed(tmp_path, capsys):
  config = semantic_softmax.get_config("digits")
  config.data.dir = str(tmp_path / "data")
  config.epochs = 2
  config.matmul_precision = "bfloat16"
  config.mesh.data = 1
  config = config.to_dict()
  train(config, tmp_path / "w")
  first = " ".join(capsys.readouterr().out.split())
  assert first.endswith("1 cpu device(s); products in float32: this cpu has no bfloat16"
                        " ones")  # fmt: skip
  (row,) = evaluate(tmp_path / "w")
  assert row["provenance"]["config"]["matmul_precision"] == "bfloat16"
  expected = {"training": "float32", "scoring": "float32"}
  assert row["provenance"]["products"] == expected

  # As if it had been trained on a GPU.
  path = tmp_path / "w" / "manifest.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | {"products": "bfloat16"}))
  (row,) = evaluate(tmp_path / "w")
  assert row["provenance"]["products"] == expected | {"training": "bfloat16"}
  features = np.zeros((1, 64), np.float32)
  assert zsljax.load(tmp_path / "w").predict(features).classes[0]
  with pytest.warns(UserWarning, match="products bfloat16 -> float32"):
    train(config, tmp_path / "w")
