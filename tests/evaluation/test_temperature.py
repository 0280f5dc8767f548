import numpy as np
import pytest

from zsljax.evaluation.temperature import (
  ScoredImages,
  best_temperature_share,
  probabilities,
)


def drawn(scale, images=4000, seed=0):
  """Images whose classes are drawn by the softmax of their scores over ``scale``."""
  rng = np.random.default_rng(seed)
  logits = 2 * rng.standard_normal((images, 5))
  noise = rng.gumbel(size=logits.shape)
  return ScoredImages(scale * logits, (logits + noise).argmax(1), mean_margin=scale)


@pytest.mark.parametrize("scale", [0.01, 1.0, 40.0])
def test_the_temperature_of_drawn_classes_is_found_at_any_scale(scale):
  share = best_temperature_share([drawn(scale), drawn(scale, seed=1)])
  assert share == pytest.approx(1, rel=0.05)
  found = probabilities(drawn(scale, seed=2), share)
  assert found["temperature"] == pytest.approx(scale, rel=0.05)
  assert found["ece"] < 3
  if scale != 1:
    assert found["ece_before"] > 20


def test_error_is_the_mean_gap_of_bins():
  scores = np.log([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
  images = ScoredImages(scores, np.array([0, 1, 0, 0]), 1.0)
  assert images.error() == pytest.approx(100 * (2 * 0.4 + 2 * 0.4) / 4)
