import functools
import re

import chex
from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax.classes import ClassSpace
from zsljax.devices.mesh import make_mesh, over_batch, over_classes, replicated
from zsljax.errors import ZsljaxError
from zsljax.losses import FAMILY
from zsljax.models import CLOSED_SET, Batch, CosineClassifier, Spec, build_system
from zsljax.models.cosine import class_standardise, sample_classes
from zsljax.training import (
  init_state,
  make_train_step,
)

SPEC = Spec((9,), 4, 12)
CLASS_NORM = "class_norm_official_code"
PRESETS = ("embedding", "zero_shot", CLASS_NORM)


def classes(seed=0):
  """Four seen and two unseen classes of a set with twelve ids."""
  rng = np.random.default_rng(seed)
  seen = [True, True, False, True, False, True]
  return ClassSpace.create(
    "abcdef", rng.standard_normal((6, 4)), seen, [7, 1, 9, 3, 0, 2]
  )


def batch_of(space, images=8, seed=0):
  rng = np.random.default_rng(seed)
  return Batch(
    features=jnp.asarray(rng.standard_normal((images, 9))),
    labels=jnp.asarray(rng.choice(space.ids[space.seen], images)),
    mask=jnp.ones(images, bool),
    num_examples=images,
  )


def make(preset="zero_shot", spec=SPEC, **fields):
  fields = {"hidden": (6,), "embedding_size": 5, "generator_hidden": 7} | fields
  system = build_system({"name": "cosine", "preset": preset} | fields)
  params = system.init(jax.random.key(0), spec)
  return system, jax.tree.map(lambda p: jnp.asarray(p, jnp.result_type(float)), params)


@functools.partial(jax.jit, static_argnums=0)
def gradient_of(system, params, batch, space):
  return jax.value_and_grad(lambda p: system.loss(p, batch, space, None)[0])(params)


def dense(x, layer):
  return x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def relu(x):
  return np.maximum(x, 0)


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def standardised(x, seen):
  return (x - x[seen].mean(0)) / (x[seen].var(0, ddof=1) + 1e-5)


def numpy_prototypes(system, params, space):
  if system.task == CLOSED_SET:
    return np.asarray(params["prototypes"])[space.ids]
  layers = params["generator"]
  x = relu(dense(2 * unit(space.embeddings), layers["hidden_0"]))
  x = dense(x, layers["hidden_1"])
  if system.class_normalization:
    x = standardised(relu(standardised(x, space.seen)), space.seen)
  else:
    x = relu(x)
  x = dense(x, layers["prototypes"])
  return relu(x) if system.nonnegative else x


def numpy_embeddings(system, params, features):
  if system.encoder == "none":
    return features
  layers = params["encoder"]
  return dense(relu(dense(features, layers["hidden_0"])), layers["embedding"])


@pytest.mark.parametrize("encoder", ["none", "mlp"])
@pytest.mark.parametrize("prototypes", ["learned", "generated"])
@pytest.mark.parametrize("normalization", [False, True])
@pytest.mark.parametrize(
  "nonnegative", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_scores_and_loss_equal_numpy(
  encoder, prototypes, normalization, nonnegative, float64
):
  system, params = make(
    encoder=encoder,
    prototypes=prototypes,
    class_normalization=normalization,
    unbiased=True,
    nonnegative=nonnegative,
    loss_name="cosface",
    scale=7.0,
    margin=0.2,
  )
  space = classes()
  batch = batch_of(space)
  own = unit(numpy_embeddings(system, params, np.asarray(batch.features)))
  cosines = own @ unit(numpy_prototypes(system, params, space)).T
  scores = system.scores(params, batch.features, space)
  np.testing.assert_allclose(scores, 7 * cosines, atol=1e-6)
  losses = []
  for row, label in zip(cosines, np.asarray(batch.labels), strict=True):
    mine = space.ids == label
    logits = 7 * (row - 0.2 * mine)
    losses.append(np.log(np.exp(logits[space.seen]).sum()) - logits[mine][0])
  loss, _ = gradient_of(system, params, batch, space)
  np.testing.assert_allclose(loss, np.mean(losses), atol=1e-6)


@pytest.mark.parametrize(
  ("preset", "name"),
  [pytest.param(CLASS_NORM, name, marks=pytest.mark.slow) for name in FAMILY]
  + [("embedding", "so_softmax"), ("zero_shot", "circle")],
)
def test_every_member_and_preset_trains(preset, name, optimizer):
  system, params = make(preset, loss_name=name)
  space = classes()
  batch = batch_of(space, 16)
  optimizer = optimizer(learning_rate=1e-2)
  step = jax.jit(make_train_step(system, optimizer))
  state = init_state(system, optimizer, SPEC, 0)
  losses = []
  for _ in range(60):
    state, metrics = step(state, batch, space)
    losses.append(float(metrics["loss"]))
  assert np.all(np.isfinite(losses))
  assert losses[-1] < 0.7 * losses[0]


@given(st.integers(0, 1000))
def test_statistics_are_those_of_the_seen_classes(seed):
  rng = np.random.default_rng(seed)
  seen = np.array([True, True, False, True, False])
  activations = rng.standard_normal((5, 3))
  with jax.enable_x64(True):
    found = class_standardise(jnp.asarray(activations), jnp.asarray(seen), 1)
    np.testing.assert_allclose(found, standardised(activations, seen), rtol=1e-9)


def test_new_classes_alone_have_no_statistics():
  system, params = make(CLASS_NORM)
  space = classes().subset(~classes().seen)
  assert np.isnan(system.scores(params, batch_of(classes()).features, space)).all()


@pytest.mark.parametrize(
  "preset",
  [*(pytest.param(p, marks=pytest.mark.slow) for p in PRESETS[:-1]), PRESETS[-1]],
)
def test_unseen_classes_count_for_nothing(preset, float64):
  system, params = make(preset)
  space = classes()
  batch = batch_of(space)
  expected = gradient_of(system, params, batch, space)
  found = gradient_of(system, params, batch, space.subset(space.seen))
  chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-12)


