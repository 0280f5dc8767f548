import json
import os
import pathlib

from hypothesis import given
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

import zsljax
from zsljax.classes import ClassSpace
from zsljax.errors import ZsljaxError
from zsljax.evaluation import (
  Calibration,
  decide,
  generalized_predictions,
  seen_unseen_curve,
  single_label_metrics,
)
from zsljax.evaluation.calibration import SHARES, best_share, of_share
from zsljax.evaluation.single_label import Decisions


def random_case(seed=0, images=60, classes=7, unseen=3, ties=False, positive=False):
  """Scores, and what the metrics take: decisions, labels, seen classes."""
  rng = np.random.default_rng(seed)
  scores = rng.standard_normal((images, classes)).astype(np.float32)
  if ties:
    scores = np.round(scores)
  if positive:
    scores = np.abs(scores) + np.float32(0.1)
  seen = np.ones(classes, bool)
  seen[rng.choice(classes, unseen, replace=False)] = False
  labels = np.concatenate([np.arange(classes), rng.choice(classes, images - classes)])
  return scores, (jax.device_get(decide(scores, seen)), labels, seen)


def mean_over_classes(right, labels):
  return np.mean([right[labels == label].mean() for label in np.unique(labels)])


def numpy_metrics(scores, labels, seen, gamma=0.0):
  """T1, U, S as Xian et al. define them, from the whole score matrix."""
  of_seen = seen[labels]
  right = (scores.astype(np.float64) - gamma * seen).argmax(1) == labels
  among_unseen = np.flatnonzero(~seen)[scores[:, ~seen].argmax(1)] == labels
  return {
    "t1": 100 * mean_over_classes(among_unseen[~of_seen], labels[~of_seen]),
    "u": 100 * mean_over_classes(right[~of_seen], labels[~of_seen]),
    "s": 100 * mean_over_classes(right[of_seen], labels[of_seen]),
  }


@given(st.integers(0, 1000), st.booleans(), st.floats(-2, 2))
def test_metrics_equal_their_definition(seed, ties, gamma):
  scores, case = random_case(seed, ties=ties)
  gamma = round(gamma) if ties else gamma
  found = single_label_metrics(*case, Calibration("additive", gamma))
  expected = numpy_metrics(scores, *case[1:], gamma)
  u, s = expected["u"], expected["s"]
  expected["h"] = 2 * u * s / (u + s) if u + s else 0
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, atol=1e-9, err_msg=name)


@given(st.integers(0, 1000), st.booleans(), st.booleans())
def test_curve_equals_a_brute_force_sweep(seed, ties, per_class):
  scores, (decisions, labels, seen) = random_case(seed, ties=ties)
  curve = seen_unseen_curve(decisions, labels, seen, per_class)
  of_seen = seen[labels]
  for gamma, u, s in zip(curve.gamma, curve.unseen, curve.seen, strict=True):
    right = (scores.astype(np.float64) - gamma * seen).argmax(1) == labels
    expected = [right[~of_seen].mean(), right[of_seen].mean()]
    if per_class:
      expected = [
        mean_over_classes(right[side], labels[side]) for side in (~of_seen, of_seen)
      ]
    np.testing.assert_allclose([u, s], expected, atol=1e-12)
  assert (np.diff(curve.gamma) > 0).all()
  assert (np.diff(curve.unseen) >= 0).all() and (np.diff(curve.seen) <= 0).all()


@given(st.integers(0, 1000), st.sampled_from(["additive", "multiplicative"]))
def test_best_gamma_beats_a_grid(seed, kind):
  _, case = random_case(seed)
  best = seen_unseen_curve(*case, kind=kind).best()
  grid = np.linspace(-4, 4, 101) if kind == "additive" else np.linspace(0.01, 1.99, 101)

  def h_at(calibration):
    return single_label_metrics(*case, calibration)["h"]

  assert h_at(best) >= max(h_at(Calibration(kind, gamma)) for gamma in grid) - 1e-9


