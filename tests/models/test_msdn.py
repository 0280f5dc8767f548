import dataclasses
import itertools
import os
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zsljax.classes import ClassSpace
from zsljax.models import Batch, Spec, build_system
from zsljax.training import (
  init_state,
  make_train_step,
)

PRESETS = ("paper", "official_code")
GOLDEN = pathlib.Path(os.environ.get("ZSLJAX_GOLDEN") or "absent").absolute()


def make(problem, preset="official_code", **fields):
  batch, classes, spec = problem
  system = build_system({"name": "msdn", "preset": preset} | fields)
  params = system.init(jax.random.key(0), spec)
  params = jax.tree.map(  # Some begin at zero.
    lambda p: (
      jnp.asarray(p, batch.features.dtype)
      + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape)
    ),
    params,
  )
  return system, params, batch, classes


def log_softmax(x):
  return x - x.max() - np.log(np.exp(x - x.max()).sum())


def unit(x):
  length = np.sqrt(np.sum(x * x))
  return x / length if length else x


def numpy_objective(system, params, batch, classes):
  """The published objective, image by image and region by region."""
  params = jax.device_get(params)
  vectors = params["attribute_vectors"]
  if system.normalize_vectors:
    vectors = np.array([unit(v) for v in vectors])
  to_visual, to_attribute = (
    params["attribute_to_visual"],
    params["visual_to_attribute"],
  )
  table = classes.embeddings
  if system.clip_descriptors:
    table = np.where(table < 0, 0, table)
  table = np.array([unit(z) for z in table])
  seen = np.asarray(classes.seen)
  bias = np.where(seen, -system.bias, system.bias)
  parts = dict.fromkeys(
    ("cross_entropy_1", "cross_entropy_2", "calibration_1", "calibration_2"), 0.0
  ) | {"distillation": 0.0}
  masses = ([], [])
  count = len(batch.labels)
  for image, label in zip(
    np.asarray(batch.features), np.asarray(batch.labels), strict=True
  ):
    image = np.array([unit(r) for r in image])
    attributes = np.zeros((2, len(vectors)))
    for k, v in enumerate(vectors):
      weights = np.exp(log_softmax(image @ (v @ to_visual["attention"])))
      attributes[0, k] = v @ to_visual["score"] @ (weights @ image)
    for region in image:
      share = np.exp(log_softmax(vectors @ to_attribute["attention"] @ region))
      scores = vectors @ to_attribute["score"] @ region
      if system.visual_to_attribute == "attended_score":
        attributes[1] += share * scores
      else:
        attended = share @ vectors
        scalar = attended @ to_attribute["score"] @ region
        attributes[1] += scalar * (vectors @ to_attribute["map"] @ region)
    both = [table @ a + bias for a in attributes]
    position = list(classes.ids).index(label)
    for net, scores in enumerate(both, start=1):
      plain = scores - bias
      if system.denominator == "seen":
        plain = np.where(seen, plain, -np.inf)
      parts[f"cross_entropy_{net}"] -= log_softmax(plain)[position] / count
      logs = log_softmax(scores)
      masses[net - 1].append(np.exp(logs[~seen]).sum())
      parts[f"calibration_{net}"] -= logs[~seen].sum() / count
    p, q = (np.exp(log_softmax(s)) for s in both)
    middle = (p + q) / 2
    divergence = (p @ np.log(p / middle) + q @ np.log(q / middle)) / 2
    if system.distance == "probabilities":
      distance = np.sum((p - q) ** 2)
    else:
      difference = both[0] - both[1]
      distance = np.sum(np.abs(difference) ** 3) / np.linalg.norm(difference)
    parts["distillation"] += (divergence + distance) / count
  if system.calibration == "batch_mass":
    for net in (1, 2):
      parts[f"calibration_{net}"] = -np.log(np.mean(masses[net - 1]))
  total = (
    parts["cross_entropy_1"]
    + parts["cross_entropy_2"]
    + system.weight_calibration * (parts["calibration_1"] + parts["calibration_2"])
    + system.weight_distillation * parts["distillation"]
  )
  return total, parts


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("as_on_awa2", [False, True])
def test_objective_equals_numpy(region_problem, preset, as_on_awa2, float64):
  system, params, batch, classes = make(
    region_problem(),
    preset,
    weight_distillation=0.7,
    normalize_vectors=as_on_awa2,
    clip_descriptors=as_on_awa2,
  )
  total, parts = system.loss(params, batch, classes, None)
  expected_total, expected = numpy_objective(system, params, batch, classes)
  assert parts.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(parts[name], value, rtol=1e-10, err_msg=name)
  np.testing.assert_allclose(total, expected_total, rtol=1e-10)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_without_unseen_classes_nothing_is_calibrated(region_problem, preset, weight):
  fields = {"weight_calibration": weight}
  system, params, batch, classes = make(region_problem(), preset, **fields)
  seen_alone = classes.subset(classes.seen)

  def loss(params):
    return system.loss(params, batch, seen_alone, None)

  (_, parts), gradient = jax.value_and_grad(loss, has_aux=True)(params)
  assert parts["calibration_1"] == parts["calibration_2"] == 0
  chex.assert_tree_all_finite(gradient)


