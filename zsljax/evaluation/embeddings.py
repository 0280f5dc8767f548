"""Evaluation of embeddings by cosine: verification, retrieval, mean cosines.

A similarity is a float32 dot product of two embeddings that were brought to length one;
the zero vector has similarity 0 with everything. Products are computed in blocks of
images: another size of block, or another processor, may move the last bit (6e-8).

References:
  Huang et al., "Labeled Faces in the Wild" (2007): verification of given pairs.

  Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding"
  (CVPR 2016): Recall@K.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import pathlib
import warnings

import jax
import numpy as np

from zsljax.errors import ZsljaxError, line_of, require
from zsljax.evaluation.bootstrap import resampled_means
from zsljax.evaluation.metrics import per_class_accuracy

Array = jax.Array | np.ndarray

Columns = dict[str, np.ndarray]

_RATES = (1e-1, 1e-2, 1e-3)
_TOP_K = (1, 5, 10)
_BLOCK = 256  # Images that are compared with all others at a time.
_STEPS = 2**19  # Of similarity from 0 to 1, in verification of all pairs.
_ROC_POINTS = 1000


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Embedded:
  """N images with the embeddings that a system gives them.

  Attributes:
    embeddings: ``[N, d]``.
    seen_class: position of the best seen class, ``[N]``.
  """

  embeddings: Array
  seen_class: Array


def embedding_metrics(
  images: Embedded, labels: np.ndarray, seen: np.ndarray
) -> tuple[dict[str, float], Columns, np.ndarray]:
  """Classification, retrieval, verification and mean cosines of one set of images.

  >>> images = Embedded(np.eye(4)[[0, 0, 1, 1]], np.array([0, 0, 1, 0]))
  >>> metrics, *_ = embedding_metrics(images, np.array([0, 0, 1, 1]), np.ones(2, bool))
  >>> metrics["accuracy"], metrics["recall@1"], metrics["eer"], metrics["intra"]
  (75.0, 100.0, 0.0, 100.0)

  Args:
    images: of seen and unseen classes.
    labels: positions of the true classes, ``[N]``.
    seen: ``[C]`` bool, of the class space.

  Returns:
    In percent: ``accuracy`` of images of seen classes among the seen classes, the mean
    over classes; the numbers of ``retrieval``; those of ``verification`` but ``auc``;
    ``intra`` and ``inter``, the mean cosine, times 100, of pairs of one class and of
    two. The verification curve. And the ranks of ``retrieval``, ``[N]``.
  """
  of_seen = seen[labels]
  verified, curve = verification(images.embeddings, labels)
  del verified["auc"]
  intra, inter = mean_cosines(images.embeddings, labels)
  retrieved, ranks = retrieval(images.embeddings, labels)
  shares = {
    "accuracy": per_class_accuracy(images.seen_class[of_seen], labels[of_seen]),
    **retrieved,
    **verified,
    "intra": intra,
    "inter": inter,
  }
  metrics = {name: 100 * float(share) for name, share in shares.items()}
  return metrics, curve, ranks


def resampled_recalls(ranks: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
  """Recall@K of queries that are drawn anew within classes, in percent, ``[draws]``.

  The images among which queries search stay as they are.

  >>> drawn = resampled_recalls(np.array([1.0, 2.0]), np.array([0, 1]))
  >>> float(drawn["recall@1"][0]), float(drawn["recall@5"][0])
  (50.0, 100.0)

  Args:
    ranks: see ``retrieval``, ``[N]``.
    labels: ``[N]``.
  """
  found = 100 * resampled_means(ranks[:, None] <= _TOP_K, labels)
  return {f"recall@{k}": found[:, i] for i, k in enumerate(_TOP_K)}


def verification(embeddings: Array, labels: Array) -> tuple[dict[str, float], Columns]:
  """Verification over all pairs of two different images.

  Pairs are counted by their similarity, rounded to steps of 2^-19 (2e-6): pairs of one
  step tie. However many pairs there are, their counts take 25 MB and a block about
  ``30 * 256 * N`` bytes, 77 MB of 10,000 images.

  >>> shares, _ = verification(np.eye(2)[[0, 0, 1]], np.array([4, 4, 7]))
  >>> shares["tar@0.1"], shares["eer"], shares["auc"]
  (1.0, 0.0, 1.0)

  Args:
    embeddings: ``[N, d]``, of any length.
    labels: integers, ``[N]``.

  Returns:
    See ``pair_verification``.

  Raises:
    ZsljaxError: a number is not finite, or there is no positive
      or no negative pair.
  """
  directions, labels = _directions(embeddings), np.asarray(labels)
  _require_pairs("labels", *_count_pairs(labels))
  counts = np.zeros((2, 2 * _STEPS + 1), np.int64)  # Of two classes, and of one.
  columns = np.arange(len(labels))
  for rows, similarities in _blocks(directions):
    steps = np.rint(similarities * _STEPS).astype(np.int32) + _STEPS
    later = columns > columns[rows, None]
    same = labels[rows, None] == labels
    for kind in (0, 1):
      chosen = steps[later & (same == kind)]
      counts[kind] += np.bincount(chosen, minlength=counts.shape[1])
  occurring = np.flatnonzero(counts.any(0))[::-1]
  thresholds = (occurring - _STEPS) / _STEPS
  negative, positive = counts[:, occurring]
  return _verification(thresholds, positive, negative)


def pair_verification(
  scores: np.ndarray, same: np.ndarray
) -> tuple[dict[str, float], Columns]:
  """Verification over given pairs; those of equal scores tie.

  >>> shares, _ = pair_verification(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 1]) > 0)
  >>> shares["tar@0.1"], shares["auc"]
  (0.5, 0.5)

  Args:
    scores: higher for more similar, ``[P]``; see ``pair_similarities``.
    same: whether the pair is of one class, bool, ``[P]``.

  Returns:
    In [0, 1]: ``tar@f`` for false accept rates f of 0.1, 0.01 and 0.001, the highest
    true accept rate of all thresholds whose false accept rate is at most f, without
    interpolation; ``eer``, where ``far = 1 - tar``, both interpolated linearly between
    the two thresholds around the crossing; ``auc``, the area under TAR over FAR: the
    probability that a positive pair is more similar than a negative one, ties counting
    half. And the curve: ``threshold``, descending from infinity (a pair is accepted
    where its score is at least that), ``far`` and ``tar`` there, ``[m]``. Beyond 1,000
    thresholds it is thinned to about as many, half of them at even steps of log FAR,
    half at even steps of TAR; the other numbers come from all.

  Raises:
    ZsljaxError: there is no positive or no negative pair.
  """
  _require_pairs("same", int(same.sum()), int((~same).sum()))
  thresholds, index = np.unique(scores, return_inverse=True)
  positive, negative = (
    np.bincount(index[kind], minlength=len(thresholds))[::-1] for kind in (same, ~same)
  )
  return _verification(thresholds[::-1], positive, negative)


def pair_similarities(embeddings: Array, pairs: np.ndarray) -> np.ndarray:
  """Similarities float32 ``[P]`` of the images at ``pairs`` [P, 2].

  >>> pair_similarities(np.array([[1, 0], [2, 0]]), np.array([[0, 1]])).tolist()
  [1.0]

  Raises:
    ZsljaxError: a number is not finite.
  """
  directions = _directions(embeddings)
  parts = np.array_split(pairs, 1 + len(pairs) // 2**14)
  return np.concatenate([np.einsum("pd,pd->p", *directions[some.T]) for some in parts])


def read_pairs(path: pathlib.Path) -> np.ndarray:
  """Pairs ``[P, 2]`` from a text file: two whole numbers a line.

  They stand apart by a comma or blanks; lines that begin with # are passed over.

  Raises:
    ZsljaxError: it is not there, or a line is something else.
  """
  try:
    lines = path.read_text().replace(",", " ").splitlines()
    with warnings.catch_warnings(action="ignore"):  # Of an empty file, refused below.
      pairs = np.loadtxt(lines, int, ndmin=2)
  except (OSError, ValueError) as error:
    raise ZsljaxError(
      f"{path}: found {line_of(error)}, expected two whole numbers a line"
    ) from error
  shape = f"shape {pairs.shape}"
  good = pairs.shape[1] == 2 and len(pairs) > 0
  require(good, str(path), shape, "two whole numbers a line")
  return pairs


def retrieval(embeddings: Array, labels: Array) -> tuple[dict[str, float], np.ndarray]:
  """Retrieval of images of the query's class: each image among all others.

  >>> found, ranks = retrieval(np.eye(2)[[0, 0, 1, 1]], np.array([0, 0, 1, 1]))
  >>> found["recall@1"], found["map"], ranks.tolist()
  (1.0, 1.0, [1.0, 1.0, 1.0, 1.0])

  Args:
    embeddings: ``[N, d]``, of any length.
    labels: integers, ``[N]``.

  Returns:
    ``recall@K``, K of 1, 5 and 10, the share of all queries with an image of their
    class among the K most similar; of equally similar images the lower index comes
    first, and queries whose class has no other image are missed. ``map``, the mean over
    the other queries of the average precision over the whole ranking; images of one
    similarity count together, as in scikit-learn's ``average_precision_score``.
    And the place of each query's first image of its class, from 1 on, ``[N]``; infinity
    where there is none.

  Raises:
    ZsljaxError: a number is not finite, or no query has an image
      to find.
  """
  directions, labels = _directions(embeddings), np.asarray(labels)
  _, index, size = np.unique(labels, return_inverse=True, return_counts=True)
  matches = size[index] > 1
  missing = "no other image of any query's class"
  require(bool(matches.any()), "labels", missing, "at least one")
  rank = np.full(len(labels), np.inf)
  precision = np.zeros(len(labels))
  for rows, similarities in _blocks(directions):
    for i, row in zip(range(len(labels))[rows], similarities, strict=True):
      if matches[i]:
        same = np.delete(labels == labels[i], i)
        rank[i], precision[i] = _rank_and_precision(np.delete(row, i), same)
  recalls = {f"recall@{k}": float(np.mean(rank <= k)) for k in _TOP_K}
  return recalls | {"map": float(precision[matches].mean())}, rank


def mean_cosines(embeddings: Array, labels: Array) -> tuple[float, float]:
  """Mean cosine of all pairs of two images of one class, and of two classes.

  No pair is visited: the sum of the cosines of all pairs of directions is half the
  squared length of their sum, less half the sum of their squared lengths.

  >>> mean_cosines(np.eye(2)[[0, 0, 1]], np.array([4, 4, 7]))
  (1.0, 0.0)

  Args:
    embeddings: ``[N, d]``, of any length.
    labels: integers, ``[N]``.

  Raises:
    ZsljaxError: a number is not finite, or there is no pair of
      one class or none of two.
  """
  directions, labels = _directions(embeddings), np.asarray(labels)
  positives, negatives = _count_pairs(labels)
  _require_pairs("labels", positives, negatives)

  def total(rows):
    rows = rows.astype(np.float64)
    return (np.sum(rows.sum(0) ** 2) - np.sum(rows**2)) / 2

  within = sum(total(directions[labels == label]) for label in np.unique(labels))
  between = total(directions) - within
  return float(within / positives), float(between / negatives)


def _directions(embeddings: Array) -> np.ndarray:
  """Embeddings of length one, float32 ``[N, d]``; zero vectors stay zero."""
  x = np.asarray(embeddings).astype(np.float64)
  bad = ~np.isfinite(x).all(1)
  found = f"NaN or infinity in {bad.sum()} of {len(x)} rows"
  require(not bad.any(), "embeddings", found, "numbers")
  length = np.linalg.norm(x, axis=1, keepdims=True)
  return (x / np.where(length > 0, length, 1)).astype(np.float32)


def _blocks(directions: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
  """Rows by blocks of B, each with its similarities with all, float32 ``[B, N]``."""
  for start in range(0, len(directions), _BLOCK):
    rows = slice(start, start + _BLOCK)
    yield rows, np.clip(directions[rows] @ directions.T, -1, 1)


def _count_pairs(labels: np.ndarray) -> tuple[int, int]:
  """Numbers of pairs of one class, and of two."""
  sizes = np.unique(labels, return_counts=True)[1]
  positives = int(np.sum(sizes * (sizes - 1) // 2))
  return positives, len(labels) * (len(labels) - 1) // 2 - positives


def _require_pairs(where: str, positives: int, negatives: int) -> None:
  for count, kind in (
    (positives, "positive pair (two images of one class)"),
    (negatives, "negative pair (images of two classes)"),
  ):
    require(count > 0, where, f"no {kind}", "at least one")


def _verification(
  thresholds: np.ndarray, positive: np.ndarray, negative: np.ndarray
) -> tuple[dict[str, float], Columns]:
  """All numbers, from descending thresholds and the pairs at each, ``[m]``."""
  thresholds = np.append(np.inf, thresholds)
  tar = np.append(0, np.cumsum(positive)) / positive.sum()
  far = np.append(0, np.cumsum(negative)) / negative.sum()
  shares = {f"tar@{rate:g}": tar[far <= rate][-1] for rate in _RATES}
  after = np.argmax(far >= 1 - tar)
  gap_before, gap = (1 - tar[i] - far[i] for i in (after - 1, after))
  share = gap_before / (gap_before - gap)
  shares["eer"] = far[after - 1] + share * (far[after] - far[after - 1])
  shares["auc"] = np.trapezoid(tar, far)
  kept = slice(None)
  if len(far) > _ROC_POINTS:
    by_far = np.geomspace(1 / negative.sum(), 1, _ROC_POINTS // 2)
    by_tar = np.searchsorted(tar, np.linspace(0, 1, _ROC_POINTS // 2))
    by_far = np.searchsorted(far, by_far)
    kept = np.unique(np.concatenate([by_far, by_tar, [len(far) - 1]]))
  curve = {"threshold": thresholds[kept], "far": far[kept], "tar": tar[kept]}
  return {name: float(value) for name, value in shares.items()}, curve


def _rank_and_precision(
  similarities: np.ndarray, same: np.ndarray
) -> tuple[int, float]:
  """Place of the first image of the class, from 1 on, and average precision."""
  everything, found = np.sort(similarities), np.sort(similarities[same])
  hits = len(found) - np.searchsorted(found, found)
  until = len(everything) - np.searchsorted(everything, found)
  best = found[-1]
  first = np.argmax(same & (similarities == best))
  above = len(everything) - np.searchsorted(everything, best, "right")
  rank = above + np.count_nonzero(similarities[:first] == best) + 1
  return rank, np.mean(hits / until)
