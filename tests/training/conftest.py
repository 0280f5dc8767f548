import itertools

import numpy as np
import pytest

from zsljax.classes import ClassSpace
from zsljax.models import SemanticSoftmax, Spec


class ToyBatches:
  """Batches of a fixed random set, a function of the step alone."""

  def __init__(self, classes, images=32, batch_size=8, scale=1.0):
    rng = np.random.default_rng(0)
    self.num_examples = images
    self.steps_per_epoch = images // batch_size
    self._features = scale * rng.standard_normal((images, 5)).astype(np.float32)
    self._labels = rng.choice(classes.ids[classes.seen], images)
    self._size = batch_size

  def table(self):
    return {"features": self._features, "labels": self._labels}

  def rows(self, start_step):
    for step in itertools.count(start_step):
      yield np.random.default_rng(step).permutation(self.num_examples)[: self._size]

  def batches(self, start_step):
    for rows in self.rows(start_step):
      batch = {name: column[rows] for name, column in self.table().items()}
      yield {**batch, "mask": np.ones(self._size, bool)}


@pytest.fixture
def toy(class_space):
  """A system, its spec, classes and batches."""
  classes: ClassSpace = class_space()
  system = SemanticSoftmax(hidden=(4,))
  return system, Spec((5,), 4, len(classes)), classes, ToyBatches(classes)
