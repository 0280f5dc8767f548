"""Bootstraps: their intervals hold the truth as often as they say."""

import numpy as np
import pytest

from zsljax.evaluation.bootstrap import (
  Hits,
  interval,
  like_the_best,
  resampled,
  resampled_means,
)
from zsljax.evaluation.metrics import harmonic_mean
from zsljax.evaluation.multilabel import (
  MULTI_LABEL_PROTOCOLS,
  multi_label_metrics,
  resampled_decisions,
)


def drawn(rng, chances, images, runs=1):
  """Hits of classes whose images are right by given chances; the last are unseen."""
  labels = np.repeat(np.arange(len(chances)), images)
  right = rng.random((runs, len(labels))) < chances[labels]
  return Hits(right, right, labels, labels < len(chances) * 2 // 3)


def test_resampled_metrics_surround_those_of_the_test_set():
  rng = np.random.default_rng(0)
  hits = drawn(rng, rng.uniform(0.3, 0.9, 12), 50, runs=3)
  found = resampled(hits, 400)
  shares = [
    np.mean([hits.among_all[:, hits.labels == c].mean(1) for c in side], 0)
    for side in (range(8, 12), range(8))
  ]
  for name, expected in zip(
    ("u", "s", "h"), [*shares, harmonic_mean(*shares)], strict=True
  ):
    assert found[name].mean() == pytest.approx(100 * expected.mean(), abs=0.5)
    assert 0 < found[name].std() < 5
  np.testing.assert_array_equal(found["t1"], found["u"])
  np.testing.assert_array_equal(found["h"], resampled(hits, 400)["h"])


@pytest.mark.slow
@pytest.mark.parametrize("images", [30, 100])
def test_intervals_hold_a_known_accuracy(images):
  rng = np.random.default_rng(1)
  chances = rng.uniform(0.3, 0.9, 12)
  u, s = chances[8:].mean(), chances[:8].mean()
  truth = {"u": u, "s": s, "h": harmonic_mean(u, s)}
  held = dict.fromkeys(truth, 0)
  for _ in range(1000):
    found = resampled(drawn(rng, chances, images))
    for name, value in truth.items():
      low, high = interval(found[name])
      held[name] += low <= 100 * value <= high
  for name, times in held.items():
    assert 930 <= times <= 970, name


def tagged(rng, images, labels=20):
  """Scores that find some of the labels; half of the labels are seen."""
  present = np.where(rng.random((images, labels)) < 0.15, 1, -1)
  present[rng.random(images) < 0.1] = -1
  scores = rng.normal(size=(images, labels)) + 0.8 * present
  return scores, present, np.arange(labels) < labels // 2


@pytest.mark.parametrize("protocol", ["lesa", "sdl"])
def test_resampled_precision_and_recall_surround_those_of_the_test_set(protocol):
  case = *tagged(np.random.default_rng(3), 300), MULTI_LABEL_PROTOCOLS[protocol]
  metrics, _ = multi_label_metrics(*case)
  drawn = resampled_decisions(*case)
  assert len(drawn) == 12
  for name, values in drawn.items():
    assert values.mean() == pytest.approx(metrics[name], abs=0.5), name
    assert 0.3 < values.std() < 4, name


def test_groups_keep_their_images():
  groups = np.array([0, 1, 1, 0, 1])
  drawn = resampled_means(np.eye(5), groups, draws=200)
  np.testing.assert_allclose(drawn[:, groups == 0].sum(1), 2 / 5)
  assert drawn.std(0) == pytest.approx([0.14] * 2 + [0.16] + [0.14, 0.16], abs=0.04)


@pytest.mark.slow
def test_intervals_hold_a_known_f1():
  rng = np.random.default_rng(4)
  protocol = MULTI_LABEL_PROTOCOLS["lesa"]
  truth, _ = multi_label_metrics(*tagged(rng, 200_000), protocol)
  names = ("zsl_f1@3", "gzsl_f1@5")
  held = dict.fromkeys(names, 0)
  for _ in range(1000):
    drawn = resampled_decisions(*tagged(rng, 200), protocol)
    for name in names:
      low, high = interval(drawn[name])
      held[name] += low <= truth[name] <= high
  for name, times in held.items():
    assert 930 <= times <= 970, name


def test_equal_systems_are_not_told_apart_and_others_are():
  rng = np.random.default_rng(2)
  chances = rng.uniform(0.5, 0.6, 9)
  systems = {name: drawn(rng, chances, 60) for name in "abcd"}
  systems["poor"] = drawn(rng, chances - 0.3, 60)
  h = {name: resampled(hits)["h"] for name, hits in systems.items()}
  mean = {name: float(values.mean()) for name, values in h.items()}
  assert like_the_best(h, mean) == set("abcd")
