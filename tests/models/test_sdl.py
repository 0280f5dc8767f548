import functools
import os
import pathlib
import re

import chex
from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax.classes import ClassSpace
from zsljax.data.labels import padded_ids
from zsljax.devices.mesh import make_mesh, over_batch, replicated
from zsljax.models import SDL, Batch, Spec, build_system

PRESETS = ("paper", "official_code")
GOLDEN = pathlib.Path(os.environ.get("ZSLJAX_GOLDEN") or "absent").absolute()
SPEC = Spec((6,), 5, 8)


def classes(seed=0):
  """Five seen and three unseen labels."""
  rng = np.random.default_rng(seed)
  seen = [True, True, False, True, False, True, True, False]
  ids = [7, 1, 9, 3, 0, 2, 12, 5]
  return ClassSpace.create("abcdefgh", rng.standard_normal((8, 5)), seen, ids)


def batch_of(labels, space, features=None, seed=0):
  """A batch of images with the labels [B, C] of 1, 0 and -1."""
  rng = np.random.default_rng(seed)
  if features is None:
    features = rng.standard_normal((len(labels), *SPEC.feature_shape))

  def ids(value):  # As wide for any labels, so that less is compiled.
    at = padded_ids(labels, value)
    at = np.pad(at, [(0, 0), (0, max(0, 8 - at.shape[1]))], constant_values=-1)
    return jnp.asarray(np.where(at >= 0, np.asarray(space.ids)[at], -1))

  return Batch(
    features=jnp.asarray(features),
    labels=ids(1),
    mask=jnp.ones(len(labels), bool),
    num_examples=len(labels),
    absent=ids(-1) if np.any(labels == -1) else None,
  )


def random_labels(seed=0, images=7):
  return np.random.default_rng(seed).choice([-1, 0, 1], (images, 8), p=[0.3, 0.3, 0.4])


def make(preset="official_code", rows=3, **fields):
  system = build_system({"name": "sdl", "preset": preset, "rows": rows} | fields)
  kernel = np.random.default_rng(0).uniform(-0.5, 0.5, (6, rows * 5))
  return system, {"embedding": {"kernel": jnp.asarray(kernel)}}


def test_initial_parameters():
  params = SDL(rows=3).init(jax.random.key(0), SPEC)
  chex.assert_trees_all_equal_shapes(params, make()[1])
  bound = 6**-0.5  # PyTorch's for 6 inputs.
  assert 0.8 * bound < jnp.max(jnp.abs(params["embedding"]["kernel"])) <= bound


def numpy_objective(system, params, batch, labels, space):
  """The objective, image by image and pair by pair."""
  kernel = np.asarray(params["embedding"]["kernel"])
  vectors = space.embeddings / np.linalg.norm(space.embeddings, axis=1, keepdims=True)
  values = []
  for feature, row in zip(np.asarray(batch.features), labels, strict=True):
    matrix = (feature @ kernel).reshape(system.rows, -1)
    scores = np.max(matrix @ vectors.T, 0)
    positive = (row == 1) & space.seen
    excluded = (row == 1) if system.unannotated == "negative" else (row != -1)
    negative = ~excluded & space.seen
    if not positive.any():
      continue
    against = scores[negative] if negative.any() else [0.0]
    pairs = sum(np.log(1 + np.exp(n - p)) for p in scores[positive] for n in against)
    spread = vectors[positive].var(0, ddof=1).sum() if positive.sum() > 1 else 0
    rank = (1 + spread) * pairs / positive.sum()
    variance = matrix.var(0, ddof=1).sum() if system.rows > 1 else 0
    weight = system.variance_weight
    values.append(system.factor * ((1 - weight) * rank + weight * variance))
  return np.mean(values)


@functools.partial(jax.jit, static_argnums=0)
def loss_of(system, params, batch, space):
  return system.loss(params, batch, space, None)


@functools.partial(jax.jit, static_argnums=0)
def gradient_of(system, params, batch, space):
  """The gradient of the loss, with its value."""
  return jax.value_and_grad(lambda p: system.loss(p, batch, space, None)[0])(params)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("unannotated", ["negative", "ignore"])
@given(seed=st.integers(0, 1000), rows=st.sampled_from([1, 3]))
def test_objective_equals_numpy(preset, unannotated, seed, rows):
  with jax.enable_x64(True):
    system, params = make(preset, rows, variance_weight=0.2, unannotated=unannotated)
    labels, space = random_labels(seed), classes(seed)
    batch = batch_of(labels, space, seed=seed)
    loss, parts = loss_of(system, params, batch, space)
    expected = numpy_objective(system, params, batch, labels, space)
    np.testing.assert_allclose(loss, expected, rtol=1e-10)
    np.testing.assert_allclose(loss, sum(parts.values()))


def test_score_is_the_best_row():
  system, params = make()
  features = np.random.default_rng(1).standard_normal((4, 6))
  space = classes()
  matrices = features @ np.asarray(params["embedding"]["kernel"])
  vectors = np.asarray(space.unit_embeddings())
  expected = (matrices.reshape(4, 3, 5) @ vectors.T).max(1)
  found = system.scores(params, jnp.asarray(features), space)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


