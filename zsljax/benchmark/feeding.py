"""The input pipeline alone, the step alone, and both together."""

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
from zsljax.training import (
  feed,
)
from zsljax.training.inputs import HostBatch

_ROUNDS = 3
# Of a random training set in the host's memory, at most.
_TABLE_BYTES = 2**29


def input_rates(
  batches: Callable[[], Iterator[Batch]], one_step: Callable, number: int
) -> dict[str, float]:
  """Seconds for ``number`` batches: input alone, steps alone, both together.

  Args:
    batches: starts the input pipeline, batches on the device.
    one_step: takes a step on a batch.
    number: of batches.
  """

  def consume(use: Callable[[Batch], Any]) -> float:
    stream = batches()
    jax.block_until_ready(use(next(stream)))
    start = time.perf_counter()
    for _ in range(number):
      last = use(next(stream))
    jax.block_until_ready(last)
    return time.perf_counter() - start

  first = next(batches())
  start = time.perf_counter()
  for _ in range(number):
    last = one_step(first)
  jax.block_until_ready(last)
  step_only = time.perf_counter() - start
  return {
    "input_seconds": consume(lambda batch: batch.features),
    "step_seconds": step_only,
    "together_seconds": consume(one_step),
  }


def from_store(stored: Any, batch_size: int, step: Step) -> dict[str, Any]:
  """Rates of batches streamed from a stored dataset by tf.data."""
  from zsljax.data import TrainingData

  data = TrainingData(stored, "trainval", batch_size, seed=0, cache="none")
  number = 4 * data.steps_per_epoch
  return _rates("streamed from files", lambda: data.batches(0), number, step)


def from_host(
  system: System,
  spec: Spec,
  step: Step,
  num_seen: int,
  number: int,
  small: bool = False,
) -> dict[str, Any]:
  """Rates of ``number`` random batches gathered from a table in the host's memory.

  A ``small`` table is one batch.
  """
  batch_size = len(step.batch.labels)
  rows = min(NUM_EXAMPLES, _TABLE_BYTES * batch_size // step.feature_bytes)
  rows = batch_size if small else max(batch_size, rows)
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
  mesh = step.batch.features.sharding.mesh

  def on_device() -> Iterator[Batch]:
    return feed(batches(), mesh, NUM_EXAMPLES)

  rounds = [input_rates(on_device, step.call, number) for _ in range(_ROUNDS)]
  seconds = {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
  rows = number * len(step.batch.labels)
  return {
    "source": source,
    "rows": rows,
    **seconds,
    **{k.replace("seconds", "rows_per_second"): rows / v for k, v in seconds.items()},
    "together_over_sum": seconds["together_seconds"]
    / (seconds["input_seconds"] + seconds["step_seconds"]),
  }
