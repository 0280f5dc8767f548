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

  def batches(self, start_step):
    step = start_step
    while True:
      rows = np.random.default_rng(step).permutation(self.num_examples)[: self._size]
      yield {
        "features": self._features[rows],
        "labels": self._labels[rows],
        "mask": np.ones(self._size, bool),
      }
      step += 1


@pytest.fixture
def toy(class_space):
  """A system, its spec, classes and batches."""
  classes: ClassSpace = class_space()
  system = SemanticSoftmax(hidden=(4,))
  return system, Spec((5,), 4, len(classes)), classes, ToyBatches(classes)
