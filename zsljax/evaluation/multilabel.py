"""Multi-label zero-shot evaluation, under the protocols that published tables use.

Conventional (``zsl``): test images against the unseen labels. Generalized (``gzsl``):
the same images against all labels.

References:
  Huynh, Elhamifar, "A Shared Multi-Attention Framework for Multi-Label Zero-Shot
  Learning" (LESA, CVPR 2020), supplementary material, and the released code.

  Narayan et al., "Discriminative Region-based Multi-Label Zero-Shot Learning" (BiAM,
  ICCV 2021), released code.

  Ben-Cohen et al. (SDL, ICCV 2021) and Ridnik et al. (ML-Decoder, WACV 2023), released
  code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import dataclasses
import functools

import jax
import numpy as np
from sklearn.metrics import average_precision_score

from zsljax.classes import ClassSpace
from zsljax.errors import require
from zsljax.evaluation.decisions import over_batches, require_numbers, scores_of
from zsljax.models import System

_BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class MultiLabelProtocol:
  """How an evaluation counts.

  Attributes:
    drop_images_without_positive: leaves out images that have none of the labels that
      are scored. It raises precision and AP: rows that differ in it do not compare.
    unannotated: in AP, an image that is annotated neither as having the label nor as
      lacking it is passed over (``ignore``) or a ``negative``. In precision and recall
      it always lacks the label.
    unannotated_labels: a label that no image is annotated for enters mAP with AP 0
      (``zero``), or not at all (``left_out``).
    top_k: the numbers K of labels that are predicted for an image.
  """

  drop_images_without_positive: bool
  unannotated: str
  unannotated_labels: str = "zero"
  top_k: tuple[int, ...] = (3, 5)

  def __post_init__(self):
    for field, choices in (
      ("unannotated", ("ignore", "negative")),
      ("unannotated_labels", ("zero", "left_out")),
    ):
      value = getattr(self, field)
      require(value in choices, field, repr(value), " or ".join(choices))


MULTI_LABEL_PROTOCOLS = {
  "lesa": MultiLabelProtocol(False, "ignore"),
  "biam_openimages": MultiLabelProtocol(True, "ignore", "left_out", (10, 20)),
  "sdl": MultiLabelProtocol(True, "negative"),
  "ml_decoder": MultiLabelProtocol(True, "negative"),
}
# Labels of a test image on the lists that published tables use.
PUBLISHED_DENSITY = {"nus_wide": {"zsl": 1.876, "gzsl": 6.80}}


def score_all(
  system: System,
  params,
  classes: ClassSpace,
  batches: Iterable[dict[str, np.ndarray]],
  mesh: jax.sharding.Mesh,
) -> tuple[np.ndarray, np.ndarray]:
  """Scores and labels of all examples of ``batches``, on the host.

  Returns:
    Scores ``[N, C]``, and labels ``[N, C]`` int8: 1 present, -1 absent, 0 unannotated.
    In a set that annotates no absences, what is not present is absent.

  Raises:
    ZsljaxError: a score is NaN.
  """

  function = functools.partial(scores_of, system)
  scores, labels = [], []
  for host, part in over_batches(function, params, classes, batches, mesh):
    scores.append(part)
    labels.append(dense_labels(host, classes))
  scores, labels = np.concatenate(scores), np.concatenate(labels)
  _check(scores, labels)
  return scores, labels


def _check(scores: np.ndarray, labels: np.ndarray) -> None:
  require(
    scores.ndim == 2 and labels.shape == scores.shape,
    "labels",
    f"shape {labels.shape}",
    f"{scores.shape}, that of the scores: rows are images and columns labels",
  )
  require_numbers(scores)
  strange = labels[~np.isin(labels, (-1, 0, 1))]  # Of millions: nothing is sorted.
  require(
    not strange.size,
    "labels",
    np.unique(strange)[:3].tolist(),
    "1 present, -1 absent, 0 neither",
  )


def dense_labels(batch: dict[str, np.ndarray], classes: ClassSpace) -> np.ndarray:
  """Labels as ``score_all`` gives them, of a host batch without its padding."""
  mask = batch["mask"]
  present = batch["labels"][mask]
  absent = batch["absent"][mask] if "absent" in batch else None
  fill = -1 if absent is None else 0
  labels = np.full((len(present), len(classes)), fill, np.int8)
  for value, ids in ((-1, absent), (1, present)):
    if ids is not None:
      columns = np.asarray(classes.positions(ids))
      rows, places = np.nonzero(columns >= 0)
      labels[rows, columns[rows, places]] = value
  return labels


def precision_and_recall(
  scores: np.ndarray, labels: np.ndarray, top_k: Sequence[int]
) -> dict[int, tuple[float, float]]:
  """Overall (micro) precision and recall when each image is given its K best labels.

  Args:
    scores: ``[N, C]``; ties go to the first label.
    labels: ``[N, C]``, positive where present.
    top_k: the numbers K, at most C.

  Raises:
    ZsljaxError: a score is NaN, or shapes or labels are not as said.

  Returns:
    For each K the hits over K * N, and over the labels that are present (0 where there
    are none).
  """
  _check(scores, labels)
  most = max(top_k, default=0)
  hits = np.zeros(most)
  for start in range(0, len(scores), _BLOCK):
    some = slice(start, start + _BLOCK)
    best = np.argsort(-scores[some], 1, kind="stable")[:, :most]
    hits += np.sum(np.take_along_axis(labels[some], best, 1) > 0, 0)
  total, found = np.sum(labels > 0), np.cumsum(hits)
  return {
    k: (
      float(found[k - 1] / (k * len(scores))) if len(scores) else 0.0,
      float(found[k - 1] / total) if total else 0.0,
    )
    for k in top_k
  }


def average_precisions(
  scores: np.ndarray, labels: np.ndarray, unannotated: str
) -> np.ndarray:
  """AP of each label over the images, ``[C]``; 0 for a label without a positive.

  Images of one score count together, so that their order does not matter.

  Args:
    scores: ``[N, C]``.
    labels: ``[N, C]``: 1 present, -1 absent, 0 unannotated.
    unannotated: see ``MultiLabelProtocol``.

  Raises:
    ZsljaxError: a score is NaN, or shapes or labels are not as said.
  """
  _check(scores, labels)
  found = np.zeros(labels.shape[1])
  for c in range(len(found)):
    column, score = labels[:, c], scores[:, c]
    if unannotated == "ignore":
      annotated = column != 0
      column, score = column[annotated], score[annotated]
    if np.any(column > 0):
      found[c] = average_precision_score(column > 0, score)
  return found


def multi_label_metrics(
  scores: np.ndarray,
  labels: np.ndarray,
  seen: np.ndarray,
  protocol: MultiLabelProtocol,
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
  """Everything that is reported of one evaluation.

  Args:
    scores: ``[N, C]``.
    labels: ``[N, C]``: 1 present, -1 absent, 0 unannotated.
    seen: ``[C]`` bool.
    protocol: how to count; a K above the number of labels is passed over.

  Returns:
    In percent, for ``zsl`` and ``gzsl``: ``zsl_p@3``, ``zsl_r@3``, ``zsl_f1@3`` for
    each K; ``zsl_map``, the mean over labels; ``zsl_weighted_map``, weighted by the
    labels' images. And what was counted: the number of images and of labels, and the
    density, present labels to an image, which is K * precision / recall at every K:
    rows whose density differs were not computed on the same labels.
  """
  _check(scores, labels)
  metrics, counted = {}, {}
  for setting, columns in (("zsl", ~np.asarray(seen)), ("gzsl", slice(None))):
    s, y = scores[:, columns], labels[:, columns]
    if protocol.drop_images_without_positive:
      kept = (y > 0).any(1)
      s, y = s[kept], y[kept]
    top_k = [k for k in protocol.top_k if k <= y.shape[1]]
    for k, (p, r) in precision_and_recall(s, y, top_k).items():
      f1 = 2 * p * r / (p + r) if p + r else 0.0
      metrics |= {f"{setting}_p@{k}": p, f"{setting}_r@{k}": r, f"{setting}_f1@{k}": f1}
    ap, images = average_precisions(s, y, protocol.unannotated), np.sum(y > 0, 0)
    if protocol.unannotated_labels == "left_out":
      annotated = (y != 0).any(0)
      ap, images = ap[annotated], images[annotated]
    metrics[f"{setting}_map"] = float(ap.mean()) if ap.size else 0.0
    metrics[f"{setting}_weighted_map"] = float(ap @ images / max(images.sum(), 1))
    counted[setting] = {
      "images": len(y),
      "labels": y.shape[1],
      "density": float(images.sum() / max(len(y), 1)),
    }
  return {name: 100 * value for name, value in metrics.items()}, counted
