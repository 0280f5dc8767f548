"""What a protocol makes of a run, again and again, on the same images."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zsljax import evaluation, models
from zsljax.classes import ClassSpace
from zsljax.devices.mesh import own_mesh, replicated
from zsljax.errors import require
from zsljax.evaluation import Curve, Decisions
from zsljax.models import Batch, System
from zsljax.runs.experiment import Experiment
from zsljax.training import (
  DeviceImages,
)

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


@dataclasses.dataclass(frozen=True)
class Judge:
  """Judges runs by a protocol, on images that lie on the devices.

  Attributes:
    run: the experiment, of whatever seed.
    classes: that are scored.
    images: on the devices.
    labels: of the images, with their mask and no features, on the host ``[n, B, ...]``.
    protocol: a key of ``METRICS``.
    metric: what decides between runs.
  """

  run: Experiment
  classes: ClassSpace
  images: DeviceImages
  labels: Batch
  protocol: str
  metric: str

  @classmethod
  def of(cls, run: Experiment, split: str) -> Judge:
    """Reads ``split``, ``test`` or ``val``, to be judged as is usual for the system.

    Raises:
      ZsljaxError: the config's metric is none of the protocol's; the images do not fit
        on the devices.
    """
    protocol = SINGLE_LABEL
    if run.system.task == models.MULTI_LABEL:
      protocol = MULTI_LABEL
    elif run.system.task == models.CLOSED_SET:
      protocol = EMBEDDINGS
    known = METRICS[protocol]
    metric = run.config["selection"]["metric"] or known[0]
    require(
      metric in known,
      "config.selection.metric",
      repr(metric),
      f"one of {', '.join(known)} for {run.system.name}",
    )
    classes, images = run.placed_images(split)
    without_features = jax.jit(
      lambda images: images.map(lambda b: dataclasses.replace(b, features=None)),
      out_shardings=replicated(run.mesh),
    )
    labels = jax.device_get(without_features(images))
    return cls(run, classes, images, labels, protocol, metric)

  @functools.cached_property
  def inputs(self) -> tuple[DeviceImages, ClassSpace]:
    """What ``outputs`` goes through, on the devices."""
    classes = self.classes.without_names()
    return self.images, jax.device_put(classes, replicated(self.run.mesh))

  def outputs(self, system: System, params, images: DeviceImages, classes: ClassSpace):
    """What ``judgement`` needs of a system; traced, with ``self.inputs``."""
    function = {
      SINGLE_LABEL: evaluation.decisions_of,
      EMBEDDINGS: evaluation.embedded,
      MULTI_LABEL: evaluation.scores_of,
    }[self.protocol]
    return images.map(
      lambda batch: function(system, params, batch.astype(jnp.float32), classes)
    )

  def judgement(self, outputs) -> Judgement:
    """What one run's ``outputs``, on the host, come to."""
    mask, seen = self.labels.mask, np.asarray(self.classes.seen)
    outputs = jax.tree.map(lambda x: x[mask], outputs)
    if self.protocol == SINGLE_LABEL:
      evaluation.require_numbers(
        np.stack([outputs.seen_score, outputs.unseen_score], 1)
      )
      calibration = self.run.config["evaluation"]["calibration"]
      return Judgement(
        evaluation.single_label_metrics(outputs, seen),
        evaluation.seen_unseen_curve(outputs, seen, calibration=calibration),
        outputs,
        seen,
      )
    if self.protocol == EMBEDDINGS:
      mesh = self.run.mesh if jax.process_count() == 1 else own_mesh()
      metrics, _ = evaluation.embedding_metrics(outputs, seen, mesh)
      return Judgement(metrics)
    rules = evaluation.MULTI_LABEL_PROTOCOLS[MULTI_LABEL]
    top_k = tuple(self.run.config["evaluation"]["top_k"]) or rules.top_k
    rules = dataclasses.replace(rules, top_k=top_k)
    metrics, counted = evaluation.multi_label_metrics(
      outputs, self._dense_labels, seen, rules
    )
    return Judgement(metrics, conditions=dataclasses.asdict(rules) | counted)

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

  @functools.cached_property
  def _dense_labels(self) -> np.ndarray:
    columns = {"labels": self.labels.labels, "mask": self.labels.mask}
    if self.labels.absent is not None:
      columns["absent"] = self.labels.absent
    return evaluation.dense_labels(columns, self.classes)
