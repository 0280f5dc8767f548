"""Choice of the rows of each batch: pure functions of seed, epoch or step, and host."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

SAMPLINGS = ("epochs", "independent", "class_balanced")


def permuted(seed: int, epoch: int, host: int, rows: int) -> np.ndarray:
  """Returns the order in which an epoch visits a host's rows, ``[rows]``."""
  return np.random.default_rng([seed, epoch, host]).permutation(rows)


def order_of_pieces(seed: int, epoch: int, pieces: int) -> tuple[np.ndarray, int]:
  """Returns the order of the pieces of files in an epoch, and its shuffling seed."""
  rng = np.random.default_rng([seed, epoch])
  order = rng.permutation(pieces)
  return order, int(rng.integers(2**31))


def independent(seed: int, step: int, host: int, rows: int, size: int) -> np.ndarray:
  """Returns ``size`` of a host's rows, drawn without replacement."""
  rng = np.random.default_rng([seed, step, host])
  return rng.choice(rows, size, replace=False)


def class_balanced(
  seed: int,
  step: int,
  host: int,
  rows_of: Mapping[int, np.ndarray],
  size: int,
  hosts: int,
) -> np.ndarray:
  """Returns one row of each of the ``size`` classes that this host draws.

  Args:
    seed: seed of the run.
    step: number of the batch.
    host: index of this process.
    rows_of: this host's rows of each class, for the same classes on every host.
    size: classes that each host draws, without replacement among all hosts.
    hosts: number of processes.
  """
  rng = np.random.default_rng([seed, step])  # The same classes on every host.
  classes = rng.choice(list(rows_of), size * hosts, replace=False)
  rng = np.random.default_rng([seed, step, host])
  mine = classes[host * size : (host + 1) * size]
  return np.array([rng.choice(rows_of[label]) for label in mine])
