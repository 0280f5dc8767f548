"""Evaluators: from a system and a batch to metrics, one evaluator for each task.

``outputs`` runs on the devices, batch by batch; ``report`` turns the outputs of all
images into metrics on the host. Evaluation of a run, sweeps, evaluation while training
and explanations use the same evaluators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
import dataclasses
import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from zsljax.classes import ClassSpace
from zsljax.devices.mesh import replicated
from zsljax.errors import require
from zsljax.evaluation.bootstrap import Hits, interval, resampled
from zsljax.evaluation.calibration import UNCALIBRATED, Calibration, Curve
from zsljax.evaluation.class_retrieval import class_retrieval
from zsljax.evaluation.embeddings import Embedded, embedding_metrics, resampled_recalls
from zsljax.evaluation.metrics import require_numbers
from zsljax.evaluation.multilabel import (
  MULTI_LABEL_PROTOCOLS,
  MultiLabelProtocol,
  dense_labels,
  multi_label_metrics,
  population,
  resampled_decisions,
)
from zsljax.evaluation.protocols import EMBEDDINGS, RETRIEVAL, XIAN
from zsljax.evaluation.single_label import (
  Decisions,
  decide,
  generalized_predictions,
  seen_unseen_curve,
  single_label_metrics,
)
from zsljax.evaluation.thresholds import Thresholds
from zsljax.models import Batch, System
from zsljax.training import to_mesh

Columns = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
  """Metrics of one run on one set of images.

  Attributes:
    metrics: in percent.
    calibration: of the metrics.
    calibrated: the report with another calibration, of images with one label.
    curve: seen and unseen accuracy over gamma, of images with one label.
    hits: right and wrong decisions, of images with one label.
    resampled: metrics in percent of test sets that are drawn anew, ``[draws]`` each;
      those that have an interval.
    roc: the verification curve by its columns, of embeddings.
    conditions: of a multi-label protocol: its rules, and numbers of what was counted.
  """

  metrics: dict[str, float]
  calibration: Calibration = UNCALIBRATED
  calibrated: Callable[[Calibration], Report] | None = None
  curve: Curve | None = None
  hits: Hits | None = None
  resampled: Callable[[], dict[str, np.ndarray]] = dict
  roc: dict[str, np.ndarray] | None = None
  conditions: dict[str, Any] | None = None

  def on(self, dataset: str, split_version: str) -> Report:
    """The same; several labels' conditions name the dataset's ``population``."""
    known = self.conditions and population(dataset, split_version, self.conditions)
    if not known:
      return self
    return dataclasses.replace(self, conditions=self.conditions | {"population": known})

  def intervals(self) -> dict[str, tuple[float, float]]:
    """95 % intervals over test images, of the metrics of ``resampled``."""
    return {name: interval(values) for name, values in self.resampled().items()}


class Evaluator(Protocol):
  """An evaluation of systems of one task, by a protocol of ``PROTOCOLS``."""

  protocol: str

  def outputs(
    self, system: System, params: Any, batch: Batch, classes: ClassSpace
  ) -> Any:
    """The arrays ``[B, ...]`` of a batch that ``report`` needs; traced."""

  def labels(self, columns: Columns, classes: ClassSpace) -> np.ndarray:
    """Labels as ``report`` takes them, of a host batch without its padding.

    Args:
      columns: ``labels``, class ids ``[..., B]`` or ``[..., B, M]``, ``mask``
        ``[..., B]`` and, where the set annotates absences, ``absent``.
      classes: the class space.
    """

  def report(
    self,
    outputs: Any,
    labels: np.ndarray,
    seen: np.ndarray,
    calibration: Calibration = UNCALIBRATED,
  ) -> Report:
    """Metrics of all images.

    Args:
      outputs: of N images, on the host.
      labels: from ``labels``, of the same images.
      seen: ``[C]`` bool, of the class space.
      calibration: of the classification of images with one label; others have none.

    Raises:
      ZsljaxError: a score is NaN; there is nothing to count.
    """


class _OneLabel:
  """The labels of images with one label: positions in the class space, ``[N]``."""

  def labels(self, columns: Columns, classes: ClassSpace) -> np.ndarray:
    return classes.columns(columns["labels"][columns["mask"]])


class SingleLabelEvaluator(_OneLabel):
  """Conventional and generalized zero-shot classification."""

  protocol = XIAN

  def outputs(self, system, params, batch, classes) -> Decisions:
    return decide(system.scores(params, batch.features, classes), classes.seen)

  def report(self, outputs, labels, seen, calibration=UNCALIBRATED) -> Report:
    require_numbers(np.stack([outputs.seen_score, outputs.unseen_score], 1))
    predicted = generalized_predictions(outputs, calibration)
    among_unseen = np.asarray(outputs.unseen_class) == labels
    hits = Hits((predicted == labels)[None], among_unseen[None], labels, seen[labels])
    return Report(
      single_label_metrics(outputs, labels, seen, calibration),
      calibration,
      functools.partial(self.report, outputs, labels, seen),
      seen_unseen_curve(outputs, labels, seen, kind=calibration.kind),
      hits,
      functools.partial(resampled, hits),
    )


class EmbeddingEvaluator(_OneLabel):
  """Classification among seen classes, retrieval and verification of embeddings."""

  protocol = EMBEDDINGS

  def outputs(self, system, params, batch, classes) -> Embedded:
    decisions = decide(system.scores(params, batch.features, classes), classes.seen)
    return Embedded(system.embed(params, batch.features), decisions.seen_class)

  def report(self, outputs, labels, seen, calibration=UNCALIBRATED) -> Report:
    del calibration
    metrics, roc, ranks = embedding_metrics(outputs, labels, seen)
    return Report(
      metrics, roc=roc, resampled=functools.partial(resampled_recalls, ranks, labels)
    )


class RetrievalEvaluator(_OneLabel):
  """Images of unseen classes retrieved by the descriptions of their classes.

  ``report`` takes images in the order of the source, see ``class_retrieval``.
  """

  protocol = RETRIEVAL

  def outputs(self, system, params, batch, classes) -> jax.Array:
    return system.scores(params, batch.features, classes)

  def report(self, outputs, labels, seen, calibration=UNCALIBRATED) -> Report:
    del calibration
    require_numbers(outputs)
    gallery, column = ~seen[labels], np.cumsum(~seen) - 1
    found = class_retrieval(outputs[gallery][:, ~seen], column[labels[gallery]])
    return Report({name: 100 * value for name, value in found.items()})


@dataclasses.dataclass(frozen=True)
class MultiLabelEvaluator:
  """Ranking of labels for images with several, by the rules of a protocol.

  ``thresholds`` are those of ``multi_label_metrics``.
  """

  protocol: str
  rules: MultiLabelProtocol
  thresholds: np.ndarray | None = None

  def outputs(self, system, params, batch, classes) -> jax.Array:
    return system.scores(params, batch.features, classes)

  def labels(self, columns: Columns, classes: ClassSpace) -> np.ndarray:
    return dense_labels(columns, classes)

  def report(self, outputs, labels, seen, calibration=UNCALIBRATED) -> Report:
    del calibration
    case = outputs, labels, seen, self.rules, self.thresholds
    metrics, counted = multi_label_metrics(*case)
    return Report(
      metrics,
      resampled=functools.partial(resampled_decisions, *case),
      conditions=dataclasses.asdict(self.rules) | counted,
    )


def make_evaluator(protocol: str, top_k: Iterable[int] = ()) -> Evaluator:
  """The evaluator of a protocol.

  Args:
    protocol: a key of ``PROTOCOLS``, but not ``pairs``.
    top_k: of a multi-label protocol, in place of its own numbers K of labels.
  """
  if protocol in MULTI_LABEL_PROTOCOLS:
    rules = MULTI_LABEL_PROTOCOLS[protocol]
    top_k = tuple(top_k) or rules.top_k
    require(all(k >= 1 for k in top_k), "top_k", list(top_k), "numbers of 1 or more")
    return MultiLabelEvaluator(protocol, dataclasses.replace(rules, top_k=top_k))
  evaluators = (SingleLabelEvaluator, RetrievalEvaluator, EmbeddingEvaluator)
  return {evaluator.protocol: evaluator for evaluator in evaluators}[protocol]()


def with_thresholds(
  evaluator: Evaluator, chosen: Mapping[str, Any], classes: ClassSpace
) -> Evaluator:
  """The evaluator with the thresholds of ``classes`` that a sweep has chosen."""
  if "thresholds" not in chosen or not isinstance(evaluator, MultiLabelEvaluator):
    return evaluator
  thresholds = Thresholds(**chosen["thresholds"])
  own = thresholds.of(classes.names, np.asarray(classes.seen))
  return dataclasses.replace(evaluator, thresholds=own)


def over_batches(
  function: Callable[[Any, Batch, ClassSpace], Any],
  params: Any,
  classes: ClassSpace,
  batches: Iterable[Columns],
  mesh: jax.sharding.Mesh,
) -> Iterator[tuple[Columns, Any]]:
  """Host batches, each with the output of ``function`` for it, back on the host.

  ``function`` is jitted and gives arrays ``[B, ...]``; the rows of padding are left out
  of its output.
  """
  classes = jax.device_put(classes, replicated(mesh))
  step = jax.jit(lambda p, batch, c: function(p, batch.astype(jnp.float32), c))
  for host in batches:
    outputs = jax.device_get(step(params, to_mesh(host, mesh, num_examples=0), classes))
    yield host, jax.tree.map(lambda x, m=host["mask"]: x[m], outputs)


def streamed_outputs(
  evaluator: Evaluator,
  system: System,
  params: Any,
  classes: ClassSpace,
  batches: Iterable[Columns],
  mesh: jax.sharding.Mesh,
) -> tuple[Any, np.ndarray]:
  """Outputs and labels of all images of ``batches``, as ``report`` takes them."""

  def function(params, batch, classes):
    return evaluator.outputs(system, params, batch, classes)

  outputs, labels = [], []
  for host, part in over_batches(function, params, classes, batches, mesh):
    outputs.append(part)
    labels.append(evaluator.labels(host, classes))
  outputs = jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)
  return outputs, np.concatenate(labels)
