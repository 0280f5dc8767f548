"""Timing of repeated calls, in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import statistics
import time
from typing import Any

import jax

_WARM_UP = 3
_LEAST_ROUNDS = 5


def time_calls(
  calls: Mapping[str, Callable[[], Any]], seconds: float = 4.0
) -> dict[str, dict[str, float]]:
  """Times calls (which return JAX arrays) in turns, after a warm-up.

  The speed of a machine that others share changes with time; in turns, all calls meet
  the same moments.

  Args:
    calls: functions by name; each is waited for.
    seconds: time to spend; at least 5 rounds are timed.

  Returns:
    Seconds of each call: ``median``, and the quartiles ``low`` and ``high``.
  """
  for call in calls.values():
    for _ in range(_WARM_UP):
      jax.block_until_ready(call())
  times: dict[str, list[float]] = {name: [] for name in calls}
  begin, rounds = time.perf_counter(), 0
  while rounds < _LEAST_ROUNDS or time.perf_counter() < begin + seconds:
    for name, call in calls.items():
      start = time.perf_counter()
      jax.block_until_ready(call())
      times[name].append(time.perf_counter() - start)
    rounds += 1
  quartiles = {name: statistics.quantiles(t, n=4) for name, t in times.items()}
  return {
    name: {"median": median, "low": low, "high": high}
    for name, (low, median, high) in quartiles.items()
  }
