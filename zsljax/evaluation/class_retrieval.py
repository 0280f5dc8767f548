"""Retrieval of images by class: the query is a class description.

References:
  Ji et al., "Semantic Softmax Loss for Zero-Shot Learning" (2017), released code: mean
  average precision over unseen classes.

  Precision at shares of a class's size is reported since Zhu et al., "A Generative
  Adversarial Approach for Zero-Shot Learning from Noisy Texts" (CVPR 2018). No code of
  it was at hand: the definition here is ours.
"""

from __future__ import annotations

import math

import numpy as np

from zsljax.errors import require

SHARES = (25, 50, 100)
DEFINITION = (
  "query: an unseen class's description; gallery: the test images of unseen classes; "
  "map: mean over classes of the mean over a class's images of their precision; p@25, "
  "p@50, p@100: mean over classes of the precision among the first K, K a quarter, "
  "half, all of the class's number of images, rounded up; map_released: as the "
  "released semantic-softmax code, whose images' scores have length one and whose "
  "classes after the first also take the last image of the one before"
)


def class_retrieval(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """Mean average precision and precisions, in [0, 1].

  Images of equal score stay in their order. Classes without images have no part.

  >>> found = class_retrieval(np.array([[3.0, 0.0], [1.0, 2.0]]), np.array([0, 1]))
  >>> found["map"], found["p@100"]
  (1.0, 1.0)

  Args:
    scores: of the gallery's images for each unseen class, ``[N, C]``.
    labels: columns of the images' classes, ``[N]``.

  Returns:
    ``map``, ``p@25``, ``p@50`` and ``p@100``, as ``DEFINITION`` says; and
    ``map_released``, for which images must be in the order of the source.

  Raises:
    ZsljaxError: there is no label, or one has no column.
  """
  require(
    len(labels) > 0 and 0 <= labels.min() and labels.max() < scores.shape[1],
    "labels",
    f"{len(labels)} outside the columns",
    f"0 to {scores.shape[1] - 1}",
  )
  found: dict[str, list[float]] = {"map": [], **{f"p@{share}": [] for share in SHARES}}
  for label in np.unique(labels):
    hits = labels[_ranking(scores[:, label])] == label
    count = int(hits.sum())
    found["map"].append(_average_precision(hits, count))
    for share in SHARES:
      first = math.ceil(count * share / 100)
      found[f"p@{share}"].append(float(hits[:first].mean()))
  means = {name: float(np.mean(values)) for name, values in found.items()}
  return means | {"map_released": _released_map(scores, labels)}


def _ranking(scores: np.ndarray) -> np.ndarray:
  return np.argsort(-scores, kind="stable")


def _average_precision(hits: np.ndarray, count: int) -> float:
  """Mean of j / rank_j over the first ``count`` hits."""
  ranks = np.flatnonzero(hits)[:count] + 1
  return float(np.mean(np.arange(1, len(ranks) + 1) / ranks))


def _released_map(scores: np.ndarray, labels: np.ndarray) -> float:
  """The mAP with the released code's normalisation and its range of accepted images."""
  order = np.argsort(labels, kind="stable")
  labels, scores = labels[order], scores[order].astype(np.float64)
  lengths = np.linalg.norm(scores, axis=1, keepdims=True)
  scores = scores / np.where(lengths > 0, lengths, 1)
  precisions = []
  for label in np.unique(labels):
    own = np.flatnonzero(labels == label)
    accepted = np.arange(max(own[0] - 1, 0), own[-1] + 1)
    hits = np.isin(_ranking(scores[:, label]), accepted)
    precisions.append(_average_precision(hits, len(own)))
  return float(np.mean(precisions))
