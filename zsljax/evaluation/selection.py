"""The value by which a sweep compares settings, from runs that differ in their seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zsljax.evaluation.calibration import Calibration, best_calibration
from zsljax.evaluation.evaluator import Report


def selection_value(
  reports: Sequence[Report | None], metric: str
) -> tuple[float, Calibration | None]:
  """The mean of a metric over several seeds, in percent, and the best calibration.

  The calibration is the one with the highest mean of H; None where the protocol has
  none. ``h`` is the mean at that calibration, other metrics are without one. Minus
  infinity where the report of a run that is not finite is missing.
  """
  finite = [report for report in reports if report is not None]
  if len(finite) < len(reports):
    return -np.inf, None
  value = float(np.mean([report.metrics[metric] for report in finite]))
  if finite[0].curve is None:
    return value, None
  calibration, h = best_calibration([report.curve for report in finite])
  return (100 * h if metric == "h" else value), calibration
