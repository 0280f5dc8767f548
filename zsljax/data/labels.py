"""Labels of images that have several: sparse, 1 present, -1 annotated as absent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse

PRESENT, ABSENT = 1, -1


def sparse_labels(
  present: Sequence[Sequence[int]],
  num_classes: int,
  absent: Sequence[Sequence[int]] | None = None,
) -> scipy.sparse.csr_array:
  """Builds labels ``[N, num_classes]`` from the ids that each image has, and lacks."""
  kinds = [(PRESENT, present)] + ([] if absent is None else [(ABSENT, absent)])
  columns, rows, values = [], [], []
  for value, lists in kinds:
    sizes = [len(ids) for ids in lists]
    columns += [np.asarray(ids, np.int64) for ids in lists]
    rows.append(np.repeat(np.arange(len(lists)), sizes))
    values.append(np.full(sum(sizes), value, np.int8))
  places = np.concatenate(rows), np.concatenate(columns)
  shape = len(present), num_classes
  return scipy.sparse.csr_array((np.concatenate(values), places), shape)


def ids_where(labels: scipy.sparse.csr_array, row: int, value: int) -> np.ndarray:
  """Returns the ids of the classes that are ``value`` in one image, ascending."""
  at = slice(labels.indptr[row], labels.indptr[row + 1])
  return np.sort(labels.indices[at][labels.data[at] == value]).astype(np.int64)


def padded_ids(labels: np.ndarray, value: int = PRESENT) -> np.ndarray:
  """Lists the classes that are ``value`` in each image of ``labels`` [N, C].

  Returns:
    ``[N, M]``, M the most of one image and at least 1, padded with -1.
  """
  rows, columns = np.nonzero(np.asarray(labels) == value)
  counts = np.bincount(rows, minlength=len(labels))
  ids = np.full((len(labels), max(counts.max(initial=0), 1)), -1)
  places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
  ids[rows, places] = columns
  return ids
