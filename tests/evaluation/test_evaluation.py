import json
import os
import pathlib

from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax import evaluation
from zsljax.classes import ClassSpace
from zsljax.devices.mesh import make_mesh
from zsljax.errors import ZsljaxError


def random_case(seed=0, images=60, classes=7, unseen=3, ties=False):
  rng = np.random.default_rng(seed)
  scores = rng.standard_normal((images, classes)).astype(np.float32)
  if ties:
    scores = np.round(scores)
  seen = np.ones(classes, bool)
  seen[rng.choice(classes, unseen, replace=False)] = False
  ids = rng.permutation(classes)
  space = ClassSpace.create([str(i) for i in ids], np.eye(classes), seen, ids)
  labels = np.concatenate([ids, rng.choice(ids, images - classes)])
  decisions = jax.device_get(evaluation.decide(scores, labels, space))
  return scores, labels, space, decisions


def mean_over_classes(predicted, labels):
  shares = []
  for label in sorted(set(labels)):
    of_class = [
      p == label for p, y in zip(predicted, labels, strict=True) if y == label
    ]
    shares.append(sum(of_class) / len(of_class))
  return sum(shares) / len(shares)


def numpy_metrics(scores, labels, space, gamma):
  """T1, U, S as Xian et al. define them, from the whole score matrix."""
  ids, seen = space.ids, space.seen
  is_seen = np.isin(labels, ids[seen])
  among_all = ids[(scores.astype(np.float64) - gamma * seen).argmax(1)]
  among_unseen = ids[~seen][scores[:, ~seen].argmax(1)]
  return {
    "t1": 100 * mean_over_classes(among_unseen[~is_seen], labels[~is_seen]),
    "u": 100 * mean_over_classes(among_all[~is_seen], labels[~is_seen]),
    "s": 100 * mean_over_classes(among_all[is_seen], labels[is_seen]),
  }


@given(st.integers(0, 1000), st.booleans(), st.floats(-2, 2))
def test_metrics_equal_their_definition(seed, ties, gamma):
  scores, labels, space, decisions = random_case(seed, ties=ties)
  gamma = round(gamma) if ties else gamma
  found = evaluation.single_label_metrics(decisions, space.seen, gamma)
  expected = numpy_metrics(scores, labels, space, gamma)
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, atol=1e-9, err_msg=name)
  u, s = expected["u"], expected["s"]
  np.testing.assert_allclose(found["h"], 2 * u * s / (u + s) if u + s else 0)


@given(st.integers(0, 1000), st.booleans(), st.booleans())
def test_curve_equals_a_brute_force_sweep(seed, ties, per_class):
  scores, labels, space, decisions = random_case(seed, ties=ties)
  curve = evaluation.seen_unseen_curve(decisions, space.seen, per_class)
  is_seen = np.isin(labels, space.ids[space.seen])
  for gamma, u, s in zip(curve.gamma, curve.unseen, curve.seen, strict=True):
    predicted = space.ids[(scores.astype(np.float64) - gamma * space.seen).argmax(1)]
    right = predicted == labels
    if per_class:
      expected_u = mean_over_classes(predicted[~is_seen], labels[~is_seen])
      expected_s = mean_over_classes(predicted[is_seen], labels[is_seen])
    else:
      expected_u, expected_s = right[~is_seen].mean(), right[is_seen].mean()
    np.testing.assert_allclose([u, s], [expected_u, expected_s], atol=1e-12)
  assert (np.diff(curve.gamma) > 0).all()
  assert (np.diff(curve.unseen) >= 0).all() and (np.diff(curve.seen) <= 0).all()


def test_curve_misses_no_gamma():
  scores, labels, space, decisions = random_case(3)
  curve = evaluation.seen_unseen_curve(decisions, space.seen)
  found = set(zip(curve.unseen.round(9), curve.seen.round(9), strict=True))
  for gamma in np.linspace(-5, 5, 2001):
    expected = numpy_metrics(scores, labels, space, gamma)
    point = round(expected["u"] / 100, 9), round(expected["s"] / 100, 9)
    assert point in found


def test_best_gamma_has_the_highest_h():
  _, _, space, decisions = random_case(5)
  curve = evaluation.seen_unseen_curve(decisions, space.seen)
  best = evaluation.single_label_metrics(decisions, space.seen, curve.best_gamma())
  others = [
    evaluation.single_label_metrics(decisions, space.seen, g)["h"]
    for g in np.linspace(-4, 4, 401)
  ]
  assert best["h"] >= max(others) - 1e-9


@given(st.integers(0, 1000), st.booleans(), st.floats(0.01, 1.99))
def test_multiplicative_calibration_is_its_definition(seed, positive, gamma):
  scores, labels, space, decisions = random_case(seed)
  if positive:
    scores = np.abs(scores) + np.float32(0.1)
    decisions = jax.device_get(evaluation.decide(scores, labels, space))
  exact = scores.astype(np.float64)
  lowered = np.where(space.seen, exact - (1 - gamma) * np.abs(exact), exact)
  if positive:
    np.testing.assert_allclose(lowered[:, space.seen], gamma * exact[:, space.seen])
  found = evaluation.single_label_metrics(
    decisions, space.seen, gamma, "multiplicative"
  )
  expected = numpy_metrics(lowered, labels, space, 0)
  for name in ("u", "s"):
    np.testing.assert_allclose(found[name], expected[name], atol=1e-9, err_msg=name)


