import dataclasses
import json
import os
import pathlib
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

import zsljax
from zsljax.errors import ZsljaxError
from zsljax.evaluation import thresholds as thresholds_module
from zsljax.evaluation.multilabel import (
  MULTI_LABEL_PROTOCOLS,
  MultiLabelProtocol,
  average_precisions,
  best_labels,
  decision_metrics,
  multi_label_metrics,
  resampled_decisions,
)
from zsljax.evaluation.thresholds import best_threshold, choose_thresholds

GOLDEN = pathlib.Path(os.environ.get("ZSLJAX_GOLDEN") or "absent") / "metrics.json"
# Published tables and stored rows use these names.
NAMES = ("lesa", "biam_openimages", "sdl", "ml_decoder", "dualcoop")


def case(seed=0, images=30, labels=8, ties=False):
  rng = np.random.default_rng(seed)
  scores = rng.standard_normal((images, labels))
  if ties:
    scores = np.round(scores)
  return scores, rng.choice([-1, 0, 1], (images, labels), p=[0.4, 0.4, 0.2])


def numpy_average_precision(scores, labels):
  """Mean over positives of the precision at their score."""
  positive = labels > 0
  if not positive.any():
    return 0.0
  precisions = [np.mean(positive[scores >= s]) for s in scores[positive]]
  return np.mean(precisions)


@given(st.integers(0, 1000), st.booleans())
def test_average_precision_equals_its_definition(seed, ties):
  scores, labels = case(seed, ties=ties)
  for unannotated in ("ignore", "negative"):
    found = average_precisions(scores, labels, unannotated)
    for c, value in enumerate(found):
      kept = labels[:, c] != 0 if unannotated == "ignore" else slice(None)
      expected = numpy_average_precision(scores[kept, c], labels[kept, c])
      np.testing.assert_allclose(value, expected, atol=1e-12)


@given(st.integers(0, 1000))
def test_decision_metrics_equal_scikit_learn(seed):
  scores, labels = case(seed)
  present, options = labels == 1, {"zero_division": 0}
  for k, chosen in best_labels(scores, (1, 3, 8)).items():
    assert (chosen.sum(1) == k).all()
    found = decision_metrics(chosen, labels)
    expected = {
      "p": precision_score(present, chosen, average="micro", **options),
      "r": recall_score(present, chosen, average="micro", **options),
      "f1": f1_score(present, chosen, average="micro", **options),
      "sample_f1": f1_score(present, chosen, average="samples", **options),
      "macro_f1": f1_score(present, chosen, average="macro", **options),
    }
    assert found == pytest.approx(expected)


@given(st.integers(0, 1000))
def test_the_best_labels_have_the_highest_scores(seed):
  scores, _ = case(seed)
  for k, chosen in best_labels(scores, (1, 3)).items():
    for row, own in zip(scores, chosen, strict=True):
      assert set(np.flatnonzero(own)) == set(np.argsort(-row)[:k])


def test_ties_go_to_the_first_label():
  labels = np.array([[1, 0, 0], [0, 0, 1]])
  found = decision_metrics(best_labels(np.zeros((2, 3)), (1,))[1], labels)
  assert (found["p"], found["r"]) == (0.5, 0.5)


@given(st.integers(0, 1000), st.booleans())
def test_the_best_threshold_has_the_highest_f1(seed, ties):
  scores, labels = case(seed, labels=1, ties=ties)
  present = labels[:, 0] == 1
  cuts = [best_threshold(scores[:, 0], present), *scores[:, 0]]
  found, *others = (
    f1_score(present, scores[:, 0] >= cut, zero_division=0) for cut in cuts
  )
  assert found >= max(others) - 1e-9


def test_thresholds_of_labels():
  """A seen label has its own; one is for all that were held out."""
  scores = np.array([[5.0, 1.0, 9.0], [4.0, 2.0, 8.0], [1.0, 3.0, 2.0]])
  labels = np.array([[1, -1, 1], [1, -1, -1], [-1, -1, 0]])
  one = scores, labels, ("a", "b", "c"), np.array([True, True, False])
  other = scores - 1, labels, ("a", "b", "c"), np.array([False, True, True])
  with mock.patch.object(thresholds_module, "_LEAST", 1):
    found = choose_thresholds([one, other])
  assert found.own == {"a": 2.5, "c": 7.5}
  assert choose_thresholds([one, other]).own == {}
  assert found.unseen == best_threshold(
    np.array([9.0, 8.0, 4.0, 3.0, 0.0]), np.array([True, False, True, True, False])
  )
  seen = np.array([True, True, False])
  expected = [2.5, found.seen, found.unseen]
  np.testing.assert_array_equal(found.of(["a", "b", "new"], seen), expected)