def test_prediction_fuses_both_nets(region_problem, float64):
  system, params, batch, classes = make(region_problem(), fusion=0.7)
  first, second = system.net_scores(batch.features, system.prepare(params, classes))
  np.testing.assert_allclose(
    system.scores(params, batch.features, classes), 0.7 * first + 0.3 * second
  )
  # A prediction among other classes is a choice of columns.
  few = classes.subset([4, 1])
  np.testing.assert_allclose(
    system.scores(params, batch.features, few),
    system.scores(params, batch.features, classes)[:, jnp.array([4, 1])],
  )


@pytest.mark.parametrize("preset", PRESETS)
def test_zero_word_vector_and_zero_region_are_finite(region_problem, preset):
  batch, classes, spec = region_problem()
  vectors = classes.attribute_vectors.copy()
  vectors[2] = 0
  spec = dataclasses.replace(spec, attribute_vectors=vectors)
  batch = dataclasses.replace(batch, features=batch.features.at[0, 1].set(0))
  system = build_system({"name": "msdn", "preset": preset, "normalize_vectors": True})
  params = system.init(jax.random.key(0), spec)
  (value, _), gradient = jax.value_and_grad(
    lambda p: system.loss(p, batch, classes, None), has_aux=True
  )(params)
  assert np.isfinite(value)
  chex.assert_tree_all_finite(gradient)
  maps = system.region_attention(params, batch.features, classes)
  attention = maps["attribute_to_visual"].weights
  np.testing.assert_allclose(attention[:, 2], 1 / 5, rtol=1e-6)  # Sees nothing.


def test_attention_of_both_nets_is_that_of_a_loop(region_problem):
  system, params, batch, classes = make(region_problem())
  maps = system.region_attention(params, batch.features, classes)
  vectors = np.asarray(params["attribute_vectors"])
  for net, over in (("attribute_to_visual", 0), ("visual_to_attribute", 1)):
    queries = vectors @ np.asarray(params[net]["attention"])
    for image, weights in zip(batch.features, maps[net].weights, strict=True):
      affinities = np.array([[unit(f) @ q for q in queries] for f in image])
      expected = np.exp(np.apply_along_axis(log_softmax, over, affinities))
      np.testing.assert_allclose(weights, expected.T, rtol=1e-4)
  assert maps["attribute_to_visual"].uniform == 1 / 5
  assert maps["visual_to_attribute"].uniform == 1 / 4


def test_released_initializer_and_agreeing_nets_are_finite(region_problem):
  """With every map zero both nets agree; the released code's loss is NaN there."""
  system, params, batch, classes = make(region_problem())
  params = jax.tree.map(jnp.zeros_like, params)
  (value, parts), gradient = jax.value_and_grad(
    lambda p: system.loss(p, batch, classes, None), has_aux=True
  )(params)
  assert parts["distillation"] == 0 and np.isfinite(value)
  chex.assert_tree_all_finite(gradient)
  # ln C at scores of zero: the anchor that needs no data.
  np.testing.assert_allclose(parts["cross_entropy_1"], np.log(6), rtol=1e-6)


def test_released_initializer(region_problem):
  _, _, spec = region_problem(width=300, dim=50)
  params = build_system({"name": "msdn", "preset": "official_code"}).init(
    jax.random.key(0), spec
  )
  assert params["attribute_to_visual"]["score"].std() == pytest.approx(1, rel=0.05)
  assert not params["attribute_to_visual"]["attention"].any()
  assert not any(p.any() for p in params["visual_to_attribute"].values())
  np.testing.assert_allclose(
    jnp.linalg.norm(params["attribute_vectors"], axis=1), 1, rtol=1e-5
  )


