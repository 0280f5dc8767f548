"""Choice of the rows of each batch: pure functions of seed, epoch or step, and host."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

# Each image once in an epoch: without, or with the incomplete batch at its end.
IN_EPOCHS = ("epochs", "whole_epochs")
SAMPLINGS = (*IN_EPOCHS, "independent", "class_balanced")


def steps_per_epoch(rows: int, size: int, drawn: str) -> int:
  """Counts the batches of ``size`` in one pass over ``rows`` images.

  >>> [steps_per_epoch(105, 50, drawn) for drawn in ("epochs", "whole_epochs")]
  [2, 3]
  """
  return -(-rows // size) if drawn == "whole_epochs" else rows // size


def total_steps(epochs: int, per_epoch: int, rows: int, size: int, drawn: str) -> int:
  """Counts the batches in ``epochs`` passes of ``per_epoch`` batches.

  When batches are drawn independently nothing ends with a pass, and the released code's
  count is taken: images times epochs over the batch size, rounded down.
  """
  return epochs * per_epoch if drawn in IN_EPOCHS else epochs * rows // size


def cut(order: np.ndarray, length: int) -> np.ndarray:
  """Returns the first ``length`` rows of an order; -1 where it has no more.

  >>> cut(np.array([2, 0, 1]), 4).tolist()
  [2, 0, 1, -1]
  """
  missing = max(0, length - len(order))
  return np.pad(order[:length], (0, missing), constant_values=-1)


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


def balanced(size: int, classes: int) -> tuple[int, int]:
  """Returns how many classes a balanced batch has, and images of each, of MSDN's code.

  >>> balanced(50, 40), balanced(50, 20), balanced(50, 150)
  ((40, 1), (20, 2), (50, 1))
  """
  return min(size, classes), max(size // classes, 1)


def class_balanced(
  seed: int,
  step: int,
  host: int,
  rows_of: Mapping[int, np.ndarray],
  size: int,
  hosts: int,
  images: int = 1,
) -> np.ndarray:
  """Returns ``images`` rows, with replacement, of each class that this host draws.

  Args:
    seed: seed of the run.
    step: number of the batch.
    host: index of this process.
    rows_of: this host's rows of each class, for the same classes on every host.
    size: classes that each host draws, without replacement among all hosts.
    hosts: number of processes.
    images: of each class.
  """
  rng = np.random.default_rng([seed, step])  # The same classes on every host.
  classes = rng.choice(list(rows_of), size * hosts, replace=False)
  rng = np.random.default_rng([seed, step, host])
  mine = classes[host * size : (host + 1) * size]
  return np.concatenate([rng.choice(rows_of[label], images) for label in mine])
