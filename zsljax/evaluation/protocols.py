"""Protocols: names of evaluations, systems that each is for, and their metrics."""

from __future__ import annotations

import dataclasses

from zsljax.errors import require
from zsljax.evaluation.multilabel import MULTI_LABEL_PROTOCOLS
from zsljax.models import CLOSED_SET, MULTI_LABEL, SINGLE_LABEL, Embeds, System

XIAN, RETRIEVAL, EMBEDDINGS, PAIRS = "xian", "retrieval", "embeddings", "pairs"


@dataclasses.dataclass(frozen=True)
class EvaluationProtocol:
  """An evaluation as result rows name it.

  Attributes:
    tasks: of the systems that it evaluates.
    metrics: in percent, as rows name them; ``K`` stands for each number of labels.
    selects: those by which a sweep may choose, the higher the better; the first is the
      usual one.
  """

  tasks: tuple[str, ...]
  metrics: tuple[str, ...]
  selects: tuple[str, ...] = ()


_RECALLS = ("recall@1", "recall@5", "recall@10")
_SEVERAL = ("p@K", "r@K", "f1@K", "sample_f1@K", "macro_f1@K", "map", "weighted_map")
# Of each task the usual protocol comes first.
PROTOCOLS = {
  XIAN: EvaluationProtocol(
    (SINGLE_LABEL,),
    ("t1", "u", "s", "h", "ausuc", "ausuc_micro", "accuracy"),
    ("ausuc", "ausuc_micro", "t1"),
  ),
  RETRIEVAL: EvaluationProtocol(
    (SINGLE_LABEL,), ("map", "p@25", "p@50", "p@100", "map_released")
  ),
  EMBEDDINGS: EvaluationProtocol(
    (CLOSED_SET, SINGLE_LABEL),
    ("accuracy", *_RECALLS, "map", "tar@0.1", "tar@0.01", "tar@0.001")
    + ("eer", "intra", "inter"),
    (*_RECALLS, "map", "accuracy"),
  ),
  PAIRS: EvaluationProtocol((), ("tar@0.1", "tar@0.01", "tar@0.001", "eer", "auc")),
  **{
    name: EvaluationProtocol(
      (MULTI_LABEL,),
      tuple(
        f"{setting}_{metric}" for setting in ("zsl", "gzsl") for metric in _SEVERAL
      ),
      ("zsl_map", "gzsl_map"),
    )
    for name in MULTI_LABEL_PROTOCOLS
  },
}


def protocols_for(system: System) -> list[str]:
  """Names of the protocols that fit a system, the usual one first."""
  return [
    name
    for name, protocol in PROTOCOLS.items()
    if system.task in protocol.tasks
    and (name != EMBEDDINGS or isinstance(system, Embeds))
  ]


def selection_metric(system: System, asked: str | None) -> str:
  """The metric that chooses between runs of a system.

  Args:
    system: evaluated by its usual protocol.
    asked: the config's ``selection.metric``; None or empty takes the usual one.

  Raises:
    ZsljaxError: the protocol has no such metric, or it may not choose.
  """
  known = PROTOCOLS[protocols_for(system)[0]].selects
  metric = asked or known[0]
  expected = f"one of {', '.join(known)} for {system.name}"
  require(metric in known, "config.selection.metric", repr(metric), expected)
  return metric
