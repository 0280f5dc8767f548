"""The rule of a sweep on made-up results of folds."""

import numpy as np
import pytest

from zsljax.errors import ZsljaxError
from zsljax.evaluation.calibration import SHARES
from zsljax.runs.selection import choose


def line(scale, step, fold, value, peak=0.5, seed=0):
  h = np.zeros(len(SHARES))
  h[np.argmin(abs(SHARES - peak))] = 50
  point = {"system.scale": scale}
  return {
    **{"point": point, "step": step, "fold": fold, "seed": seed, "value": value},
    **{"metric": "ausuc", "h": h.tolist()},
  }


def lines(values, **options):
  """Lines of settings (scale, step) with a value for each fold."""
  return [
    line(scale, step, fold, value, **options)
    for (scale, step), of_folds in values.items()
    for fold, value in enumerate(of_folds)
  ]


def test_longest_within_a_standard_error_of_the_best():
  values = {
    (1.0, 10): (40, 50, 60),  # The best, with a standard error of 5.8.
    (1.0, 20): (39, 48, 57),
    (2.0, 20): (38, 48, 57),
    (2.0, 30): (30, 40, 50),  # Longer, but beyond the error.
  }
  chosen = choose(lines(values), [0, 1, 2])
  assert (chosen["point"], chosen["step"]) == ({"system.scale": 1.0}, 20)
  assert chosen["value"] == pytest.approx(48)
  assert chosen["standard_error"] == pytest.approx(10 / np.sqrt(3))
  assert chosen["share"] == 0.5 and chosen["h"] == 50
  # One fold has no error: the best itself.
  assert choose(lines(values), [0])["step"] == 10


def test_folds_count_as_often_as_they_are_drawn():
  values = {(1.0, 10): (40, 10), (2.0, 10): (20, 30)}
  assert choose(lines(values), [0, 0])["point"] == {"system.scale": 1.0}
  assert choose(lines(values), [1, 1])["point"] == {"system.scale": 2.0}


def test_the_share_is_that_of_the_highest_mean_h():
  found = [line(1.0, 10, fold, 40, peak) for fold, peak in enumerate((0.2, 0.7, 0.7))]
  chosen = choose(found, [0, 1, 2])
  assert chosen["share"] == 0.7 and chosen["h"] == pytest.approx(100 / 3)


def test_a_repeated_line_counts_once_and_the_later_one():
  found = lines({(1.0, 10): (40, 40)}) + lines({(1.0, 10): (50, 50)})
  assert choose(found, [0, 1])["value"] == 50


def test_settings_that_diverge_on_a_fold_are_left_out():
  values = {(1.0, 10): (90, None), (2.0, 10): (20, 30)}
  assert choose(lines(values), [0, 1])["point"] == {"system.scale": 2.0}
  with pytest.raises(ZsljaxError, match="loss of all 1 settings is not finite"):
    choose(lines({(1.0, 10): (None, None)}), [0, 1])
