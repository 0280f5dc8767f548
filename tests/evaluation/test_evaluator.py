"""Evaluators on streamed batches, and the metrics that protocols declare."""

import numpy as np
import pytest

from zsljax import models
from zsljax.classes import ClassSpace
from zsljax.devices.mesh import make_mesh
from zsljax.errors import ZsljaxError
from zsljax.evaluation import (
  PROTOCOLS,
  make_evaluator,
  protocols_for,
  streamed_outputs,
)
from zsljax.evaluation.multilabel import MULTI_LABEL_PROTOCOLS
from zsljax.evaluation.protocols import selection_metric

SPACE = ClassSpace.create("abc", np.eye(3), [True, True, False], ids=[5, 2, 9])


class Fixed:
  """A system whose scores and embeddings are its features."""

  name, task = "fixed", models.SINGLE_LABEL

  def scores(self, params, features, classes):
    return features * params

  def embed(self, params, features):
    return features


def batches(features, labels, absent=None, size=4):
  for start in range(0, len(features), size):
    rows = slice(start, start + size)
    missing = size - len(features[rows])
    batch = {"features": features[rows], "labels": labels[rows]}
    if absent is not None:
      batch["absent"] = absent[rows]
    batch["mask"] = np.ones(size - missing, bool)
    yield {
      k: np.pad(v, [(0, missing)] + [(0, 0)] * (v.ndim - 1)) for k, v in batch.items()
    }


def streamed(protocol, stream, devices=1):
  mesh, evaluator = make_mesh(devices), make_evaluator(protocol, top_k=(1,))
  found = streamed_outputs(evaluator, Fixed(), np.float32(2), SPACE, stream, mesh)
  return evaluator, *found


@pytest.mark.parametrize("devices", [1, 4])
def test_all_images_are_scored_and_labels_become_columns(devices):
  features = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
  present = np.array([[5, -1], [2, 9], [-1, -1], [7, 9], [5, 2], [9, -1]])
  absent = np.array([[2], [5], [2], [-1], [9], [5]])
  expected = np.array(
    [[1, -1, 0], [-1, 1, 1], [0, -1, 0], [0, 0, 1], [1, 1, -1], [-1, 0, 1]]
  )
  stream = batches(features, present, absent)
  _, scores, labels = streamed("lesa", stream, devices)
  np.testing.assert_allclose(scores, 2 * features)
  np.testing.assert_array_equal(labels, expected)
  _, _, labels = streamed("lesa", batches(features, present), devices)
  np.testing.assert_array_equal(labels, np.where(expected == 1, 1, -1))


@pytest.mark.parametrize("protocol", ["xian", "retrieval", "embeddings"])
def test_a_label_that_is_no_class_is_refused(protocol):
  columns = {"labels": np.array([5, 3]), "mask": np.array([True, True])}
  space = ClassSpace.create("abc", np.eye(3), ids=[5, 2, 9])
  with pytest.raises(ZsljaxError, match=r"labels: found \[3\] \(1 such"):
    make_evaluator(protocol).labels(columns, space)


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "pairs"])
def test_reports_have_the_metrics_that_protocols_declare(protocol):
  several = protocol in MULTI_LABEL_PROTOCOLS
  ids = SPACE.ids[np.arange(12) % 3]
  features = np.eye(3, dtype=np.float32)[np.arange(12) % 3]
  stream = batches(features, ids[:, None] if several else ids)
  evaluator, outputs, labels = streamed(protocol, stream)
  assert evaluator.protocol == protocol
  found = evaluator.report(outputs, labels, SPACE.seen).metrics
  if several:
    found = {name.replace("@1", "@K"): value for name, value in found.items()}
  assert set(found) == set(PROTOCOLS[protocol].metrics)
  assert found.keys() >= set(PROTOCOLS[protocol].selects)


@pytest.mark.parametrize("protocol", ["xian", "retrieval", "lesa"])
def test_nan_scores_are_refused(protocol):
  features = np.ones((6, 3), np.float32)
  features[3] = np.nan
  ids = np.repeat(SPACE.ids, 2)
  stream = batches(features, ids[:, None] if protocol == "lesa" else ids)
  evaluator, outputs, labels = streamed(protocol, stream)
  with pytest.raises(ZsljaxError, match="scores: found NaN for 1 of 6 images"):
    evaluator.report(outputs, labels, SPACE.seen)


def test_systems_have_the_protocols_of_their_task():
  assert protocols_for(Fixed()) == ["xian", "retrieval", "embeddings"]
  for name, task in (("embeddings", models.CLOSED_SET), ("lesa", models.MULTI_LABEL)):
    system = Fixed()
    system.task = task
    assert protocols_for(system)[0] == name


def test_metric_that_may_not_choose_is_refused():
  assert (
    selection_metric(Fixed(), "t1") == "t1" and selection_metric(Fixed(), "") == "ausuc"
  )
  with pytest.raises(ZsljaxError, match=r"config.selection.metric: found 'f1', expect"):
    selection_metric(Fixed(), "f1")
