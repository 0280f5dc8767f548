"""Evaluation of embeddings by cosine: verification, retrieval, statistics.

A similarity here is a cosine rounded to steps of 2^-22 (2.4e-7, about the rounding
error of a float32 cosine). It is a function of the two embeddings alone: directions are
rounded to multiples of 2^-26, so that a dot product in units of 2^-52 is a sum of
integers that float64 holds exactly, whatever order a device adds in. Hence no number
depends on blocks or devices, s(a, b) = s(b, a), and equal images tie. The zero
vector has cosine 0 with everything. (On a TPU, whose float64 is emulated with fewer
bits, the last step can differ.)

All pairs need no sort: there are 2^23 + 1 similarities, so that one pass of counting
gives the exact curve in 135 MB however many pairs there are.

References:
  Huang et al., "Labeled Faces in the Wild" (2007): verification of given pairs.

  Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding"
  (CVPR 2016): Recall@K.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from zsljax.classes import ClassSpace
from zsljax.devices.mesh import make_mesh, over_batch, replicated
from zsljax.errors import ZsljaxError, require
from zsljax.evaluation.decisions import decisions_of, over_batches
from zsljax.evaluation.metrics import per_class_accuracy
from zsljax.models import Batch, System

Array = jax.Array | np.ndarray

_ONE = 2**22  # The level of similarity 1.
_UNIT = 2**26  # The length of a direction.
_BLOCK = 256
_PAIRS = 2**14


@dataclasses.dataclass(frozen=True)
class Roc:
  """A pair is accepted where its similarity is at least the threshold.

  Attributes:
    thresholds: descending; the first, infinity, accepts nothing, ``[m]``.
    far: false accept rate, the accepted share of negative pairs, ``[m]``.
    tar: true accept rate, the accepted share of positive pairs, ``[m]``.
  """

  thresholds: np.ndarray
  far: np.ndarray
  tar: np.ndarray


@dataclasses.dataclass(frozen=True)
class Verification:
  """How well a threshold on similarity tells pairs of one class from others.

  Rates are in [0, 1].

  Attributes:
    tar: for each false accept rate f asked for, the highest TAR of all thresholds
      whose FAR is at most f; nothing is interpolated.
    threshold: for each f, the highest threshold that reaches this TAR.
    eer: equal error rate, where FAR = 1 - TAR; between the two neighbouring thresholds
      around the crossing, both rates are interpolated linearly.
    auc: area under TAR over FAR: the probability that a positive pair is more similar
      than a negative one, ties counting half.
    positives: number of pairs of one class.
    negatives: number of pairs of two classes.
    roc: the curve. Beyond ``roc_points`` thresholds it is thinned to about as many,
      half of them at even steps of log FAR, half at even steps of TAR; the numbers
      above come from all.
  """

  tar: dict[float, float]
  threshold: dict[float, float]
  eer: float
  auc: float
  positives: int
  negatives: int
  roc: Roc


@dataclasses.dataclass(frozen=True)
class Retrieval:
  """How early images of a query's class come; shares in [0, 1].

  Attributes:
    recall: for each K, the share of all queries with an image of their class among
      the K most similar; of equally similar images the lower index comes first.
    mean_average_precision: the mean over the queries whose class is there to be
      found of the average precision over the whole ranking. Images of one similarity
      count together, as in scikit-learn's ``average_precision_score``.
    queries: number of queries.
    without_match: number of them whose class has no (other) image. They have no
      average precision, and recall counts them as missed.
  """

  recall: dict[int, float]
  mean_average_precision: float
  queries: int
  without_match: int


@dataclasses.dataclass(frozen=True)
class CosineStatistics:
  """Cosines of two different images, not rounded; standard deviations over pairs.

  Attributes:
    intra_mean: mean over all pairs of one class.
    intra_std: their standard deviation.
    intra_class_mean: mean over classes of two or more images of the mean over pairs.
    inter_mean: mean over all pairs of two classes.
    inter_std: their standard deviation.
  """

  intra_mean: float
  intra_std: float
  intra_class_mean: float
  inter_mean: float
  inter_std: float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Embedded:
  """Images with the embeddings that a system gives them.

  Attributes:
    embeddings: ``[N, d]``.
    label: position of the true class in the class space, ``[N]``.
    seen_class: position of the best seen class, ``[N]``.
  """

  embeddings: Array
  label: Array
  seen_class: Array


def embedded(system: System, params, batch: Batch, classes: ClassSpace) -> Embedded:
  """The embeddings that a system gives a batch; it has ``embed``."""
  decisions = decisions_of(system, params, batch, classes)
  embeddings = system.embed(params, batch.features)
  return Embedded(embeddings, decisions.label, decisions.seen_class)


def embed_all(
  system: System,
  params,
  classes: ClassSpace,
  batches: Iterable[dict[str, np.ndarray]],
  mesh: jax.sharding.Mesh,
) -> Embedded:
  """Embeddings and best seen classes of all examples of ``batches``, on the host.

  ``system`` has ``embed``.
  """

  function = functools.partial(embedded, system)
  parts = over_batches(function, params, classes, batches, mesh)
  return jax.tree.map(lambda *xs: np.concatenate(xs), *(part for _, part in parts))


def embedding_metrics(
  images: Embedded, seen: np.ndarray, mesh: jax.sharding.Mesh
) -> tuple[dict[str, float], Roc]:
  """Classification, retrieval, verification and cosines of one set of images.

  Args:
    images: of seen and unseen classes.
    seen: ``[C]`` bool, of the class space.
    mesh: the devices.

  Returns:
    In percent: ``accuracy`` of images of seen classes among the seen classes, the mean
    over classes; ``recall@K`` and ``map`` with each image as a query among all others;
    ``tar@f`` at false accept rate f and ``eer`` over all pairs; ``intra`` and
    ``inter``, the mean cosine, times 100, of pairs of one class and of two. And the
    verification curve.
  """
  of_seen = seen[images.label]
  accuracy = per_class_accuracy(images.seen_class[of_seen], images.label[of_seen])
  found = retrieval(images.embeddings, images.label, mesh=mesh)
  verified = verification(images.embeddings, images.label, mesh=mesh)
  cosines = cosine_statistics(images.embeddings, images.label)
  shares = {
    "accuracy": accuracy,
    **{f"recall@{k}": share for k, share in found.recall.items()},
    "map": found.mean_average_precision,
    **{f"tar@{f:g}": share for f, share in verified.tar.items()},
    "eer": verified.eer,
    "intra": cosines.intra_mean,
    "inter": cosines.inter_mean,
  }
  return {name: 100 * float(share) for name, share in shares.items()}, verified.roc


def verification(
  embeddings: Array,
  labels: Array,
  false_accept_rates: Sequence[float] = (1e-1, 1e-2, 1e-3),
  *,
  roc_points: int = 1000,
  block: int = _BLOCK,
  mesh: jax.sharding.Mesh | None = None,
) -> Verification:
  """Verification over all pairs of two different images.

  Args:
    embeddings: ``[N, d]``, of any length.
    labels: integers, ``[N]``.
    false_accept_rates: where TAR is asked for, in [0, 1].
    roc_points: see ``Verification``.
    block: images that are compared with all others at a time.
    mesh: splits a block over its axis ``data``; None takes one device.

  Raises:
    ZsljaxError: shapes do not agree, a number is not finite, or there is no positive
      or no negative pair.
  """
  _require_rates(false_accept_rates)
  directions, labels = _inputs(embeddings, labels)
  _require_both_kinds("labels", *_count_pairs(labels))
  # One after the other, all pairs and those of one class.
  counts = np.zeros((2, 2 * _ONE + 1), np.int64)
  for i, levels in enumerate(_levels(directions, directions, block, mesh)):
    later = levels[i + 1 :].astype(np.intp) + _ONE
    np.add.at(counts[0], later, 1)
    np.add.at(counts[1], later[labels[i + 1 :] == labels[i]], 1)
  occurring = np.flatnonzero(counts[0])[::-1]
  together, positive = counts[:, occurring]
  return _verification(
    (occurring - _ONE) / _ONE,
    positive,
    together - positive,
    false_accept_rates,
    roc_points,
  )


def read_pairs(path: pathlib.Path) -> np.ndarray:
  """Pairs ``[P, 2]`` from a text file: two whole numbers a line.

  They stand apart by a comma or blanks; lines that begin with # are passed over.

  Raises:
    ZsljaxError: it is not there, or a line is something else.
  """
  try:
    lines = path.read_text().splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise ZsljaxError(f"{path}: not readable as text ({error})") from error
  pairs = []
  for number, line in enumerate(lines, 1):
    cells = line.replace(",", " ").split()
    if not cells or line.startswith("#"):
      continue
    require(
      len(cells) == 2 and all(cell.isdecimal() for cell in cells),
      f"{path}: line {number}",
      repr(line[:40]),
      "two whole numbers, the images of a pair",
    )
    pairs.append([int(cell) for cell in cells])
  require(len(pairs) > 0, str(path), "no line", "two whole numbers a line")
  return np.array(pairs)


def pair_verification(
  scores: Array,
  same: Array,
  false_accept_rates: Sequence[float] = (1e-1, 1e-2, 1e-3),
  *,
  roc_points: int = 1000,
) -> Verification:
  """Verification over given pairs.

  Args:
    scores: higher for more similar, ``[P]``; see ``pair_similarities``.
    same: whether the pair is of one class, bool, ``[P]``.
    false_accept_rates: where TAR is asked for, in [0, 1].
    roc_points: see ``Verification``.

  Raises:
    ZsljaxError: shapes do not agree, a score is not finite, or there is no positive or
      no negative pair.
  """
  _require_rates(false_accept_rates)
  scores, same = np.asarray(scores), np.asarray(same)
  require(scores.ndim == 1, "scores", f"shape {scores.shape}", "[P]")
  bad = ~np.isfinite(scores)
  require(
    not bad.any(),
    "scores",
    f"NaN or infinity for {bad.sum()} of {len(bad)} pairs",
    "numbers",
  )
  require(
    same.shape == scores.shape and same.dtype == bool,
    "same",
    f"{same.dtype} of shape {same.shape}",
    f"bool of shape {scores.shape}, one for each score",
  )
  _require_both_kinds("same", int(same.sum()), int((~same).sum()))
  thresholds, index = np.unique(scores, return_inverse=True)
  together, positive = (
    np.bincount(some, minlength=len(thresholds))[::-1] for some in (index, index[same])
  )
  return _verification(
    thresholds[::-1], positive, together - positive, false_accept_rates, roc_points
  )


def pair_similarities(embeddings: Array, pairs: Array) -> np.ndarray:
  """Similarities float32 ``[P]`` of the images at ``pairs`` [P, 2].

  Raises:
    ZsljaxError: a number is not finite, or an index is out of range.
  """
  directions, pairs = _directions("embeddings", embeddings), np.asarray(pairs)
  count = len(directions)
  require(
    pairs.ndim == 2 and pairs.shape[1] == 2 and pairs.dtype.kind in "iu",
    "pairs",
    f"{pairs.dtype} of shape {pairs.shape}",
    "integers [P, 2]",
  )
  require(
    bool(np.all((pairs >= 0) & (pairs < count))),
    "pairs",
    "an index out of range",
    f"0 to {count - 1}, for {count} embeddings",
  )
  found = np.empty(len(pairs), np.float32)
  for start in range(0, len(pairs), _PAIRS):
    some = slice(start, start + _PAIRS)
    first, second = directions[pairs[some].T]
    found[some] = _round(np.einsum("pd,pd->p", first, second), np) / _ONE
  return found


def retrieval(
  embeddings: Array,
  labels: Array,
  top_k: Sequence[int] = (1, 5, 10),
  *,
  gallery: tuple[Array, Array] | None = None,
  block: int = _BLOCK,
  mesh: jax.sharding.Mesh | None = None,
) -> Retrieval:
  """Retrieval of images of the query's class, by similarity.

  Args:
    embeddings: the queries, ``[N, d]``.
    labels: integers, ``[N]``.
    top_k: the numbers K of images in which recall looks, from 1 on.
    gallery: embeddings ``[M, d]`` and labels ``[M]`` of the images that are ranked.
      None: for each query, all queries but itself.
    block: see ``verification``.
    mesh: see ``verification``.

  Raises:
    ZsljaxError: shapes do not agree, a number is not finite, or no query has an image
      to find.
  """
  require(min(top_k, default=1) >= 1, "top_k", tuple(top_k), "numbers from 1 on")
  directions, labels = _inputs(embeddings, labels)
  ranked, ranked_labels = directions, labels
  if gallery is not None:
    ranked, ranked_labels = _inputs(*gallery, "gallery embeddings", "gallery labels")
    require(
      ranked.shape[1] == directions.shape[1],
      "gallery embeddings",
      f"shape {ranked.shape}",
      f"[M, {directions.shape[1]}], as the queries",
    )
    matches = np.isin(labels, ranked_labels)
  else:
    _, index, size = np.unique(labels, return_inverse=True, return_counts=True)
    matches = size[index] > 1
  require(
    bool(matches.any()),
    "labels",
    f"no {'other' if gallery is None else 'gallery'} image of any query's class",
    "at least one",
  )
  rank = np.full(len(labels), np.inf)
  precision = np.zeros(len(labels))
  for i, levels in enumerate(_levels(directions, ranked, block, mesh)):
    same = ranked_labels == labels[i]
    if gallery is None:
      levels, same = np.delete(levels, i), np.delete(same, i)
    if matches[i]:
      rank[i], precision[i] = _rank_and_precision(levels, same)
  return Retrieval(
    {k: float(np.mean(rank <= k)) for k in top_k},
    float(precision[matches].mean()),
    len(labels),
    int(np.sum(~matches)),
  )


def cosine_statistics(embeddings: Array, labels: Array) -> CosineStatistics:
  """Mean and standard deviation of the cosines within and between classes.

  No pair is visited: sums of cosines and of their squares over all pairs of rows of X
  are the squared norms of the sum of rows and of the smaller Gram matrix.

  Args:
    embeddings: ``[N, d]``, of any length.
    labels: integers, ``[N]``.

  Raises:
    ZsljaxError: shapes do not agree, a number is not finite, or there is no pair of
      one class or none of two.
  """
  directions, labels = _inputs(embeddings, labels)
  positives, negatives = _count_pairs(labels)
  _require_both_kinds("labels", positives, negatives)
  directions /= _UNIT
  order = np.argsort(labels, kind="stable")
  ends = np.flatnonzero(np.diff(labels[order])) + 1
  within = np.zeros(2)
  class_means = []
  for rows in np.split(order, ends):
    if len(rows) > 1:
      sums = _pair_sums(directions[rows])
      within += sums
      class_means.append(sums[0] / (len(rows) * (len(rows) - 1) / 2))
  between = _pair_sums(directions) - within
  return CosineStatistics(
    *_mean_and_std(within / positives),
    float(np.mean(class_means)),
    *_mean_and_std(between / negatives),
  )


def _inputs(
  embeddings, labels, where="embeddings", labels_where="labels"
) -> tuple[np.ndarray, np.ndarray]:
  directions, labels = _directions(where, embeddings), np.asarray(labels)
  require(
    labels.shape == (len(directions),) and labels.dtype.kind in "iu",
    labels_where,
    f"{labels.dtype} of shape {labels.shape}",
    f"integers of shape ({len(directions)},), one for each embedding",
  )
  return directions, labels


def _directions(where: str, embeddings) -> np.ndarray:
  """Unit vectors in units of 1 / _UNIT, rounded, float64 ``[N, d]``."""
  x = np.array(embeddings, np.float64, order="C")
  require(x.ndim == 2, where, f"shape {x.shape}", "[N, d]")
  bad = ~np.isfinite(x).all(1)
  require(
    not bad.any(), where, f"NaN or infinity in {bad.sum()} of {len(x)} rows", "numbers"
  )
  length = np.sqrt(np.sum(x * x, 1, keepdims=True))
  x /= np.where(length > 0, length, 1)
  x *= _UNIT
  return np.rint(x, out=x)


def _round(dots, numpy):
  """Dot products of directions as levels, -_ONE to _ONE."""
  return numpy.clip(numpy.rint(dots * (_ONE / _UNIT**2)), -_ONE, _ONE)


@jax.jit
def _block_levels(rows, others):
  dots = jnp.matmul(rows, others.T, precision="highest")
  return _round(dots, jnp).astype(jnp.int32)


def _levels(
  queries: np.ndarray,
  others: np.ndarray,
  block: int,
  mesh: jax.sharding.Mesh | None,
) -> Iterator[np.ndarray]:
  """For each query [d] its levels with all others, int32 ``[M]``."""
  require(block >= 1, "block", block, "at least 1")
  mesh = make_mesh(1) if mesh is None else mesh
  devices = mesh.shape["data"]
  block = -(-min(block, len(queries)) // devices) * devices
  with jax.enable_x64(True):
    others = jax.device_put(others, replicated(mesh))
  for start in range(0, len(queries), block):
    rows = queries[start : start + block]
    padded = np.pad(rows, ((0, block - len(rows)), (0, 0)))
    with jax.enable_x64(True):  # Must not stay on while the caller has a row.
      levels = _block_levels(jax.device_put(padded, over_batch(mesh)), others)
    yield from jax.device_get(levels)[: len(rows)]


def _count_pairs(labels: np.ndarray) -> tuple[int, int]:
  """How many pairs are of one class, and of two."""
  sizes = np.unique(labels, return_counts=True)[1]
  positives = int(np.sum(sizes * (sizes - 1) // 2))
  return positives, len(labels) * (len(labels) - 1) // 2 - positives


def _require_both_kinds(where: str, positives: int, negatives: int) -> None:
  for count, kind in (
    (positives, "positive pair (two images of one class)"),
    (negatives, "negative pair (images of two classes)"),
  ):
    require(count > 0, where, f"no {kind}", "at least one")


def _require_rates(rates: Sequence[float]) -> None:
  require(
    all(0 <= rate <= 1 for rate in rates),
    "false_accept_rates",
    tuple(rates),
    "numbers in [0, 1]",
  )


def _verification(thresholds, positive, negative, rates, roc_points) -> Verification:
  """From descending thresholds and the pairs at each."""
  positives, negatives = int(positive.sum()), int(negative.sum())
  thresholds = np.append(np.inf, thresholds)
  tar = np.append(0, np.cumsum(positive)) / positives
  far = np.append(0, np.cumsum(negative)) / negatives
  at = {}
  for rate in rates:
    last = np.searchsorted(far, rate, "right") - 1
    at[rate] = np.searchsorted(tar, tar[last])
  after = np.argmax(far >= 1 - tar)
  gap_before, gap = (1 - tar[i] - far[i] for i in (after - 1, after))
  share = gap_before / (gap_before - gap)
  kept = slice(None)
  if len(far) > roc_points:
    steps = max(roc_points // 2, 2)
    by_far = np.searchsorted(far, np.geomspace(1 / negatives, 1, steps))
    by_tar = np.searchsorted(tar, np.linspace(0, 1, steps))
    kept = np.unique(np.concatenate([by_far, by_tar, [len(far) - 1]]))
  return Verification(
    tar={rate: float(tar[i]) for rate, i in at.items()},
    threshold={rate: float(thresholds[i]) for rate, i in at.items()},
    eer=float(far[after - 1] + share * (far[after] - far[after - 1])),
    auc=float(np.trapezoid(tar, far)),
    positives=positives,
    negatives=negatives,
    roc=Roc(thresholds[kept], far[kept], tar[kept]),
  )


def _rank_and_precision(levels: np.ndarray, same: np.ndarray) -> tuple[int, float]:
  """Place of the first image of the class, from 1 on, and average precision."""
  everything, found = np.sort(levels), np.sort(levels[same])
  hits = len(found) - np.searchsorted(found, found)
  until = len(everything) - np.searchsorted(everything, found)
  best = found[-1]
  first = np.argmax(same & (levels == best))
  above = len(everything) - np.searchsorted(everything, best, "right")
  rank = above + np.count_nonzero(levels[:first] == best) + 1
  return rank, np.mean(hits / until)


def _pair_sums(x: np.ndarray) -> np.ndarray:
  """Sums of dot products and of their squares over pairs of rows of x [n, d]."""
  gram = x @ x.T if len(x) < x.shape[1] else x.T @ x
  itself = np.sum(x * x, 1)
  total = x.sum(0)
  return (
    np.array([total @ total, np.sum(gram**2)]) - [itself.sum(), np.sum(itself**2)]
  ) / 2


def _mean_and_std(moments: np.ndarray) -> tuple[float, float]:
  mean, square = moments
  return float(mean), float(np.sqrt(max(square - mean**2, 0)))
