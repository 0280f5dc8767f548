"""Rates of the input pipeline alone, of the step alone, and of both together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import statistics
import time
from typing import Any

import jax
import numpy as np

from zsljax.benchmark.shapes import NUM_EXAMPLES, random_table, rows_of
from zsljax.benchmark.step import Step
from zsljax.models import MULTI_LABEL, Batch, Spec, System
from zsljax.training import feed
from zsljax.training.inputs import HostBatch

_ROUNDS = 3
# Most bytes of a random training set in the host's memory.
_TABLE_BYTES = 2**29


def from_store(stored: Any, batch_size: int, step: Step) -> dict[str, Any]:
  """Measures rates of batches streamed from a stored dataset by tf.data."""
  from zsljax.data import TrainingData

  data = TrainingData(stored, "trainval", batch_size, seed=0, cache="none")
  number = 4 * data.steps_per_epoch
  return _rates("streamed from files", lambda: data.batches(0), number, step)


def from_host(
  system: System, spec: Spec, step: Step, num_seen: int, number: int
) -> dict[str, Any]:
  """Measures rates of random batches gathered from a table in the host's memory.

  ``number`` batches are timed.
  """
  batch_size = len(step.batch.labels)
  rows = min(NUM_EXAMPLES, _TABLE_BYTES * batch_size // step.batch.features.nbytes)
  rows = max(batch_size, rows)
  dtype = step.batch.features.dtype
  width = {"labels": step.batch.labels.shape[1]} if system.task == MULTI_LABEL else None
  table = random_table(system, spec, rows, num_seen, dtype, width)

  def batches() -> Iterator[HostBatch]:
    rng = np.random.default_rng(0)
    while True:
      yield rows_of(table, rng.integers(rows, size=batch_size))

  return _rates("gathered in the host's memory", batches, number, step)


def _rates(
  source: str, batches: Callable[[], Iterator[HostBatch]], number: int, step: Step
) -> dict[str, Any]:
  """Times ``number`` batches three times; medians of seconds and rows a second."""
  sharding = step.batch.features.sharding
  assert isinstance(sharding, jax.sharding.NamedSharding)
  mesh = sharding.mesh
  rounds = []
  for _ in range(_ROUNDS):
    first = next(feed(batches(), mesh, NUM_EXAMPLES))
    rounds.append(
      {
        "input": _seconds(feed(batches(), mesh, NUM_EXAMPLES), number, _features),
        "step": _seconds(iter([first] * (number + 1)), number, step.call),
        "together": _seconds(feed(batches(), mesh, NUM_EXAMPLES), number, step.call),
      }
    )
  seconds = {part: statistics.median(r[part] for r in rounds) for part in rounds[0]}
  rows = number * len(step.batch.labels)
  return {
    "source": source,
    "rows": rows,
    **{f"{part}_seconds": value for part, value in seconds.items()},
    **{f"{part}_rows_per_second": rows / value for part, value in seconds.items()},
    "together_over_sum": seconds["together"] / (seconds["input"] + seconds["step"]),
  }


def _features(batch: Batch) -> jax.Array:
  return batch.features


def _seconds(stream: Iterator[Batch], number: int, use: Callable[[Batch], Any]):
  """Times ``use`` of ``number`` batches, after one that is not timed."""
  last = jax.block_until_ready(use(next(stream)))
  start = time.perf_counter()
  for _ in range(number):
    last = use(next(stream))
  jax.block_until_ready(last)
  return time.perf_counter() - start