def test_labels_given_by_thresholds_are_counted():
  scores, labels = case()
  seen, rules = np.arange(8) < 5, MULTI_LABEL_PROTOCOLS["lesa"]
  thresholds = np.linspace(-1, 1, 8)
  metrics, _ = multi_label_metrics(scores, labels, seen, rules, thresholds)
  expected = decision_metrics(scores >= thresholds, labels)
  for name, value in expected.items():
    assert metrics[f"gzsl_{name}@threshold"] == pytest.approx(100 * value)
  drawn = resampled_decisions(scores, labels, seen, rules, thresholds)
  assert drawn["gzsl_f1@threshold"].mean() == pytest.approx(
    metrics["gzsl_f1@threshold"], abs=1
  )


@given(st.integers(0, 1000))
def test_order_of_images_does_not_matter(seed):
  scores, labels = case(seed, ties=True)
  rows = np.random.default_rng(seed).permutation(len(scores))
  seen = np.arange(8) < 5
  for protocol in MULTI_LABEL_PROTOCOLS.values():
    found, _ = multi_label_metrics(scores, labels, seen, protocol)
    shuffled, _ = multi_label_metrics(scores[rows], labels[rows], seen, protocol)
    for name, value in found.items():
      np.testing.assert_allclose(shuffled[name], value, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 1000))
def test_density_is_k_times_precision_over_recall(name, seed):
  scores, labels = case(seed)
  protocol = dataclasses.replace(MULTI_LABEL_PROTOCOLS[name], top_k=(2, 3))
  metrics, counted = multi_label_metrics(scores, labels, np.arange(8) < 5, protocol)
  for setting, part in counted.items():
    for k in (2, 3):
      p, r = metrics[f"{setting}_p@{k}"], metrics[f"{setting}_r@{k}"]
      if r:
        np.testing.assert_allclose(k * p / r, part["density"])
        f1 = metrics[f"{setting}_f1@{k}"]
        np.testing.assert_allclose(f1, 2 * p * r / (p + r))


def test_zero_shot_scores_the_unseen_labels_alone():
  scores, labels = case()
  seen = np.arange(8) % 2 == 0
  protocol = MULTI_LABEL_PROTOCOLS["lesa"]
  metrics, counted = multi_label_metrics(scores, labels, seen, protocol)
  scores[:, seen] += 100 * scores[:, :1]
  shifted, _ = multi_label_metrics(scores, labels, seen, protocol)
  for name, value in metrics.items():
    if name.startswith("zsl"):
      assert shifted[name] == value
  assert shifted["gzsl_map"] != metrics["gzsl_map"]
  assert [counted[s]["labels"] for s in ("zsl", "gzsl")] == [4, 8]


def test_what_the_protocols_do_with_bare_images_and_labels():
  scores, labels = case(images=40)
  labels[:10] = np.minimum(labels[:10], 0)  # Images without a label.
  labels[:, 7] = 0  # A label that nobody annotated.
  labels[:, 6] = -1  # One that nothing has.
  seen = np.arange(8) < 4
  found = {}
  for name in NAMES:
    protocol = MULTI_LABEL_PROTOCOLS[name]
    found[name], counted = multi_label_metrics(scores, labels, seen, protocol)
    images = 40 if name == "lesa" else np.sum((labels[:, 4:] > 0).any(1))
    assert counted["zsl"]["images"] == images
  assert found["sdl"] == found["ml_decoder"] == found["dualcoop"]
  kept = (labels[:, 4:] > 0).any(1)
  ap = average_precisions(scores[kept, 4:], labels[kept, 4:], "ignore")
  np.testing.assert_allclose(found["biam_openimages"]["zsl_map"], 100 * ap.mean())
  bare = (labels <= 0).all(1)
  ap_of_all = average_precisions(scores[~bare], labels[~bare], "ignore")
  np.testing.assert_allclose(
    found["biam_openimages"]["gzsl_map"], 100 * ap_of_all[:7].mean()
  )
  assert ap[2] == 0
  weights = np.sum(labels[kept, 4:] > 0, 0)
  np.testing.assert_allclose(
    found["biam_openimages"]["zsl_weighted_map"], 100 * ap @ weights / weights.sum()
  )
  ap = average_precisions(scores[:, 4:], labels[:, 4:], "ignore")
  np.testing.assert_allclose(found["lesa"]["zsl_map"], 100 * ap.mean())


