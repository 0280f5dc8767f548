"""Generalized zero-shot classification of images with one label.

References:
  Xian, Lampert, Schiele, Akata, "Zero-Shot Learning: A Comprehensive
  Evaluation of the Good, the Bad and the Ugly" (TPAMI 2018).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from zsljax.evaluation.calibration import UNCALIBRATED, Calibration, Curve, between
from zsljax.evaluation.metrics import class_weights, harmonic_mean, per_class_accuracy

Array = jax.Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decisions:
  """The best seen and the best unseen class of each of n images.

  Conventional and generalized accuracy at every calibration follow from these:
  a shift of all seen scores never changes which seen class is best.

  Attributes:
    seen_class: position of the best seen class, ``[n]``.
    seen_score: its score, ``[n]``.
    unseen_class: position of the best unseen class, ``[n]``.
    unseen_score: its score, ``[n]``.
  """

  seen_class: Array
  seen_score: Array
  unseen_class: Array
  unseen_score: Array

  def margins(self, kind: str = "additive") -> np.ndarray:
    """Penalties beyond which images leave the seen classes, ``[n]`` float64."""
    own = _relative(self) if kind == "multiplicative" else self
    return np.asarray(own.seen_score, np.float64) - own.unseen_score

  def mean_margin(self, kind: str = "additive") -> float:
    """Mean of ``margins``; of multiplicative ones within the bounds of a penalty."""
    margins = self.margins(kind)
    return float(np.mean(margins if kind == "additive" else np.clip(margins, -1, 1)))


def decide(scores: Array, seen: Array) -> Decisions:
  """The decisions that ``scores`` [B, C] imply; ties go to the first class.

  >>> found = decide(np.array([[0.1, 0.7, 0.2]]), np.array([True, False, False]))
  >>> int(found.seen_class[0]), int(found.unseen_class[0])
  (0, 1)

  Args:
    scores: ``[B, C]``.
    seen: ``[C]`` bool, of the class space.
  """
  among_seen = jnp.where(seen, scores, -jnp.inf)
  among_unseen = jnp.where(seen, -jnp.inf, scores)
  return Decisions(
    seen_class=jnp.argmax(among_seen, 1),
    seen_score=jnp.max(among_seen, 1),
    unseen_class=jnp.argmax(among_unseen, 1),
    unseen_score=jnp.max(among_unseen, 1),
  )


def generalized_predictions(
  decisions: Decisions, calibration: Calibration = UNCALIBRATED
) -> np.ndarray:
  """Position of each image's class among all classes, calibrated, ``[n]``.

  Ties go to the class that comes first, as with a plain argmax.

  >>> decisions = decide(np.array([[0.4, 0.3]]), np.array([True, False]))
  >>> generalized_predictions(decisions).tolist()
  [0]
  >>> generalized_predictions(decisions, Calibration("additive", 0.2)).tolist()
  [1]
  """
  if calibration.name == "multiplicative":
    decisions = _relative(decisions)
  seen = np.asarray(decisions.seen_score, np.float64) - calibration.penalty
  to_seen = (seen > decisions.unseen_score) | (
    (seen == decisions.unseen_score) & (decisions.seen_class < decisions.unseen_class)
  )
  return np.where(to_seen, decisions.seen_class, decisions.unseen_class)


def single_label_metrics(
  decisions: Decisions,
  labels: np.ndarray,
  seen: np.ndarray,
  calibration: Calibration = UNCALIBRATED,
) -> dict[str, float]:
  """T1, U, S, H and AUSUC in percent.

  ``t1``: images of unseen classes scored among the unseen classes only.
  ``u`` and ``s``: images of unseen and of seen classes scored among all, seen
  scores calibrated. ``h``: their harmonic mean. ``ausuc``: the area
  under the curve that they draw over all additive gamma. All are means over classes;
  ``ausuc_micro``, of curves whose accuracies are means over images, as class-norm's
  code has it. ``accuracy``: over all images, whatever their classes, among all classes.

  >>> decisions = decide(np.eye(2), np.array([True, False]))
  >>> metrics = single_label_metrics(decisions, np.arange(2), np.array([True, False]))
  >>> sorted(metrics), min(metrics.values())
  (['accuracy', 'ausuc', 'ausuc_micro', 'h', 's', 't1', 'u'], 100.0)

  Args:
    decisions: of n images of seen and unseen classes.
    labels: positions of the true classes, ``[n]``.
    seen: ``[C]`` bool, of the class space.
    calibration: of ``u``, ``s`` and ``h``.
  """
  of_seen = seen[labels]
  predicted = generalized_predictions(decisions, calibration)
  u = per_class_accuracy(predicted[~of_seen], labels[~of_seen])
  s = per_class_accuracy(predicted[of_seen], labels[of_seen])
  among_unseen = np.asarray(decisions.unseen_class)[~of_seen]
  fractions = {
    "t1": per_class_accuracy(among_unseen, labels[~of_seen]),
    "u": u,
    "s": s,
    "h": float(harmonic_mean(u, s)),
    "ausuc": seen_unseen_curve(decisions, labels, seen).area(),
    "ausuc_micro": seen_unseen_curve(decisions, labels, seen, per_class=False).area(),
    "accuracy": float(np.mean(predicted == labels)),
  }
  return {name: 100 * value for name, value in fractions.items()}


def seen_unseen_curve(
  decisions: Decisions,
  labels: np.ndarray,
  seen: np.ndarray,
  per_class: bool = True,
  kind: str = "additive",
) -> Curve:
  """The exact curve of U and S over gamma: one sort, then cumulative sums.

  >>> decisions = decide(np.array([[3, 1], [2, 1]]), np.array([True, False]))
  >>> curve = seen_unseen_curve(decisions, np.arange(2), np.array([True, False]))
  >>> curve.margins.tolist(), curve.unseen.tolist(), curve.seen.tolist()
  ([1.0, 2.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0])

  Args:
    decisions: of n images of seen and unseen classes.
    labels: positions of the true classes, ``[n]``.
    seen: ``[C]`` bool, of the class space.
    per_class: accuracies are means over classes; else over images.
    kind: of calibration. A multiplicative curve ends where gamma does.
  """
  weight = np.zeros(len(labels))
  for side in (seen[labels], ~seen[labels]):
    weight[side] = class_weights(labels[side]) if per_class else 1 / max(side.sum(), 1)
  right_if_seen = weight * (decisions.seen_class == labels)
  right_if_unseen = weight * (decisions.unseen_class == labels)
  margin = decisions.margins(kind)
  order = np.argsort(margin, kind="stable")
  margin = margin[order]
  last = np.append(np.flatnonzero(np.diff(margin)), len(margin) - 1)
  total = right_if_seen.sum()
  lost = np.cumsum(right_if_seen[order])[last]
  won = np.cumsum(right_if_unseen[order])[last]
  return Curve(
    margins=margin[last],
    penalty=between(margin[last]),
    unseen=np.concatenate([[0], won]),
    seen=np.concatenate([[total], total - lost]),
    kind=kind,
  )


def _relative(decisions: Decisions) -> Decisions:
  """Decisions on which a penalty acts additively as it does multiplicatively here.

  Seen scores become the share of themselves by which they lead, unseen ones 0. The lead
  of a score of 0 has no share: it stands for every gamma, as does the first place of a
  seen class in a tie at 0.
  """
  seen = np.asarray(decisions.seen_score, np.float64)
  lead = seen - decisions.unseen_score
  share = np.divide(lead, np.abs(seen), out=np.zeros_like(lead), where=seen != 0)
  first = np.where(decisions.seen_class < decisions.unseen_class, 1, -1)
  share = np.where(seen == 0, 2 * np.where(lead == 0, first, np.sign(lead)), share)
  return dataclasses.replace(
    decisions, seen_score=share, unseen_score=np.zeros_like(lead)
  )
