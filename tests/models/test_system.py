import dataclasses
import math

import chex
import jax
import numpy as np
import pytest

from zsljax.errors import ZsljaxError
from zsljax.models import MSDN, Spec, System, build_system, register


def test_preset_fills_what_is_none_and_nothing_else():
  config = {"name": "semantic_softmax", "preset": "official_code"}
  assert build_system(config).prototype_form == "per_class"
  assert build_system(config | {"init_scale": None}).init_scale == 0.005
  assert build_system(config | {"prototype_form": None}).prototype_form == "per_class"
  explicit = build_system(config | {"prototype_form": "per_sample"})
  assert explicit.prototype_form == "per_sample"


AE, COSINE = "attended_autoencoder", "cosine"


@pytest.mark.parametrize(
  ("name", "fields", "message"),
  [
    ("semantic_sofmax", {}, "Did you mean 'semantic_softmax'"),
    ("semantic_softmax", {"preset": "papr"}, "Did you mean 'paper'"),
    ("semantic_softmax", {"l2_weight": 1.0}, "Did you mean 'l2_weights'"),
    ("semantic_softmax", {"l2_weights": -1.0}, "l2_weights: found -1.0, expected 0 or"),
    ("semantic_softmax", {"prototype_form": "per_image"}, "expected one of per_sample"),
    (
      AE,
      {"similarity": "cosin"},
      "found 'cosin', expected one of dot, cosine",
    ),
    (AE, {"scale": -1.0}, "scale: found -1.0"),
    (AE, {"hidden": -2}, "hidden: found -2"),
    ("msdn", {"distance": "l2"}, "distance: found 'l2', expected one of probabilities"),
    ("msdn", {"fusion": 1.5}, "fusion: found 1.5, expected between 0 and 1"),
    ("msdn", {"fusion": math.nan}, "fusion: found nan"),
    ("msdn", {"weight_calibration": -1.0}, "weight_calibration: found -1.0"),
    ("sdl", {"rows": 0}, "rows: found 0, expected 1 or more"),
    ("sdl", {"variance_weight": 1.5}, "found 1.5, expected between 0 and 1"),
    ("sdl", {"factor": 0.0}, "factor: found 0.0, expected more than 0"),
    ("sdl", {"unannotated": "absent"}, "found 'absent', expected one of negative"),
    ("eszsl", {"gamma": 0.0}, "gamma: found 0.0, expected more than 0"),
    ("eszsl", {"negative": 1.0}, "negative: found 1.0, expected between -1 and 0"),
    ("sae", {"lambda_": -1.0}, "lambda_: found -1.0"),
    ("sae", {"space": "both"}, "space: found 'both'"),
    ("nearest_mean", {"ridge": 0.0}, "ridge: found 0.0"),
    (COSINE, {"loss_name": "arcfase"}, "loss_name: unknown loss 'arcfase'. Did"),
    (COSINE, {"loss_name": "cosface", "margin": 3.0}, "margin: found 3.0"),
    (COSINE, {"loss_name": "normface", "margin": 0.1}, "margin: found 0.1, expected N"),
    (COSINE, {"scale": 0.0}, "scale: found 0.0, expected more than 0"),
    (COSINE, {"encoder": "cnn"}, "encoder: found 'cnn', expected one of none"),
    (COSINE, {"sample_share": 0.0}, "found 0.0, expected more than 0 and at most 1"),
    (COSINE, {"sample_share": 0.5}, "found 0.5, expected 1 with generated prototypes"),
    (COSINE, {"prototypes": "fixed"}, "prototypes: found 'fixed'"),
    (COSINE, {"embedding_size": 0}, "embedding_size: found 0"),
  ],
)
def test_build_says_what_is_wrong(name, fields, message):
  preset = "zero_shot" if name == COSINE else "paper"
  with pytest.raises(ZsljaxError, match=message) as error:
    build_system({"name": name, "preset": preset} | fields)
  assert str(error.value).startswith("config.system.")


VECTORS = np.ones((3, 2), np.float32)


@pytest.mark.parametrize(
  ("config", "spec", "message"),
  [
    ({"name": AE}, Spec((5,), 3, 4), "features: found shape .5,., expected regions"),
    ({"name": "msdn"}, Spec((5,), 3, 4, VECTORS), "expected regions"),
    ({"name": "msdn"}, Spec((9, 5), 3, 4), "attribute vectors: found none"),
    *(
      (
        {"name": COSINE, "preset": "embedding"},
        Spec(shape, 3, 4),
        "found 'conv' with features of shape",
      )
      for shape in ((10,), (3, 9))
    ),
  ],
)
def test_init_refuses_a_dataset_that_lacks_something(config, spec, message):
  with pytest.raises(ZsljaxError, match=message):
    build_system(config).init(jax.random.key(0), spec)


