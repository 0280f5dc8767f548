"""Images that lie on the devices, to evaluate runs with again and again."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zsljax import evaluation, training
from zsljax.classes import ClassSpace
from zsljax.devices.mesh import replicated
from zsljax.evaluation import Calibration, Evaluator, Report
from zsljax.evaluation.protocols import RETRIEVAL, selection_metric
from zsljax.evaluation.temperature import ScoredImages
from zsljax.models import Batch, System
from zsljax.runs.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
  """Placed images, with the usual evaluator of an experiment's system.

  Attributes:
    evaluator: of the images.
    metric: what chooses between runs, see ``selection_metric``.
    calibration: of the config's kind, without a gamma.
    classes: that are scored.
    images: on the devices.
    mask: which of the images are no padding, ``[n, B]`` bool, on the host.
    labels: as the evaluator takes them, of the images that are no padding.
    mesh: the devices.
  """

  evaluator: Evaluator
  metric: str
  calibration: Calibration
  classes: ClassSpace
  images: training.DeviceImages
  mask: np.ndarray
  labels: np.ndarray
  mesh: jax.sharding.Mesh

  @classmethod
  def placed(cls, run: Experiment, split: str) -> EvaluationSet:
    """Reads ``split``, ``test`` or ``val``, and puts it onto the devices.

    Raises:
      ZsljaxError: the config's metric is none of the protocol's; the images do not fit
        on the devices.
    """
    return cls.of(run, *run.placed_images(split))

  @classmethod
  def of(
    cls, run: Experiment, classes: ClassSpace, images: training.DeviceImages
  ) -> EvaluationSet:
    """Images that lie on the devices already, scored among ``classes``."""
    config = run.config["evaluation"]
    usual, *_ = evaluation.protocols_for(run.system)
    evaluator = evaluation.make_evaluator(usual, config["top_k"])
    metric = selection_metric(run.system, run.config["selection"]["metric"])
    batch = jax.device_get(_without_features(run.mesh)(images))
    columns = {"labels": batch.labels, "mask": batch.mask}
    if batch.absent is not None:
      columns["absent"] = batch.absent
    labels = evaluator.labels(columns, classes)
    calibration = Calibration(config["calibration"])
    mask, mesh = batch.mask, run.mesh
    return cls(evaluator, metric, calibration, classes, images, mask, labels, mesh)

  @functools.cached_property
  def inputs(self) -> tuple[training.DeviceImages, ClassSpace]:
    """Images and classes on the devices, for ``outputs``."""
    classes = self.classes.without_names()
    return self.images, jax.device_put(classes, replicated(self.mesh))

  def outputs(
    self,
    system: System,
    params: Any,
    images: training.DeviceImages,
    classes: ClassSpace,
  ) -> Any:
    """The evaluator's outputs ``[n, B, ...]`` of ``self.inputs``; traced."""
    return images.map(
      lambda batch: self.evaluator.outputs(
        system, params, batch.astype(jnp.float32), classes
      )
    )

  def report(self, outputs: Any) -> Report:
    """Metrics of one run, from its ``outputs`` on the host, without a calibration."""
    outputs = jax.tree.map(lambda x: x[self.mask], outputs)
    seen = np.asarray(self.classes.seen)
    return self.evaluator.report(outputs, self.labels, seen, self.calibration)

  def mean_margin(self, outputs: Any, kind: str | None = None) -> float:
    """The mean margin of the images, see ``Decisions.mean_margin``.

    ``kind`` is that of the config's calibration when None.
    """
    outputs = jax.tree.map(lambda x: x[self.mask], outputs)
    return outputs.mean_margin(kind or self.calibration.kind)

  def of_scores(self) -> EvaluationSet:
    """The same images, whose outputs are all scores."""
    return dataclasses.replace(self, evaluator=evaluation.make_evaluator(RETRIEVAL))

  def scored(
    self, scores: np.ndarray, calibration: Calibration, mean_margin: float
  ) -> ScoredImages:
    """The scores of a run, outputs of ``of_scores``, to be made probabilities."""
    lowered = calibration.lowered(scores[self.mask], np.asarray(self.classes.seen))
    return ScoredImages(np.asarray(lowered), self.labels, mean_margin)


@functools.cache
def _without_features(
  mesh: jax.sharding.Mesh,
) -> Callable[[training.DeviceImages], Batch]:
  """A compiled function that gives all of images but their features."""
  return jax.jit(
    lambda images: images.map(lambda b: dataclasses.replace(b, features=None)),
    out_shardings=replicated(mesh),
  )