def test_every_part_of_the_paper_preset_learns(region_problem):
  batch, classes, spec = region_problem()
  system = build_system({"name": "msdn", "preset": "paper"})
  gradient = jax.grad(lambda p: system.loss(p, batch, classes, None)[0])(
    system.init(jax.random.key(0), spec)
  )
  assert all(np.any(g) for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize("scale", [1e3, 1e4])
@pytest.mark.parametrize("preset", PRESETS)
def test_large_scores_are_finite(region_problem, preset, scale):
  system, params, batch, classes = make(region_problem(), preset)
  params = jax.tree.map(lambda p: p * scale**0.5, params)
  (value, _), gradient = jax.value_and_grad(
    lambda p: system.loss(p, batch, classes, None), has_aux=True
  )(params)
  assert np.isfinite(value)
  chex.assert_tree_all_finite(gradient)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("regions", [49, 196])
def test_compiled_step_never_makes_attended_features(preset, regions, optimizer):
  """CUB's training step has no [B, A, D] array, nor one of that size."""
  batch_size, attributes, dim, classes = 50, 312, 2048, 200
  vectors = np.ones((attributes, 300), np.float32)
  spec = Spec((regions, dim), attributes, classes, vectors)
  space = ClassSpace.create(
    [str(c) for c in range(classes)],
    np.ones((classes, attributes), np.float32),
    seen=np.arange(classes) < 150,
  )
  batch = Batch(
    jax.ShapeDtypeStruct((batch_size, regions, dim), jnp.float32),
    jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    jax.ShapeDtypeStruct((batch_size,), bool),
    7057,
  )
  system = build_system({"name": "msdn", "preset": preset})
  optimizer = optimizer(
    name="rmsprop", learning_rate=1e-4, weight_decay=1e-4, momentum=0.9
  )
  state = jax.eval_shape(lambda: init_state(system, optimizer, spec, 0))
  step = jax.jit(make_train_step(system, optimizer))
  compiled = step.lower(state, batch, space).compile()
  text = compiled.as_text()
  maps = 5 if preset == "paper" else 4
  assert f"[{batch_size},{regions},{maps * attributes}]" in text  # How shapes look.
  for shape in itertools.permutations((batch_size, attributes, dim)):
    assert "[{},{},{}]".format(*shape) not in text
  attended = 4 * batch_size * attributes * dim
  projections = 4 * batch_size * regions * 5 * attributes
  assert compiled.memory_analysis().temp_size_in_bytes < attended + projections


def relative_error(found, expected):
  return np.max(np.abs(np.asarray(found) - expected)) / np.max(np.abs(expected))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
  "path",
  sorted(GOLDEN.glob("msdn_*.npz")) or [pathlib.Path("msdn_*.npz")],
  ids=lambda p: p.name,
)
def test_golden(path, dtype, optimizer, float64):
  if not path.is_file():
    pytest.skip("ZSLJAX_GOLDEN names no folder with msdn_*.npz")
  with np.load(path) as file:
    golden = dict(file)
  tolerance = {np.float64: 1e-9, np.float32: 1e-5}[dtype]

  checked = set()

  def check(name, found):
    if name in golden:
      checked.add(name)
      assert relative_error(found, golden[name]) < tolerance, name

  count, dim, height, width = golden["x"].shape
  classes = ClassSpace.create(
    [str(c) for c in range(len(golden["att"]))],
    golden["att"].astype(dtype),
    seen=np.isin(np.arange(len(golden["att"])), golden["seen"]),
  )
  features = golden["x"].reshape(count, dim, height * width).transpose(0, 2, 1)
  batch = Batch(
    jnp.asarray(features.astype(dtype)),
    jnp.asarray(golden["y"]),
    jnp.ones(count, bool),
    count,
  )
  system = build_system(
    {
      "name": "msdn",
      "preset": "official_code",
      "weight_calibration": float(golden["lambda"]),
      "weight_distillation": float(golden["distill_weight"]),
      "normalize_vectors": bool(golden["normalize_V"]),
    }
  )

  def released(params):
    """Our parameters under the released code's names and layout."""
    return {
      "V": params["attribute_vectors"],
      "W_1": params["attribute_to_visual"]["score"],
      "W_2": params["attribute_to_visual"]["attention"],
      "W_1_1": params["visual_to_attribute"]["score"].T,
      "W_2_1": params["visual_to_attribute"]["attention"],
    }

  start = {
    name.removeprefix("init_"): jnp.asarray(value.astype(dtype))
    for name, value in golden.items()
    if name.startswith("init_")
  }
  params = {
    "attribute_vectors": start["V"],
    "attribute_to_visual": {"score": start["W_1"], "attention": start["W_2"]},
    "visual_to_attribute": {"score": start["W_1_1"].T, "attention": start["W_2_1"]},
  }
  first, second = system.net_scores(batch.features, system.prepare(params, classes))
  check("S_pp1", first)
  check("S_pp2", second)
  maps = system.region_attention(params, batch.features, classes)
  check("A1", maps["attribute_to_visual"].weights)

  optimizer = optimizer(
    name="rmsprop",
    learning_rate=float(golden["lr"]),
    weight_decay=float(golden["weight_decay"]),
    momentum=float(golden["momentum"]),
  )
  state = optimizer.init(params)
  for step in range(3):
    (value, parts), gradient = jax.value_and_grad(
      lambda p: system.loss(p, batch, classes, None), has_aux=True
    )(params)
    check(f"loss_step{step}", value)
    if step == 0:
      for net in (1, 2):
        check(f"ce{net}", parts[f"cross_entropy_{net}"])
        check(f"cal{net}", parts[f"calibration_{net}"])
      check("distill", parts["distillation"])
      for name, array in released(gradient).items():
        check(f"grad_{name}", array)
    updates, state = optimizer.update(gradient, state, params)
    params = optax.apply_updates(params, updates)
  for name, array in released(params).items():
    assert array.dtype == dtype
    check(f"after3_{name}", array)
  assert {"S_pp1", "S_pp2"} <= checked
  for kind in ("loss_step", "grad_", "after3_"):  # A test of nothing would pass.
    assert any(name.startswith(kind) for name in checked), kind
