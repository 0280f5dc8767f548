import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax.classes import ClassSpace
from zsljax.models import AttendedAutoencoder, Batch, Spec

VARIANTS = {
  "cosine": {"similarity": "cosine"},
  "dot": {"similarity": "dot"},
  "two layers": {"hidden": 3},
  "decoupled cosine": {"coupled": False},
  "decoupled dot": {"coupled": False, "similarity": "dot"},
  "raw regions": {"normalize_regions": False},
  "long regions": {"region_scale": 3.0, "similarity": "dot"},
}


def make(problem, **fields):
  batch, classes, spec = problem
  system = AttendedAutoencoder(scale=2.0, **fields)
  params = system.init(jax.random.key(0), spec)
  params = jax.tree.map(  # Biases begin at zero.
    lambda p: (
      p.astype(batch.features.dtype)
      + 0.5 * jax.random.normal(jax.random.key(p.size), p.shape)
    ),
    params,
  )
  return system, params, batch, classes


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def dense(layer, x):
  return x @ layer["kernel"] + layer["bias"]


def numpy_scores(system, params, batch, classes):
  """Eq. 3 and 8, image by image and class by class; also K and H."""
  params = jax.device_get(params)
  table = classes.embeddings / np.linalg.norm(classes.embeddings, axis=1)[:, None]
  encoder = params["encoder"]
  queries = table
  if system.hidden:
    queries = dense(encoder["output"], sigmoid(dense(encoder["hidden"], table)))
  else:
    queries = sigmoid(dense(encoder["output"], table))
  mapping = params["decoder"] if system.coupled else params["map"]
  scores = np.zeros((len(batch.labels), len(table)))
  for b, image in enumerate(np.asarray(batch.features)):
    if system.normalize_regions:
      image = image / np.linalg.norm(image, axis=1, keepdims=True)
    image = image * system.region_scale
    for c, (k, h) in enumerate(zip(table, queries, strict=True)):
      attention = np.exp(image @ h - (image @ h).max())
      found = dense(mapping, attention / attention.sum() @ image)
      if system.similarity == "cosine":
        found = found / np.linalg.norm(found)
      scores[b, c] = system.scale * (found @ k)
  return scores, table, queries


def numpy_objective(system, params, batch, classes):
  scores, table, queries = numpy_scores(system, params, batch, classes)
  seen = np.flatnonzero(classes.seen)
  total = 0.0
  for row, label in zip(scores, np.asarray(batch.labels), strict=True):
    own = row[list(classes.ids).index(label)]
    total -= np.log(np.exp(own) / np.exp(row[seen]).sum()) / len(scores)
  for a in seen:
    for b in seen:
      gap = queries[a] @ queries[b] - table[a] @ table[b]
      total += system.weight_alignment * gap**2
  decoded = dense(jax.device_get(params["decoder"]), queries)
  return total + system.weight_reconstruction * np.sum((table - decoded) ** 2)


@pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
def test_scores_and_objective_equal_numpy(region_problem, fields, float64):
  system, params, batch, classes = make(region_problem(), **fields)
  np.testing.assert_allclose(
    system.scores(params, batch.features, classes),
    numpy_scores(system, params, batch, classes)[0],
    rtol=1e-10,
  )
  total, parts = system.loss(params, batch, classes, None)
  np.testing.assert_allclose(
    total, numpy_objective(system, params, batch, classes), rtol=1e-10
  )
  assert parts.keys() == {"cross_entropy", "alignment", "reconstruction"}


@pytest.mark.slow
def test_attention_sums_to_one_for_each_class(region_problem):
  system, params, batch, classes = make(region_problem())
  (maps,) = system.region_attention(params, batch.features, classes).values()
  assert maps.weights.shape == (7, 6, 5)
  assert (maps.queries, maps.uniform) == ("classes", 1 / 5)
  np.testing.assert_allclose(maps.weights.sum(-1), 1, rtol=1e-5)


def test_first_queries_have_about_unit_length():
  spec = Spec((49, 2048), 85, 3)
  system = AttendedAutoencoder()
  params = system.init(jax.random.key(0), spec)
  table = np.eye(3, 85, dtype=np.float32)
  lengths = jnp.linalg.norm(system._encode(params, table), axis=1)
  np.testing.assert_allclose(lengths, 1, rtol=0.05)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_thousand_classes_need_little_memory(similarity):
  """C 1000, R 196, B 64, D 2048: under 1.5 GiB beside the arguments."""
  batch_size, regions, dim, classes, width = 64, 196, 2048, 1000, 312
  system = AttendedAutoencoder(similarity=similarity)
  space = ClassSpace.create(
    [str(c) for c in range(classes)], np.ones((classes, width), np.float32)
  )
  batch = Batch(
    jax.ShapeDtypeStruct((batch_size, regions, dim), jnp.float32),
    jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    jax.ShapeDtypeStruct((batch_size,), bool),
    10_000,
  )
  spec = Spec((regions, dim), width, classes)
  params = jax.eval_shape(lambda: system.init(jax.random.key(0), spec))

  def step(params, batch, space):
    return jax.grad(lambda p: system.loss(p, batch, space, None)[0])(params)

  memory = jax.jit(step).lower(params, batch, space).compile().memory_analysis()
  total = (
    memory.temp_size_in_bytes
    + memory.argument_size_in_bytes
    + memory.output_size_in_bytes
  )
  assert memory.argument_size_in_bytes > 4 * batch_size * regions * dim
  assert total < 1.5 * 2**30
