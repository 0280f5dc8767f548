"""Timing of repeated calls, in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import math
import statistics
import time
from typing import Any

import jax

_WARM_UP = 3
_LEAST_ROUNDS = 5
# Seconds of work that wait on an accelerator while calls are started, and most calls.
_QUEUED_SECONDS, _MOST_QUEUED = 0.02, 100


def time_calls(
  calls: Mapping[str, Callable[[], Any]], seconds: float = 4.0
) -> dict[str, dict[str, float]]:
  """Times calls (which return JAX arrays) in turns, after a warm-up.

  The speed of a machine that others share changes with time; in turns, all calls meet
  the same moments. Starting a call on an accelerator and hearing of its end can take
  longer than a short step does: there, as many calls as fill 20 ms are started one
  after the other before the last is waited for.

  Args:
    calls: functions by name.
    seconds: time to spend; at least 5 rounds are timed.

  Returns:
    Seconds of each call: ``median``, and the quartiles ``low`` and ``high``.
  """
  queued = {}
  for name, call in calls.items():
    alone = min(_seconds(call, 1) for _ in range(_WARM_UP))
    enough = math.ceil(_QUEUED_SECONDS / alone)
    queued[name] = 1 if jax.default_backend() == "cpu" else min(enough, _MOST_QUEUED)
  times: dict[str, list[float]] = {name: [] for name in calls}
  begin, rounds = time.perf_counter(), 0
  while rounds < _LEAST_ROUNDS or time.perf_counter() < begin + seconds:
    for name, call in calls.items():
      times[name].append(_seconds(call, queued[name]))
    rounds += 1
  quartiles = {name: statistics.quantiles(t, n=4) for name, t in times.items()}
  return {
    name: {"median": median, "low": low, "high": high}
    for name, (low, median, high) in quartiles.items()
  }


def _seconds(call: Callable[[], Any], queued: int) -> float:
  """Seconds that each of some calls takes, of which the last is waited for."""
  last, start = None, time.perf_counter()
  for _ in range(queued):
    last = call()
  jax.block_until_ready(last)
  return (time.perf_counter() - start) / queued