@given(
  st.integers(0, 1000),
  st.sampled_from(["additive", "multiplicative"]),
  st.sampled_from([-0.3, 0.2, 0.7]),
)
def test_best_share_is_the_best_of_several_curves(seed, kind, margin):
  cases = [random_case(seed + i)[1] for i in range(2)]
  curves = [seen_unseen_curve(*case, kind=kind) for case in cases]
  share, h = best_share(np.array([curve.h_of_shares(margin) for curve in curves]))

  def mean_h(share):
    calibration = of_share(share, margin, kind)
    return np.mean([single_label_metrics(*case, calibration)["h"] for case in cases])

  assert mean_h(share) == pytest.approx(h, abs=1e-9)
  assert h >= max(mean_h(other) for other in SHARES[::20]) - 1e-9


def test_one_score_near_zero_does_not_carry_the_mean_margin():
  scores = np.array([1.0, 1.0, 1e-6], np.float32)
  decisions = Decisions(np.zeros(3), scores, np.ones(3), np.array([0.5, 0.5, -0.5]))
  assert decisions.mean_margin("multiplicative") == pytest.approx((0.5 + 0.5 + 1) / 3)
  assert decisions.mean_margin() == pytest.approx(0.5, abs=1e-5)


@given(st.integers(0, 1000), st.booleans(), st.floats(0.01, 1.99))
def test_multiplicative_calibration_is_its_definition(seed, positive, gamma):
  scores, case = random_case(seed, positive=positive)
  seen = case[2]
  exact = scores.astype(np.float64)
  lowered = np.where(seen, exact - (1 - gamma) * np.abs(exact), exact)
  if positive:
    np.testing.assert_allclose(lowered[:, seen], gamma * exact[:, seen])
  found = single_label_metrics(*case, Calibration("multiplicative", gamma))
  expected = numpy_metrics(lowered, *case[1:])
  for name in ("u", "s"):
    np.testing.assert_allclose(found[name], expected[name], atol=1e-9, err_msg=name)


@pytest.mark.parametrize("seen_first", [True, False])
@pytest.mark.parametrize("gamma", [0.5, 1.5])
def test_ties_at_zero_go_to_the_first_class_at_every_gamma(seen_first, gamma):
  seen = np.array([seen_first, not seen_first])
  decisions = jax.device_get(decide(np.zeros((2, 2), np.float32), seen))
  calibration = Calibration("multiplicative", gamma)
  assert not generalized_predictions(decisions, calibration).any()
  curve = seen_unseen_curve(decisions, np.arange(2), seen, kind="multiplicative")
  first = curve.seen if seen_first else curve.unseen
  assert first[np.searchsorted(curve.margins, calibration.penalty)] == 1


@pytest.mark.parametrize(
  ("kind", "gamma", "message"),
  [
    ("multiplicative", 0.0, "gamma: found 0.0, expected between 0 and 2"),
    ("multiplicative", 2.0, "gamma: found 2.0, expected between 0 and 2"),
    ("times", 1.0, "calibration: found 'times', expected one of additive, mul"),
  ],
)
def test_spoilt_calibrations_are_refused(kind, gamma, message):
  with pytest.raises(ZsljaxError, match=message):
    Calibration(kind, gamma)


def test_golden_metrics_json():
  golden = pathlib.Path(os.environ.get("ZSLJAX_GOLDEN", "")) / "metrics.json"
  if not golden.is_file():
    pytest.skip("ZSLJAX_GOLDEN names no folder with metrics.json")
  values = json.loads(golden.read_text())
  seen = np.array(values["gzsl_seen_mask"], bool)
  space = ClassSpace.create([str(i) for i in range(len(seen))], np.eye(len(seen)), seen)
  logits = np.array(values["gzsl_logits"], np.float32)
  decisions = jax.device_get(decide(logits, seen))
  labels = np.asarray(space.positions(np.array(values["gzsl_targets"])))
  given = zsljax.evaluate(logits, labels, seen)
  for found in (single_label_metrics(decisions, labels, seen), given):
    for name, key in (("t1", "zsl"), ("u", "U"), ("s", "S"), ("h", "H")):
      np.testing.assert_allclose(found[name], 100 * values[f"msdn_{key}"], rtol=1e-6)
  per_sample = seen_unseen_curve(decisions, labels, seen, per_class=False)
  np.testing.assert_allclose(
    100 * per_sample.area(), values["classnorm_ausuc_x100"], rtol=1e-6
  )