class Incomplete(System):
  name = "incomplete"

  def init(self, rng, spec):
    return {}

  def prepare(self, params, classes):
    return classes.embeddings


def test_a_class_that_lacks_a_part_is_told_all_of_them():
  missing = r"Incomplete: found no presets, score\(\), loss\(\), @dataclasses.dataclass"
  with pytest.raises(ZsljaxError, match=missing):
    register(Incomplete)
  with pytest.raises(ZsljaxError, match="unknown system 'incomplete'"):
    build_system({"name": "incomplete"})
  nameless = type("Nameless", (MSDN,), {"loss": None})
  with pytest.raises(ZsljaxError, match=r"Nameless: found no loss\(\), expected"):
    register(nameless)
  alone = dataclasses.make_dataclass("Alone", [])
  with pytest.raises(
    ZsljaxError, match=r"name, presets, init\(\).* scores, with_fields, task"
  ):
    register(alone)


@pytest.mark.parametrize("name", [AE, "msdn"])
def test_known_lengths_of_regions_change_nothing(region_problem, float64, name):
  batch, classes, spec = region_problem()
  system = build_system({"name": name, "preset": "paper"})
  params, key = system.init(jax.random.key(0), spec), jax.random.key(0)

  def gradient(factor=None):
    known = None
    if factor:
      known = factor / np.linalg.norm(batch.features, axis=-1, keepdims=True)
    given = dataclasses.replace(batch, inverse_lengths=known)
    of_params = jax.grad(system.loss, has_aux=True)
    return of_params(params, given, classes, key)

  chex.assert_trees_all_close(gradient(1.0), gradient(), rtol=1e-9)
  with pytest.raises(AssertionError):  # They are used.
    chex.assert_trees_all_close(gradient(2.0), gradient(), rtol=1e-3)


# Systems by their names, with fields that change what is learned.
LEARNERS = [
  ("semantic_softmax", {}),
  ("semantic_softmax", {"preset": "official_code"}),
  ("semantic_softmax", {"hidden": (4,), "pretrain_steps": 10}),
  ("semantic_softmax", {"preset": "official_deep_code", "pretrain_steps": 0}),
  (AE, {}),
  ("msdn", {}),
  ("msdn", {"preset": "official_code"}),
  ("sdl", {}),
  (COSINE, {"preset": "zero_shot"}),
  (COSINE, {"preset": "class_norm_official_code"}),
  *((name, {}) for name in ("eszsl", "sae", "nearest_mean")),
]


def learner(problem, name, fields):
  """A system with a batch that it can learn from."""
  batch, classes, spec = problem
  if name == "sdl":  # An image may have several labels.
    batch = dataclasses.replace(batch, labels=batch.labels[:, None])
  return build_system({"name": name, **fields}), batch, classes, spec


@pytest.mark.parametrize(("name", "fields"), LEARNERS)
def test_masked_rows_count_for_nothing(region_problem, padded, float64, name, fields):
  system, batch, classes, spec = learner(region_problem(), name, fields)
  key = jax.random.key(0)

  def learned(batch):
    params = system.warm_start(system.init(key, spec), batch, classes, key)
    value = jax.value_and_grad(system.loss, has_aux=True)
    return params, value(params, batch, classes, key)

  rtol = 1e-6 if fields.get("pretrain_steps") else 1e-9
  chex.assert_trees_all_close(
    learned(padded(batch)), learned(batch), rtol=rtol, atol=1e-12
  )


@pytest.mark.parametrize(
  ("name", "fields"), [x for x in LEARNERS if "preset" not in x[1] or x[0] == COSINE]
)
def test_a_label_outside_the_classes_does_not_count_as_the_last(
  region_problem, name, fields
):
  system, batch, classes, spec = learner(region_problem(), name, fields)

  def trained(labels):
    labelled = dataclasses.replace(batch, labels=labels)
    params = system.init(jax.random.key(0), spec)
    params = system.warm_start(params, labelled, classes, jax.random.key(0))
    return system.loss(params, labelled, classes, jax.random.key(0))[0]

  strange = trained(batch.labels.at[0].set(99))
  if name == "sdl":  # An image may have labels that are not scored.
    np.testing.assert_array_equal(strange, trained(batch.labels.at[0].set(-1)))
  else:
    assert np.isnan(strange) and np.isfinite(trained(batch.labels))
