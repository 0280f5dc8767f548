import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax.encoders.resnet import ResNet
from zsljax.errors import ZsljaxError
from zsljax.models import Batch, EndToEnd, Spec, build_system
from zsljax.training import init_state, make_train_step

BACKBONE = ResNet((1, 1), width=2)


@pytest.fixture
def variables():
  return BACKBONE.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


def msdn(weight):
  return build_system(
    {"name": "msdn", "weight_calibration": weight, "preset": "official_code"}
  )


def test_self_calibration_with_a_trainable_backbone_warns(variables):
  with pytest.warns(UserWarning, match="msdn calibrates itself.*advise against"):
    EndToEnd(head=msdn(0.1), backbone=BACKBONE, variables=variables)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    EndToEnd(head=msdn(0.0), backbone=BACKBONE, variables=variables)
    other = build_system({"name": "attended_autoencoder"})
    EndToEnd(head=other, backbone=BACKBONE, variables=variables)


def test_several_labels_are_refused(variables):
  with pytest.raises(ZsljaxError, match="head: found sdl, expected one label"):
    EndToEnd(head=build_system({"name": "sdl"}), backbone=BACKBONE, variables=variables)


def test_systems_that_are_solved_are_refused(variables):
  with pytest.raises(ZsljaxError, match="head: found eszsl, expected a system that le"):
    EndToEnd(
      head=build_system({"name": "eszsl"}), backbone=BACKBONE, variables=variables
    )


@pytest.mark.parametrize("regions", [True, False])
def test_backbone_and_head_are_trained_together(
  regions, variables, class_space, optimizer
):
  head = msdn(0.0) if regions else build_system({"name": "semantic_softmax"})
  system = EndToEnd(head=head, backbone=BACKBONE, variables=variables, regions=regions)
  classes = class_space()
  rng = np.random.default_rng(0)
  images = rng.standard_normal((8, 16, 16, 3)).astype(np.float32)
  labels = np.asarray(classes.ids)[rng.integers(0, 4, 8)]
  vectors = rng.standard_normal((4, 3)).astype(np.float32)
  spec = Spec((16, 16, 3), 4, 6, vectors)
  batch = Batch(images, labels, np.ones(8, bool), num_examples=8)
  state = init_state(system, optimizer(learning_rate=1e-2), spec, seed=0)

  made = BACKBONE.apply(variables, images).reshape(8, -1, BACKBONE.channels)
  made = made if regions else made.mean(1)
  expected = head.scores(state.params["head"], made, classes)
  scores = system.scores(state.params, images, classes)
  np.testing.assert_allclose(scores, expected, 1e-5, 1e-5)

  step = jax.jit(make_train_step(system, optimizer(learning_rate=1e-2)))
  first, losses = state, []
  for _ in range(20):
    state, metrics = step(state, batch, classes)
    losses.append(float(metrics["loss"]))
  assert losses[-1] < losses[0]
  moved = jax.tree.map(lambda a, b: jnp.any(a != b), first.params, state.params)
  assert moved["backbone"]["conv1"]["kernel"]
