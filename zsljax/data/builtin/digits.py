"""Digits: a real zero-shot dataset that needs no download.

The 1,797 handwritten digits of 8 x 8 pixels that come inside scikit-learn (the
test part of the UCI "Optical Recognition of Handwritten Digits"), described by
the strokes they have.
"""

from __future__ import annotations

import hashlib

import numpy as np

from zsljax.data.feature_set import FeatureSet, hold_out_validation, make_feature_set

# The seven segments of a display: a top, b upper right, c lower right,
# d bottom, e lower left, f upper left, g middle.
SEGMENTS = {
  0: "abcdef",
  1: "bc",
  2: "abdeg",
  3: "abcdg",
  4: "bcfg",
  5: "acdfg",
  6: "acdefg",
  7: "abc",
  8: "abcdefg",
  9: "abcdfg",
}
# Shapes that no display shows: digits whose usual handwritten form has them.
SHAPES = {
  "large_loop": (0,),
  "upper_loop": (8, 9),
  "lower_loop": (6, 8),
  "diagonal_stroke": (2, 4, 7),
  "straight_upright": (1, 4, 9),
  "open_to_the_left": (2, 3, 5, 7, 9),
  "open_to_the_right": (2, 5, 6),
}
ATTRIBUTES = (*(f"segment_{s}" for s in "abcdefg"), *SHAPES)
# Each attribute in words; they stand for word vectors, one axis a word.
WORDS = (
  "horizontal top",
  "vertical upper right",
  "vertical lower right",
  "horizontal bottom",
  "vertical lower left",
  "vertical upper left",
  "horizontal middle",
  "loop large",
  "loop upper",
  "loop lower",
  "diagonal",
  "vertical straight",
  "open left",
  "open right",
)
# Fixed with the set. Each attribute of an unseen digit occurs, and is missing,
# among the seen ones; the same holds for the validation digits.
UNSEEN = (4, 6, 9)
VALIDATION = (3, 7)
SPLIT_SEED = 0
VARIANTS = ("pixels", "patches")

_SIDE, _PATCH, _STRIDE = 8, 4, 2


def read_digits(variant: str = "pixels") -> FeatureSet:
  """Reads the digits with one of two kinds of features.

  Args:
    variant: ``pixels``, pooled: the 64 grey values in [0, 1]. ``patches``,
      regions: 9 overlapping patches of 4 x 4 pixels on a 3 x 3 grid, row by
      row, each with the one-hot of its place, ``[9, 25]``.

  Returns:
    7 seen digits (a fifth of their images is test_seen) and 3 unseen; 14
    attributes, 0 or 1.
  """
  import sklearn.datasets

  data = sklearn.datasets.load_digits()
  pixels = (data.data / 16).astype(np.float32)
  labels = data.target.astype(np.int64)
  unseen = np.isin(labels, UNSEEN)
  trainval, test_seen = hold_out_validation(
    labels, np.flatnonzero(~unseen), (), SPLIT_SEED
  )
  digest = hashlib.sha256(np.ascontiguousarray(data.data)).hexdigest()
  return make_feature_set(
    name="digits",
    features_kind=variant,
    class_embedding="strokes",
    split_version="zsljax-1",
    features=pixels if variant == "pixels" else patches(pixels),
    labels=labels,
    class_names=[str(d) for d in range(10)],
    embeddings=attributes(),
    attribute_names=ATTRIBUTES,
    attribute_vectors=attribute_vectors(),
    trainval=trainval,
    test_seen=test_seen,
    test_unseen=np.flatnonzero(unseen),
    validation_classes=VALIDATION,
    split_seed=SPLIT_SEED,
    where="digits",
    sources={"sklearn.datasets.load_digits": digest},
  )


def attributes() -> np.ndarray:
  """Returns the strokes and shapes of each digit, ``[10, 14]`` of 0 and 1."""
  return np.array(
    [
      [s in SEGMENTS[d] for s in "abcdefg"]
      + [d in digits for digits in SHAPES.values()]
      for d in range(10)
    ],
    np.float64,
  )


def attribute_vectors() -> np.ndarray:
  """Returns the words that describe each attribute, ``[14, V]`` of 0 and 1."""
  words = sorted({word for text in WORDS for word in text.split()})
  return np.array([[w in text.split() for w in words] for text in WORDS], np.float32)


def patches(pixels: np.ndarray) -> np.ndarray:
  """Cuts images ``[N, 64]`` into regions ``[N, 9, 25]``."""
  images = pixels.reshape(-1, _SIDE, _SIDE)
  corners = range(0, _SIDE - _PATCH + 1, _STRIDE)
  parts = [
    images[:, top : top + _PATCH, left : left + _PATCH].reshape(len(images), -1)
    for top in corners
    for left in corners
  ]
  places = np.eye(len(parts), dtype=pixels.dtype)
  places = np.broadcast_to(places, (len(images), *places.shape))
  return np.concatenate([np.stack(parts, 1), places], -1)
