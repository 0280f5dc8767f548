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

from collections.abc import Iterator, Mapping, Sequence
import dataclasses

import numpy as np

from zsljax.classes import ClassSpace
from zsljax.errors import require
from zsljax.evaluation.bootstrap import resampled_means
from zsljax.evaluation.metrics import require_numbers

_BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class MultiLabelProtocol:
  """Rules of counting in an evaluation.

  Attributes:
    drop_images_without_positive: leaves out images that have none of the labels that
      are scored. It raises precision and AP: rows that differ in it do not compare.
    unannotated: in AP, an image that is annotated neither as having the label nor as
      lacking it is passed over (``ignore``) or a ``negative``. In precision and recall
      it always lacks the label.
    unannotated_labels: a label that no image is annotated for enters mAP with AP 0
      (``zero``); or that among all labels not at all, and that among the unseen ones
      with AP 0 (``zero_if_unseen``).
    top_k: the numbers K of labels that are predicted for an image.
  """

  drop_images_without_positive: bool
  unannotated: str
  unannotated_labels: str = "zero"
  top_k: tuple[int, ...] = (3, 5)


MULTI_LABEL_PROTOCOLS = {
  "lesa": MultiLabelProtocol(False, "ignore"),
  "biam_openimages": MultiLabelProtocol(True, "ignore", "zero_if_unseen", (10, 20)),
  "sdl": MultiLabelProtocol(True, "negative"),
  "ml_decoder": MultiLabelProtocol(True, "negative"),
  "dualcoop": MultiLabelProtocol(True, "negative"),
}
# Labels of a test image in the populations of published tables: those that lists
# confirm, and those that follow from printed precision and recall.
POPULATIONS = {
  "nus_wide": {
    "LESA's lists": {"zsl": 1.876, "gzsl": 6.80},
    "DualCoOp's filtered lists": {"gzsl": 2.42},
    "SDL's rows": {"zsl": 1.759, "gzsl": 5.97},
  },
  "coco": {
    "released lists": {"gzsl": 2.5702},
    "older rows": {"gzsl": 2.48},
    "SDL's rows": {"gzsl": 2.91},
  },
}


def population(
  dataset: str, split_version: str, counted: Mapping[str, Mapping[str, float]]
) -> str | None:
  """The population of published tables that an evaluation has counted.

  >>> population("coco", "as_given", {"gzsl": {"density": 2.571}})
  'released lists'

  Args:
    dataset: its name.
    split_version: of the dataset.
    counted: the density of each setting, see ``multi_label_metrics``.

  Returns:
    A name of ``POPULATIONS``, told by densities within 0.5 %; ``all of val2014``, which
    no table uses; ``none known``; None for datasets without published populations.
  """
  if dataset not in POPULATIONS:
    return None
  for name, densities in POPULATIONS[dataset].items():
    if all(abs(counted[s]["density"] / d - 1) < 0.005 for s, d in densities.items()):
      return name
  return "all of val2014" if split_version == "coco-48-17-val2014" else "none known"


def dense_labels(columns: Mapping[str, np.ndarray], classes: ClassSpace) -> np.ndarray:
  """Labels ``[N, C]`` int8 of a host batch without its padding.

  1 present, -1 absent, 0 unannotated; in a set that annotates no absences, a label that
  is not present is absent.

  >>> space = ClassSpace.create("abc", np.eye(3), ids=[5, 2, 9])
  >>> columns = {"labels": np.array([[9, 5], [2, -1]]), "mask": np.array([True, True])}
  >>> dense_labels(columns, space).tolist()
  [[1, -1, 1], [-1, 1, -1]]

  Args:
    columns: ``labels``, ids of the labels present ``[..., B, M]``, padded with -1;
      ``mask`` ``[..., B]``; and ``absent``, ids, where the set annotates absences.
    classes: the class space.
  """
  mask, annotated = columns["mask"], "absent" in columns
  labels = np.full((mask.sum(), len(classes)), 0 if annotated else -1, np.int8)
  for value, name in ((-1, "absent"), (1, "labels")):
    if name in columns:
      at = np.asarray(classes.positions(columns[name][mask]))
      rows, places = np.nonzero(at >= 0)
      labels[rows, at[rows, places]] = value
  return labels


def precision_and_recall(
  scores: np.ndarray, labels: np.ndarray, top_k: Sequence[int]
) -> dict[int, tuple[float, float]]:
  """Overall (micro) precision and recall when each image is given its K best labels.

  >>> scores, labels = np.array([[0.9, 0.5, 0.1]]), np.array([[1, -1, 1]])
  >>> precision_and_recall(scores, labels, (1, 2))
  {1: (1.0, 0.5), 2: (0.5, 0.5)}

  Args:
    scores: ``[N, C]``, numbers; ties go to the first label.
    labels: ``[N, C]``, positive where present.
    top_k: the numbers K, at most C.

  Returns:
    For each K the hits over K * N, and over the labels that are present (0 where there
    are none).
  """
  found = _found(scores, labels, max(top_k, default=0)).sum(0)
  total = np.sum(labels > 0)
  return {
    k: (
      float(found[k - 1] / (k * len(scores))) if len(scores) else 0.0,
      float(found[k - 1] / total) if total else 0.0,
    )
    for k in top_k
  }


