"""Multidigit: a real multi-label set that needs no download.

Canvases with one to four of the handwritten digits of ``digits``, each in a quarter
of its own. Labels are the digits that are there; strokes describe them.
"""

from __future__ import annotations

import numpy as np

from zsljax.data.builtin.digits import (
  ATTRIBUTES,
  UNSEEN,
  VALIDATION,
  attributes,
  read_digits,
)
from zsljax.data.feature_set import FeatureSet
from zsljax.data.importers.annotations import make_multilabel_set
from zsljax.data.labels import sparse_labels

SPLIT_SEED = 0
# Canvases, and the images they are made from never meet.
SIZES = {"train": 4000, "val": 1000, "test": 1500}
_SIDE, _QUARTERS = 8, 4


def read_multidigit() -> FeatureSet:
  """Draws the canvases, ``[6500, 256]`` grey values in [0, 1] of 16 x 16 pixels.

  Training canvases show seen digits alone, test canvases all ten. A fifth of the
  digits' training images makes the canvases of ``val``.
  """
  digits = read_digits()
  rng = np.random.default_rng(SPLIT_SEED)
  trainval = rng.permutation(
    np.concatenate([digits.splits["train"], digits.splits["val"]])
  )
  held_out = len(trainval) // 5
  pools = {
    "train": trainval[held_out:],
    "val": trainval[:held_out],
    "test": np.concatenate([digits.splits["test_seen"], digits.splits["test_unseen"]]),
  }
  canvases, present = [], []
  for split, size in SIZES.items():
    for _ in range(size):
      canvas, shown = _canvas(digits, pools[split], rng)
      canvases.append(canvas)
      present.append(shown)
  ends = np.cumsum(list(SIZES.values()))
  rows = np.arange(ends[-1])
  return make_multilabel_set(
    name="multidigit",
    features_kind="pixels",
    class_embedding="strokes",
    split_version="zsljax-1",
    features=np.stack(canvases).astype(np.float32),
    labels=sparse_labels(present, 10),
    label_names=[str(d) for d in range(10)],
    vectors=attributes(),
    seen=~np.isin(np.arange(10), UNSEEN),
    trainval=rows[: ends[1]],
    val=rows[ends[0] : ends[1]],
    test=rows[ends[1] :],
    validation_classes=VALIDATION,
    attribute_names=ATTRIBUTES,
    where="multidigit",
    sources=digits.sources,
  )


def _canvas(
  digits: FeatureSet, pool: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Draws a canvas ``[256]`` of different digits from ``pool``; and their labels."""
  rows = pool[rng.permutation(len(pool))]
  _, first = np.unique(digits.labels[rows], return_index=True)
  rows = rows[rng.permutation(first)[: rng.integers(1, _QUARTERS + 1)]]
  quarters = np.zeros((_QUARTERS, _SIDE, _SIDE))
  places = rng.permutation(_QUARTERS)[: len(rows)]
  quarters[places] = digits.features[rows].reshape(-1, _SIDE, _SIDE)
  halves = quarters.reshape(2, 2, _SIDE, _SIDE).transpose(0, 2, 1, 3)
  return halves.ravel(), np.sort(digits.labels[rows])