def test_learned_prototypes_are_rows_of_class_ids():
  system, params = make("embedding")
  space = classes()
  _, gradient = gradient_of(system, params, batch_of(space, 40), space)
  moved = np.flatnonzero(np.any(np.asarray(gradient["prototypes"]) != 0, axis=1))
  np.testing.assert_array_equal(moved, np.sort(space.ids[space.seen]))
  assert system.task == CLOSED_SET and make("zero_shot")[0].task != CLOSED_SET


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY)
def test_zero_features_and_descriptions_are_finite(name):
  system, params = make(CLASS_NORM, loss_name=name, nonnegative=True)
  space = classes()
  zero = ClassSpace.create(space.names, 0 * space.embeddings, space.seen, space.ids)
  batch = batch_of(space)
  batch = Batch(0 * batch.features, batch.labels, batch.mask, 8)
  chex.assert_tree_all_finite(gradient_of(system, params, batch, zero))


@pytest.mark.parametrize(("data", "model"), [(1, 4), (2, 2), (4, 1), (1, 2)])
def test_sharded_classes_equal_unsharded(data, model, float64):
  system, params = make("embedding", encoder="mlp", loss_name="arcface")
  space = classes()
  batch = batch_of(space)
  expected = gradient_of(system, params, batch, space)
  mesh = make_mesh(data, model)
  found = gradient_of(
    system,
    jax.device_put(params, over_classes(params, system.class_params, mesh)),
    jax.device_put(batch, over_batch(mesh)),
    jax.device_put(space, replicated(mesh)),
  )
  chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-12)
  assert found[1]["prototypes"].sharding.shard_shape((12, 5))[0] == 12 // model


def test_no_device_ever_has_all_logits(optimizer):
  """Each of 4 devices holds and works on a quarter of the classes."""
  count, images = 4000, 6
  spec = Spec((9,), 1, count)
  system = CosineClassifier("cosface", "mlp", (6,), 5, "learned")
  mesh = make_mesh(1, 4)
  space = ClassSpace(np.ones((count, 1)), np.ones(count, bool), np.arange(count))
  optimizer = optimizer(learning_rate=1e-3)
  state = jax.eval_shape(lambda: init_state(system, optimizer, spec, 0))
  layout = over_classes(state, system.class_params, mesh)
  batch = Batch(
    jax.ShapeDtypeStruct((images, 9), jnp.float32),
    jax.ShapeDtypeStruct((images,), jnp.int32),
    jax.ShapeDtypeStruct((images,), bool),
    images,
  )
  step = jax.jit(
    make_train_step(system, optimizer),
    in_shardings=(layout, over_batch(mesh), replicated(mesh)),
    out_shardings=(layout, replicated(mesh)),
  )
  text = step.lower(state, batch, space).compile().as_text()
  assert f"f32[{images},{count // 4}]" in text
  for shape in re.findall(r"f32\[([\d,]+)\]", text):
    assert str(count) not in shape.split(","), shape


def sampled_problem(share, images=5, **fields):
  system = CosineClassifier(
    "cosface", "mlp", (6,), 5, "learned", sample_share=share, **fields
  )
  rng = np.random.default_rng(0)
  seen = np.arange(640) % 10 != 3
  space = ClassSpace(np.ones((640, 4)), seen, np.arange(640))
  batch = Batch(
    jnp.asarray(rng.standard_normal((images, 9))),
    jnp.asarray(rng.choice(np.flatnonzero(seen), images)),
    jnp.ones(images, bool),
    images,
  )
  kernel = {"kernel": jnp.asarray(rng.standard_normal((6, 5))), "bias": jnp.zeros(5)}
  first = {"kernel": jnp.asarray(rng.standard_normal((9, 6))), "bias": jnp.zeros(6)}
  params = {
    "encoder": {"hidden_0": first, "embedding": kernel},
    "prototypes": jnp.asarray(rng.standard_normal((640, 5))),
  }
  return system, params, batch, space