@given(st.integers(0, 1000))
def test_best_multiplicative_gamma_beats_a_grid(seed):
  _, _, space, decisions = random_case(seed)
  curve = evaluation.seen_unseen_curve(
    decisions, space.seen, calibration="multiplicative"
  )
  gamma, h = evaluation.shared_gamma([curve])

  def h_at(gamma):
    metrics = evaluation.single_label_metrics(
      decisions, space.seen, gamma, "multiplicative"
    )
    return metrics["h"]

  assert h_at(gamma) == pytest.approx(100 * h, abs=1e-9)
  assert h_at(gamma) >= max(h_at(g) for g in np.linspace(0.01, 1.99, 100)) - 1e-9


def test_multiplicative_gamma_has_a_range():
  _, _, space, decisions = random_case(0)
  for gamma in (0.0, 2.0, -1.0):
    with pytest.raises(ZsljaxError, match=f"gamma: found {gamma}, expected between 0"):
      evaluation.single_label_metrics(decisions, space.seen, gamma, "multiplicative")
  with pytest.raises(ZsljaxError, match="calibration: found 'times'"):
    evaluation.single_label_metrics(decisions, space.seen, 1.0, "times")


def test_sweep_of_gamma_over_many_images_is_exact():
  rng = np.random.default_rng(0)
  n, classes = 10_000, 717
  seen = np.arange(classes) < 645
  decisions = evaluation.Decisions(
    label=rng.integers(0, classes, n),
    seen_class=rng.integers(0, 645, n),
    seen_score=rng.integers(-400, 400, n).astype(np.float32),
    unseen_class=rng.integers(645, classes, n),
    unseen_score=rng.integers(-400, 400, n).astype(np.float32),
  )
  right = rng.random(n) < 0.6
  decisions.seen_class[right & seen[decisions.label]] = decisions.label[
    right & seen[decisions.label]
  ]
  right &= ~seen[decisions.label]
  decisions.unseen_class[right] = decisions.label[right]
  curve = evaluation.seen_unseen_curve(decisions, seen)
  best, h = evaluation.shared_gamma([curve])
  brute = [
    evaluation.single_label_metrics(decisions, seen, gamma)["h"]
    for gamma in np.arange(-801, 801, 40) + 0.5
  ]
  assert 100 * h >= max(brute)
  for gamma in (-300.5, 0.5, 12.5, best):
    at = np.searchsorted(curve.margins, gamma)
    found = evaluation.single_label_metrics(decisions, seen, gamma)
    np.testing.assert_allclose(
      [found["u"], found["s"]], [100 * curve.unseen[at], 100 * curve.seen[at]]
    )


def test_perfect_scores_have_area_one():
  space = ClassSpace.create("abcd", np.eye(4), [True, True, False, False])
  labels = np.repeat(np.arange(4), 3)
  scores = 10 * np.eye(4, dtype=np.float32)[labels]
  decisions = jax.device_get(evaluation.decide(scores, labels, space))
  metrics = evaluation.single_label_metrics(decisions, space.seen)
  names = ("t1", "u", "s", "h", "ausuc", "ausuc_micro")
  assert metrics == pytest.approx(dict.fromkeys(names, 100))


def test_nan_scores_are_refused(class_space):
  class Broken:
    def scores(self, params, features, classes):
      return jnp.full((len(features), len(classes)), jnp.nan)

  space = class_space()
  batch = {
    "features": np.ones((4, 3), np.float32),
    "labels": space.ids[[0, 1, 4, 5]],
    "mask": np.array([True, True, True, False]),
  }
  with pytest.raises(ZsljaxError, match="NaN for 3 of 3 images"):
    evaluation.decide_all(Broken(), {}, space, [batch], make_mesh(1))


def test_harmonic_mean_of_two_zeros_is_zero():
  assert evaluation.harmonic_mean(0.0, 0.0) == 0


def test_class_without_images_does_not_enter_the_mean():
  labels, predicted = np.array([0, 0, 5]), np.array([0, 1, 5])
  assert evaluation.per_class_accuracy(predicted, labels) == 0.75


def test_golden_metrics_json():
  golden = pathlib.Path(os.environ.get("ZSLJAX_GOLDEN", "")) / "metrics.json"
  if not golden.is_file():
    pytest.skip("ZSLJAX_GOLDEN names no folder with metrics.json")
  values = json.loads(golden.read_text())
  seen = np.array(values["gzsl_seen_mask"], bool)
  space = ClassSpace.create([str(i) for i in range(len(seen))], np.eye(len(seen)), seen)
  decisions = jax.device_get(
    evaluation.decide(
      np.array(values["gzsl_logits"], np.float32),
      np.array(values["gzsl_targets"]),
      space,
    )
  )
  found = evaluation.single_label_metrics(decisions, seen)
  for name, key in (("t1", "zsl"), ("u", "U"), ("s", "S"), ("h", "H")):
    np.testing.assert_allclose(found[name], 100 * values[f"msdn_{key}"], rtol=1e-6)
  per_sample = evaluation.seen_unseen_curve(decisions, seen, per_class=False)
  np.testing.assert_allclose(
    100 * per_sample.area(), values["classnorm_ausuc_x100"], rtol=1e-6
  )
