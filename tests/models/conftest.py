import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax.classes import ClassSpace
from zsljax.models import Batch, Spec
from zsljax.models.registry import registered


@pytest.fixture
def region_problem():
  """Random region features: 4 seen and 2 unseen classes, word vectors."""

  def make(images=7, regions=5, dim=6, attributes=4, width=3, seed=0):
    rng = np.random.default_rng(seed)
    classes = ClassSpace.create(
      "abcdef",
      rng.standard_normal((6, attributes)),
      seen=[True, True, False, True, False, True],
      ids=[7, 1, 9, 3, 0, 2],
      attribute_vectors=rng.standard_normal((attributes, width)),
    )
    batch = Batch(
      features=jnp.asarray(rng.standard_normal((images, regions, dim))),
      labels=jnp.asarray(rng.choice(classes.ids[classes.seen], images)),
      mask=jnp.ones(images, bool),
      num_examples=images,
    )
    spec = Spec((regions, dim), attributes, 6, classes.attribute_vectors)
    return batch, classes, spec

  return make


@pytest.fixture
def padded():
  """Adds three masked rows of nonsense to a batch."""

  def pad(batch):
    return Batch(
      jnp.pad(
        batch.features,
        [(0, 3), *[(0, 0)] * (batch.features.ndim - 1)],
        constant_values=9.0,
      ),
      jnp.pad(batch.labels, [(0, 3), *[(0, 0)] * (batch.labels.ndim - 1)]),
      jnp.pad(batch.mask, (0, 3)),
      batch.num_examples,
    )

  return pad


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
  """Systems are compiled whole, as in training; one operation at a time is slow."""
  for system in filter(None, registered().values()):
    for name in ("loss", "scores"):
      function = jax.jit(getattr(system, name), static_argnums=0)
      monkeypatch.setattr(system, name, function)