def test_k_above_the_number_of_labels_is_passed_over():
  scores, labels = case()
  seen = np.arange(8) < 5
  protocol = MultiLabelProtocol(False, "ignore", top_k=(3, 5, 10))
  metrics, _ = multi_label_metrics(scores, labels, seen, protocol)
  at = {name for name in metrics if "sl_f1@" in name}
  assert at == {"zsl_f1@3", "gzsl_f1@3", "gzsl_f1@5"}


@pytest.mark.parametrize("protocol", MULTI_LABEL_PROTOCOLS.values(), ids=NAMES)
def test_nothing_to_find_is_zero(protocol):
  metrics, counted = multi_label_metrics(
    np.zeros((4, 6)), np.full((4, 6), -1), np.arange(6) < 3, protocol
  )
  assert set(metrics.values()) == {0.0}
  assert counted["gzsl"]["density"] == 0


@pytest.mark.parametrize(
  ("scores", "labels", "message"),
  [
    (np.full((2, 3), np.nan), np.zeros((2, 3)), "scores: found NaN for 2 of 2 images"),
    (np.zeros((2, 3)), np.zeros((2, 4)), r"labels: found shape \(2, 4\), expected \(2"),
    (np.zeros((2, 3)), np.zeros(2), r"labels: found shape \(2,\), expected \(2, 3\)"),
  ],
)
def test_bad_scores_and_labels_are_named(scores, labels, message):
  protocol = MULTI_LABEL_PROTOCOLS["lesa"]
  with pytest.raises(ZsljaxError, match=message):
    multi_label_metrics(scores, labels, np.arange(3) < 2, protocol)


@pytest.mark.skipif(
  not GOLDEN.is_file(), reason="ZSLJAX_GOLDEN names no folder with it"
)
def test_golden_metrics():
  """Numbers of the released evaluations, each under its protocol's name."""
  golden = json.loads(GOLDEN.read_text())
  scores, labels = np.array(golden["pred"]), np.array(golden["labels"])
  none_seen = np.zeros(scores.shape[1], bool)

  def metrics(rules):
    rules = dataclasses.replace(rules, top_k=(1, 3, 5))
    return multi_label_metrics(scores, labels, none_seen, rules)[0]

  def named(name):
    return metrics(MULTI_LABEL_PROTOCOLS[name])

  lesa, sdl = named("lesa"), named("sdl")
  # As a user's scores, with a label that is seen and on no image.
  wider = [np.pad(x, ((0, 0), (0, 1)), constant_values=-1) for x in (scores, labels)]
  seen = np.arange(scores.shape[1] + 1) == scores.shape[1]
  for name, expected in (("lesa", lesa), ("sdl", sdl)):
    given = zsljax.evaluate(wider[0], wider[1].astype(int), seen, name, top_k=(1, 3, 5))
    zsl = {k: v for k, v in expected.items() if k.startswith("zsl_")}
    for metric, value in zsl.items():
      np.testing.assert_allclose(given[metric], value, rtol=1e-6, err_msg=metric)
  all_images = metrics(MultiLabelProtocol(False, "negative"))
  for found, expected in (
    (lesa["zsl_map"], golden["lesa_map"]),
    (lesa["zsl_map"], golden["biam_map_mean_over_all_classes"]),
    (lesa["zsl_map"], golden["mkt_map"]),
    (sdl["zsl_map"], golden["sdl_map_relevant"]),
    (named("ml_decoder")["zsl_map"], golden["sdl_map_relevant"]),
    (all_images["zsl_map"], golden["sdl_map_all"]),
  ):
    np.testing.assert_allclose(found / 100, expected, atol=1e-6)
  for source in ("lesa", "biam"):
    np.testing.assert_allclose(
      average_precisions(scores, labels, "ignore"),
      golden[f"{source}_ap_per_class"],
      atol=1e-6,
    )
  for k in (1, 3, 5):
    for found, source in (
      (lesa, "lesa_f1_p_r"),
      (lesa, "biam_f1_p_r"),
      (sdl, "sdl_f1_p_r"),
      (all_images, "sdl_f1_p_r_all_images"),
    ):
      at = [found[f"zsl_{name}@{k}"] / 100 for name in ("f1", "p", "r")]
      np.testing.assert_allclose(at, golden[f"{source}@{k}"], atol=1e-6, err_msg=source)