def _found(scores: np.ndarray, labels: np.ndarray, most: int) -> np.ndarray:
  """Labels of each image among its best 1, 2, ... ``most``, ``[N, most]``."""
  found = np.zeros((len(scores), most), np.int64)
  for start in range(0, len(scores), _BLOCK):
    some = slice(start, start + _BLOCK)
    best = np.argsort(-scores[some], 1, kind="stable")[:, :most]
    found[some] = np.cumsum(np.take_along_axis(labels[some], best, 1) > 0, 1)
  return found


def average_precisions(
  scores: np.ndarray, labels: np.ndarray, unannotated: str
) -> np.ndarray:
  """AP of each label over the images, ``[C]``; 0 for a label without a positive.

  Images of one score count together, so that their order does not matter.

  >>> scores = np.array([[3.0], [2.0], [1.0]])
  >>> average_precisions(scores, np.array([[1], [-1], [1]]), "ignore").round(3).tolist()
  [0.833]

  Args:
    scores: ``[N, C]``, numbers.
    labels: ``[N, C]``: 1 present, -1 absent, 0 unannotated.
    unannotated: see ``MultiLabelProtocol``.
  """
  from sklearn.metrics import average_precision_score

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
  """Precision, recall, F1 and mAP of one evaluation.

  >>> metrics, _ = multi_label_metrics(
  ...   scores=np.array([[3.0, 1.0, 2.0], [1.0, 2.0, 3.0]]),
  ...   labels=np.array([[1, -1, 1], [-1, 1, -1]]),
  ...   seen=np.array([True, False, False]),
  ...   protocol=MultiLabelProtocol(False, "ignore", top_k=(1,)),
  ... )
  >>> metrics["zsl_p@1"], metrics["gzsl_f1@1"], metrics["gzsl_map"]
  (50.0, 40.0, 83.33333333333334)

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

  Raises:
    ZsljaxError: a score is NaN, or shapes disagree.
  """
  require(
    scores.ndim == 2 and labels.shape == scores.shape,
    "labels",
    f"shape {labels.shape}",
    f"{scores.shape}, that of the scores: rows are images and columns labels",
  )
  require_numbers(scores)
  metrics, counted = {}, {}
  for setting, s, y, top_k in _settings(scores, labels, seen, protocol):
    for k, (p, r) in precision_and_recall(s, y, top_k).items():
      f1 = 2 * p * r / (p + r) if p + r else 0.0
      metrics |= {f"{setting}_p@{k}": p, f"{setting}_r@{k}": r, f"{setting}_f1@{k}": f1}
    ap, images = average_precisions(s, y, protocol.unannotated), np.sum(y > 0, 0)
    if (setting, protocol.unannotated_labels) == ("gzsl", "zero_if_unseen"):
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


def resampled_top_k(
  scores: np.ndarray,
  labels: np.ndarray,
  seen: np.ndarray,
  protocol: MultiLabelProtocol,
) -> dict[str, np.ndarray]:
  """Precision, recall and F1 of images that are drawn anew, in percent, ``[draws]``.

  Arguments are those of ``multi_label_metrics``. AP is left out: of a label with few
  images it lies far above AP in many images, and no bootstrap mends that.

  >>> drawn = resampled_top_k(
  ...   np.array([[2.0, 1.0]]), np.array([[1, -1]]), np.array([True, False]),
  ...   MultiLabelProtocol(False, "ignore", top_k=(1,)),
  ... )
  >>> float(drawn["gzsl_f1@1"][0])
  100.0
  """
  drawn = {}
  for setting, s, y, top_k in _settings(scores, labels, seen, protocol):
    if top_k and len(y):
      found = _found(s, y, max(top_k))[:, [k - 1 for k in top_k]]
      values = np.column_stack([found, np.sum(y > 0, 1)])
      *found, present = resampled_means(values, np.zeros(len(y))).T
      for k, hits in zip(top_k, found, strict=True):
        drawn[f"{setting}_p@{k}"] = 100 * hits / k
        drawn[f"{setting}_r@{k}"] = 100 * hits / np.maximum(present, 1e-9)
        drawn[f"{setting}_f1@{k}"] = 200 * hits / (k + present)
  return drawn


def _settings(
  scores: np.ndarray,
  labels: np.ndarray,
  seen: np.ndarray,
  protocol: MultiLabelProtocol,
) -> Iterator[tuple[str, np.ndarray, np.ndarray, list[int]]]:
  """``zsl`` and ``gzsl``, with the scores, labels and numbers K that count."""
  for setting, columns in (("zsl", ~np.asarray(seen)), ("gzsl", slice(None))):
    s, y = scores[:, columns], labels[:, columns]
    if protocol.drop_images_without_positive:
      kept = (y > 0).any(1)
      s, y = s[kept], y[kept]
    yield setting, s, y, [k for k in protocol.top_k if k <= y.shape[1]]
