"""Records: the form in which each image of a FeatureSet is stored."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse

from zsljax.data.feature_set import FeatureSet, Rows
from zsljax.data.labels import ABSENT, PRESENT, ids_where

# Values in the label matrix that the two kinds of label lists stand for.
_VALUES = {"labels": PRESENT, "absent": ABSENT}


@dataclasses.dataclass(frozen=True)
class Records:
  """Records of all images of a set, by row.

  Attributes:
    features: features of all images.
    labels: labels of all images, as in ``FeatureSet``.
    lists: kinds of label lists that an image has; none where it has one label.
    dtype: precision of the stored features.
  """

  features: Rows
  labels: np.ndarray | scipy.sparse.csr_array
  lists: tuple[str, ...]
  dtype: np.dtype

  def __getitem__(self, row: int) -> tuple[int, dict[str, Any]]:
    """Returns the key that TFDS shuffles by, and the record."""
    if self.lists:
      labels = {name: ids_where(self.labels, row, _VALUES[name]) for name in self.lists}
    else:
      labels = {"label": np.int64(self.labels[row])}
    features = self.features[row].astype(self.dtype)
    return int(row), {"features": features, **labels, "row": np.int64(row)}


def label_widths(feature_set: FeatureSet) -> dict[str, int]:
  """Returns the most labels of one image, by kind; empty with one label an image.

  Absences are a kind where at least one is annotated.
  """
  if not feature_set.multi_label:
    return {}
  most = {
    name: int((feature_set.labels == value).sum(1).max(initial=0))
    for name, value in _VALUES.items()
  }
  return {name: width for name, width in most.items() if width or name == "labels"}
