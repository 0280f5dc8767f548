"""What runs that are trained together make of a set of images."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from zsljax import evaluation, training
from zsljax.errors import require
from zsljax.evaluation import Curve, Decisions
from zsljax.experiment import Experiment
from zsljax.sweeps.together import Together
from zsljax.training import TrainState

SINGLE_LABEL, EMBEDDINGS, MULTI_LABEL = "xian", "embeddings", "lesa"
# What may decide, the higher the better; the first does where the config does not say.
METRICS = {
  SINGLE_LABEL: ("h", "ausuc", "ausuc_micro", "t1"),
  EMBEDDINGS: ("recall@1", "recall@5", "recall@10", "map", "accuracy"),
  MULTI_LABEL: ("zsl_map", "gzsl_map"),
}


@dataclasses.dataclass(frozen=True)
class Judgement:
  """What one run, after some steps, makes of a set of images.

  Attributes:
    metrics: in percent, without calibration.
    curve: seen and unseen accuracy over gamma, of single-label images.
    decisions: what the metrics at another gamma are made of.
    seen: ``[C]`` bool, of the classes that were scored.
    conditions: of a multi-label protocol.
  """

  metrics: dict[str, float]
  curve: Curve | None = None
  decisions: Decisions | None = None
  seen: np.ndarray | None = None
  conditions: dict[str, Any] | None = None

  def calibrated(self, gamma: float) -> dict[str, float]:
    """The metrics where seen classes are calibrated with ``gamma``."""
    return evaluation.single_label_metrics(
      self.decisions, self.seen, gamma, self.curve.calibration
    )


class Judge:
  """Judges runs by the usual protocol of their system.

  Attributes:
    protocol: by which.
    metric: what decides between runs.
  """

  def __init__(self, run: Experiment, split: str):
    """Puts the images of ``split``, ``test`` or ``val``, on the devices.

    Raises:
      ZsljaxError: the config's metric is none of the protocol's.
    """
    self._run = run
    self._classes, _, batches = run.images(split)
    self._seen = np.asarray(self._classes.seen)
    self.protocol = SINGLE_LABEL
    if run.system.multi_label:
      self.protocol = MULTI_LABEL
    elif run.system.closed_set:
      self.protocol = EMBEDDINGS
    known = METRICS[self.protocol]
    self.metric = run.config["selection"]["metric"] or known[0]
    require(
      self.metric in known,
      "config.selection.metric",
      repr(self.metric),
      f"one of {', '.join(known)} for {run.system.name}",
    )
    self._batches, labels = [], []  # Sent to the devices once, for all stops.
    for batch in batches:
      placed = training.to_mesh(batch, run.mesh, num_examples=0)
      self._batches.append((batch["mask"], placed))
      if run.system.multi_label:
        labels.append(evaluation.dense_labels(batch, self._classes))
    self._labels = np.concatenate(labels) if labels else None

  def judgements(self, runs: Together, state: TrainState) -> list[Judgement | None]:
    """One for each run; None for those that are not finite."""
    function = {
      SINGLE_LABEL: evaluation.decisions_of,
      EMBEDDINGS: evaluation.embedded,
      MULTI_LABEL: evaluation.scores_of,
    }[self.protocol]
    outputs = runs.outputs(function, state, self._classes, self._batches)
    return [
      self._judgement(_at(outputs, r)) if finite else None
      for r, finite in enumerate(runs.finite)
    ]

  def embeddings(self, runs: Together, state: TrainState) -> list[Judgement]:
    """As ``judgements``, of the embeddings that a zero-shot system gives."""
    outputs = runs.outputs(evaluation.embedded, state, self._classes, self._batches)
    return [self._embedded(_at(outputs, r)) for r in range(len(runs.variants))]

  def value(self, judgements: Sequence[Judgement | None]) -> tuple[float, float | None]:
    """What decides, the mean over runs that differ in their seed, and the best gamma.

    The gamma is the one with the highest mean of H; None without unseen classes. The
    value is minus infinity where a run is not finite.
    """
    if None in judgements:
      return -np.inf, None
    value, gamma = np.mean([j.metrics[self.metric] for j in judgements]), None
    if self.protocol == SINGLE_LABEL:
      gamma, h = evaluation.shared_gamma([j.curve for j in judgements])
      value = 100 * h if self.metric == "h" else value
    return float(value), gamma

  def _judgement(self, outputs) -> Judgement:
    if self.protocol == SINGLE_LABEL:
      evaluation.require_numbers(
        np.stack([outputs.seen_score, outputs.unseen_score], 1)
      )
      return Judgement(
        evaluation.single_label_metrics(outputs, self._seen),
        evaluation.seen_unseen_curve(
          outputs,
          self._seen,
          calibration=self._run.config["evaluation"]["calibration"],
        ),
        outputs,
        self._seen,
      )
    if self.protocol == EMBEDDINGS:
      return self._embedded(outputs)
    rules = evaluation.MULTI_LABEL_PROTOCOLS[MULTI_LABEL]
    top_k = tuple(self._run.config["evaluation"]["top_k"]) or rules.top_k
    rules = dataclasses.replace(rules, top_k=top_k)
    metrics, counted = evaluation.multi_label_metrics(
      outputs, self._labels, self._seen, rules
    )
    return Judgement(metrics, conditions=dataclasses.asdict(rules) | counted)

  def _embedded(self, outputs) -> Judgement:
    metrics, _ = evaluation.embedding_metrics(outputs, self._seen, self._run.mesh)
    return Judgement(metrics)


def _at(outputs, index: int):
  return jax.tree.map(lambda x: x[index], outputs)
