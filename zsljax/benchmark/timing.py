"""Timing of repeated calls, in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import statistics
import time
from typing import Any

import jax

_WARM_UP = 3
_LEAST_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Timing:
  """Seconds of repeated calls: median and quartiles."""

  median: float
  low: float
  high: float

  def __str__(self) -> str:
    return f"{1e3 * self.median:.3f} ms ({1e3 * self.low:.3f}-{1e3 * self.high:.3f})"


def time_calls(
  calls: Mapping[str, Callable[[], Any]], seconds: float = 4.0
) -> dict[str, Timing]:
  """Times calls (which return JAX arrays) in turns, after a warm-up.

  The speed of a machine that others share changes with time; in turns, all calls meet
  the same moments.

  Args:
    calls: functions by name; each is waited for.
    seconds: time to spend; at least 5 rounds are timed.
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
    name: Timing(median, low, high) for name, (low, median, high) in quartiles.items()
  }