CASES = {
  "no positives": np.full((3, 8), -1),
  "all positive": np.ones((3, 8), int),
  "nothing annotated": np.zeros((3, 8), int),
  "one label": np.eye(3, 8, dtype=int),
}


@pytest.mark.parametrize("labels", CASES.values(), ids=CASES)
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("unannotated", ["negative", "ignore"])
def test_loss_and_gradient_are_finite(labels, rows, scale, unannotated):
  system, params = make(rows=rows, unannotated=unannotated)
  space = classes()
  batch = batch_of(labels, space)
  batch = batch_of(labels, space, scale * batch.features)
  loss, gradient = jax.value_and_grad(lambda p: system.loss(p, batch, space, None)[0])(
    params
  )
  assert np.isfinite(loss)
  assert np.isfinite(gradient["embedding"]["kernel"]).all()
  assert loss == 0 if not np.any(labels == 1) else loss > 0


@pytest.mark.parametrize("devices", [2, 4])
def test_sharded_equals_unsharded(devices, float64):
  system, params = make()
  space = classes()
  batch = batch_of(random_labels(images=8), space)
  expected = gradient_of(system, params, batch, space)
  mesh = make_mesh(devices)
  params = jax.device_put(params, replicated(mesh))
  batch = jax.device_put(batch, over_batch(mesh))
  found = gradient_of(system, params, batch, space)
  chex.assert_trees_all_close(found, expected, rtol=1e-12)

  def ranking(params, batch):
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return system.loss(params, batch, space, None)[0]

  step = jax.jit(jax.value_and_grad(ranking), out_shardings=replicated(mesh))
  compiled = step.lower(params, batch).compile()
  found = compiled(params, batch)
  chex.assert_trees_all_close(found, expected, rtol=1e-12)
  # No device is sent another's positives.
  found = re.findall(r" (all-\w+|collective-\w+)\(", compiled.as_text())
  assert set(found) == {"all-reduce"}


def test_nothing_grows_with_the_square_of_the_labels():
  """No array of the compiled step has an entry for each pair, nor for each slot."""
  images, labels, most = 16, 400, 40
  space = ClassSpace.create(
    [str(i) for i in range(labels)],
    np.random.default_rng(0).standard_normal((labels, 5)),
  )
  present = np.zeros((images, labels), int)
  present[:, :2], present[0, :most] = 1, 1
  batch = batch_of(present, space, np.zeros((images, 6), np.float32))
  system = SDL()
  params = system.init(jax.random.key(0), SPEC)
  gradient = jax.jit(jax.grad(lambda p: system.loss(p, batch, space, None)[0]))
  text = gradient.lower(params).compile().as_text()
  sizes = [
    np.prod([int(n) for n in shape.split(",")])
    for shape in re.findall(r"\[([\d,]+)\]", text)
  ]
  assert max(sizes) < images * most * labels


def golden_files():
  return sorted(GOLDEN.glob("sdl*.npz"))


@pytest.mark.skipif(not golden_files(), reason="ZSLJAX_GOLDEN names no folder with it")
@pytest.mark.parametrize("path", golden_files(), ids=lambda path: path.stem)
@pytest.mark.parametrize("x64", [True, False], ids=["float64", "float32"])
def test_golden_vectors(path, x64):
  """Numbers of the authors' code, for each weight and reduction in the file."""
  with np.load(path, allow_pickle=False) as file:
    golden = {name: file[name] for name in file.files}
  keys = [name for name in golden if name.startswith("loss_w")]
  assert keys
  bound = 1e-9 if x64 else 1e-5
  labels, vectors = golden["y"], golden["W"][0].T
  rows = golden["x"].shape[1] // vectors.shape[1]
  space = ClassSpace.create([str(i) for i in range(len(vectors))], vectors)
  with jax.enable_x64(x64):
    batch = batch_of(np.where(labels == 1, 1, 0), space, np.zeros((len(labels), 1)))
    words = jnp.asarray(vectors)

    def loss(x, weight, reduce):
      system = SDL(rows, weight or 0.0, **SDL.presets["official_code"])
      matrices = x.reshape(len(x), -1, rows).swapaxes(1, 2)
      ranking, variance, counts = system.terms(matrices, batch, words, space)
      if weight is not None:
        ranking = system.factor * ((1 - weight) * ranking + weight * variance)
      return reduce(jnp.where(counts, ranking, 0))

    for key in keys:
      weight, reduction = key.removeprefix("loss_w").split("_")
      value, gradient = jax.value_and_grad(loss)(
        jnp.asarray(golden["x"]),
        None if weight == "None" else float(weight),
        {"mean": jnp.mean, "sum": jnp.sum}[reduction],
      )
      for found, expected in (
        (value, golden[key]),
        (gradient, golden[f"grad_w{weight}_{reduction}"]),
      ):
        error = np.max(np.abs(found - expected)) / np.max(np.abs(expected))
        assert error < bound, key
