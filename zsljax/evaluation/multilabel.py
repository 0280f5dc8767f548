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
from typing import Any

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


def decision_metrics(given: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """Precision, recall and F1 of labels that images are given.

  >>> given, labels = np.array([[True, True, False]]), np.array([[1, -1, 1]])
  >>> found = decision_metrics(given, labels)
  >>> found["p"], found["r"], found["f1"], found["macro_f1"]
  (0.5, 0.5, 0.5, 0.3333333333333333)

  Args:
    given: ``[N, C]`` bool.
    labels: ``[N, C]``, positive where present.

  Returns:
    ``p``, ``r`` and ``f1`` of all pairs (micro); ``sample_f1``, the mean of F1 over
    images; ``macro_f1``, that over labels. Where nothing is given and nothing present
    they are 0.
  """
  present = labels > 0
  hits = given & present

  def share(found, among):
    return found / np.maximum(among, 1)

  def f1(axis=None):
    return share(2 * hits.sum(axis), given.sum(axis) + present.sum(axis))

  found = {
    "p": share(hits.sum(), given.sum()),
    "r": share(hits.sum(), present.sum()),
    "f1": f1(),
    "sample_f1": f1(1).sum() / max(len(given), 1),
    "macro_f1": f1(0).sum() / max(given.shape[1], 1),
  }
  return {name: float(value) for name, value in found.items()}


def best_labels(scores: np.ndarray, top_k: Sequence[int]) -> dict[int, np.ndarray]:
  """Marks the K best labels of each image, by K, ``[N, C]`` bool.

  >>> best_labels(np.array([[0.9, 0.5, 0.9]]), (1, 2))[1].tolist()
  [[True, False, False]]

  Args:
    scores: ``[N, C]``, numbers; ties go to the first label.
    top_k: the numbers K, at most C.
  """
  given = {k: np.zeros(scores.shape, bool) for k in top_k}
  for start in range(0, len(scores), _BLOCK):
    some = slice(start, start + _BLOCK)
    order = np.argsort(-scores[some], 1, kind="stable")
    for k, chosen in given.items():
      np.put_along_axis(chosen[some], order[:, :k], True, 1)
  return given


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
  thresholds: np.ndarray | None = None,
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
    thresholds: of labels, ``[C]``, see ``Thresholds``; None leaves them out.

  Returns:
    In percent, for ``zsl`` and ``gzsl``: ``zsl_f1@3`` and the like, the numbers of
    ``decision_metrics`` when each image is given its K best labels;
    ``zsl_f1@threshold`` and the like, when it is given those whose score reaches the
    threshold; ``zsl_map``, the mean over labels; ``zsl_weighted_map``, weighted by the
    labels' images. And what was counted: the number of images and of labels, and the
    density, present labels to an image,
    which is K * precision / recall at every K: rows whose density differs were not
    computed on the same labels.

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
  for setting, s, y, given in _settings(scores, labels, seen, protocol, thresholds):
    for at, chosen in given.items():
      for name, value in decision_metrics(chosen, y).items():
        metrics[f"{setting}_{name}@{at}"] = value
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


def resampled_decisions(
  scores: np.ndarray,
  labels: np.ndarray,
  seen: np.ndarray,
  protocol: MultiLabelProtocol,
  thresholds: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
  """Precision, recall and F1 of images that are drawn anew, in percent, ``[draws]``.

  Arguments are those of ``multi_label_metrics``. AP is left out: of a label with few
  images it lies far above AP in many images, and no bootstrap mends that.

  >>> drawn = resampled_decisions(
  ...   np.array([[2.0, 1.0]]), np.array([[1, -1]]), np.array([True, False]),
  ...   MultiLabelProtocol(False, "ignore", top_k=(1,)),
  ... )
  >>> float(drawn["gzsl_f1@1"][0])
  100.0
  """
  drawn = {}
  for setting, _, y, given in _settings(scores, labels, seen, protocol, thresholds):
    present = y > 0
    for at, chosen in given.items() if len(y) else ():
      counts = [np.sum(x, 1) for x in (chosen & present, chosen, present)]
      hits, of_given, of_present = resampled_means(np.stack(counts, 1), 0 * counts[0]).T
      least = 1 / len(y)  # In place of no label at all.
      drawn[f"{setting}_p@{at}"] = 100 * hits / np.maximum(of_given, least)
      drawn[f"{setting}_r@{at}"] = 100 * hits / np.maximum(of_present, least)
      drawn[f"{setting}_f1@{at}"] = (
        200 * hits / np.maximum(of_given + of_present, least)
      )
  return drawn


def _settings(
  scores: np.ndarray,
  labels: np.ndarray,
  seen: np.ndarray,
  protocol: MultiLabelProtocol,
  thresholds: np.ndarray | None,
) -> Iterator[tuple[str, np.ndarray, np.ndarray, dict[Any, np.ndarray]]]:
  """``zsl`` and ``gzsl``: scores and labels that count, and the labels given by each K
  and by thresholds."""
  for setting, columns in (("zsl", ~np.asarray(seen)), ("gzsl", slice(None))):
    s, y = scores[:, columns], labels[:, columns]
    if protocol.drop_images_without_positive:
      kept = (y > 0).any(1)
      s, y = s[kept], y[kept]
    given: dict[Any, np.ndarray] = {}
    given |= best_labels(s, [k for k in protocol.top_k if k <= y.shape[1]])
    if thresholds is not None:
      given["threshold"] = s >= thresholds[columns]
    yield setting, s, y, given