@given(st.integers(0, 1000), st.floats(0.05, 0.9))
def test_sample_has_the_own_classes_and_seen_ones(seed, share):
  rng = np.random.default_rng(seed)
  seen = rng.random(640) < 0.8
  labels = rng.choice(np.flatnonzero(seen), 4)
  ids, log_weights = sample_classes(
    jax.random.key(seed), jnp.asarray(labels), jnp.asarray(seen), share
  )
  ids, weights = np.asarray(ids), np.exp(log_weights)
  assert ids.shape == (64, min(10, max(int(np.ceil(share * 10)), 5)))
  assert len(np.unique(ids)) == ids.size
  assert set(labels) <= set(ids.ravel())
  np.testing.assert_array_equal(ids // 10, np.arange(64)[:, None] * np.ones_like(ids))
  np.testing.assert_allclose(weights[np.isin(ids, labels)], 1)
  # The weights of those drawn are the number of those that could have been.
  free = seen[ids] & ~np.isin(ids, labels)
  could = (seen & ~np.isin(np.arange(640), labels)).reshape(64, 10).sum(1)
  has = free.any(1)
  np.testing.assert_allclose((weights * free).sum(1)[has], could[has], rtol=1e-5)


def test_sum_over_sampled_negatives_is_unbiased():
  """The mean over draws of the denominator is that of all classes."""
  seen = jnp.asarray(np.arange(640) % 7 != 2)
  labels = jnp.asarray([0, 100, 639])
  values = jnp.asarray(np.random.default_rng(1).exponential(size=640))

  def estimate(key):
    ids, log_weights = sample_classes(key, labels, seen, 0.4)
    return jnp.sum(values[ids] * jnp.exp(log_weights), where=seen[ids])

  draws = jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(0), 4000))
  error = draws.std() / np.sqrt(len(draws))
  assert abs(draws.mean() - values[seen].sum()) < 4 * error


def test_all_classes_drawn_is_no_sampling(float64):
  system, params, batch, space = sampled_problem(0.999)
  full = sampled_problem(1.0)[0]
  key = jax.random.key(0)
  found, expected = (
    jax.value_and_grad(lambda p, s=s: s.loss(p, batch, space, key)[0])(params)
    for s in (system, full)
  )
  chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("model", [2, 4])
def test_sampled_classes_split_over_devices(model, float64):
  system, params, batch, space = sampled_problem(0.5)
  step = jax.jit(
    lambda p, b: jax.value_and_grad(
      lambda p: system.loss(p, b, space, jax.random.key(3))[0]
    )(p)
  )
  expected = step(params, batch)
  mesh = make_mesh(1, model)
  found = step(
    jax.device_put(params, over_classes(params, system.class_params, mesh)),
    jax.device_put(batch, over_batch(mesh)),
  )
  chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-12)
  drawn = np.any(np.asarray(expected[1]["prototypes"]) != 0, axis=1)
  assert drawn.mean() == 0.6  # Of ten in a group one more than images in the batch.


def test_classes_must_divide_over_the_axis():
  with pytest.raises(ZsljaxError, match="mesh.model: found 4, expected a divisor"):
    over_classes({"prototypes": jnp.zeros((6, 2))}, ("prototypes",), make_mesh(1, 4))
  with pytest.raises(ZsljaxError, match="config.mesh.model: found 9, expected 1 to 4"):
    make_mesh(1, 9)
  with pytest.raises(ZsljaxError, match="mesh.data: found 3, expected -1 or 1 to 2"):
    make_mesh(3, 2)
  assert make_mesh(-1, 2).shape == {"data": 2, "model": 2}


@pytest.mark.parametrize("side", [4, 5])
def test_convolutions_are_those_of_lax(side):
  system = CosineClassifier("normface", "conv", embedding_size=8, prototypes="learned")
  spec = Spec((side**2,), 3, 4)
  params = system.init(jax.random.key(0), spec)["encoder"]
  pixels = jax.random.normal(jax.random.key(1), (6, side**2))
  images = pixels.reshape(6, side, side, 1)
  for name in ("conv_0", "conv_1"):
    layer = params[name]["kernel"]
    kernel = layer["kernel"].reshape(3, 3, images.shape[-1], -1)
    images = jax.lax.conv_general_dilated(
      images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    images = jax.nn.relu(images + layer["bias"][None, None, None])
    images = jax.lax.reduce_window(
      images, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME"
    )
  last = params["embedding"]
  expected = images.reshape(6, -1) @ last["kernel"] + last["bias"][None]
  found = system.embed({"encoder": params}, pixels)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
