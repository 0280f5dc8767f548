"""Evaluation of scores that any system made, by the protocols of this library."""

from __future__ import annotations

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from zsljax.errors import did_you_mean, require
from zsljax.evaluation.calibration import UNCALIBRATED, Calibration
from zsljax.evaluation.evaluator import Report, make_evaluator
from zsljax.evaluation.metrics import require_numbers
from zsljax.evaluation.multilabel import MULTI_LABEL_PROTOCOLS
from zsljax.evaluation.protocols import EMBEDDINGS, PAIRS, PROTOCOLS, XIAN
from zsljax.evaluation.single_label import decide


def report_of(
  scores: np.ndarray,
  labels: np.ndarray,
  seen: np.ndarray,
  protocol: str = XIAN,
  calibration: Calibration = UNCALIBRATED,
  top_k: Iterable[int] = (),
) -> Report:
  """The report of given scores.

  Args:
    scores: ``[N, C]``, the higher the likelier; compared in float32, as systems score.
    labels: column of each image's class, ``[N]``; of a protocol for several labels
      ``[N, C]``: 1 present, -1 absent, 0 unannotated. ``retrieval`` takes images in the
      order of the source.
    seen: ``[C]`` bool, the classes of training.
    protocol: of ``PROTOCOLS``, but neither ``embeddings`` nor ``pairs``.
    calibration: of the seen classes' scores, for ``xian``.
    top_k: numbers of labels, of a protocol for several.

  Raises:
    ZsljaxError: a score is NaN, a shape disagrees, a label is none of the columns, all
      classes are seen, or the protocol is unknown.
  """
  known = [name for name in PROTOCOLS if name not in (EMBEDDINGS, PAIRS)]
  require(protocol in known, "protocol", repr(protocol), did_you_mean(protocol, known))
  scores, labels, seen = map(np.asarray, (scores, labels, seen))
  scores = scores.astype(np.float32) if scores.dtype == jnp.bfloat16 else scores
  numbers = scores.ndim == 2 and scores.size > 0 and scores.dtype.kind in "iuf"
  found = f"{scores.dtype} of shape {scores.shape}"
  require(numbers, "scores", found, "numbers [N, C], a row for each image")
  images, classes = scores.shape
  found = f"{seen.dtype} of shape {seen.shape}"
  fits = seen.shape == (classes,) and seen.dtype == bool
  require(fits, "seen", found, f"bool [{classes}], one for each column of the scores")
  found = "unseen classes alone" if not seen.any() else "seen classes alone"
  require(0 < seen.sum() < classes, "seen", found, "both kinds of classes")
  several = protocol in MULTI_LABEL_PROTOCOLS
  shape, lowest, highest = (images,), 0, classes - 1
  if several:
    shape, lowest, highest = scores.shape, -1, 1
  found = f"{labels.dtype} of shape {labels.shape}"
  whole = labels.shape == shape and labels.dtype.kind in "iu"
  require(whole, "labels", found, f"whole numbers {list(shape)}")
  bad = (labels < lowest) | (labels > highest)
  first = tuple(np.argwhere(bad)[0].tolist()) if bad.any() else ()
  found = f"{labels[bad][:1]} at {first}, counted from 0 ({bad.sum()} such)"
  require(not bad.any(), "labels", found, f"numbers from {lowest} to {highest}")
  if several:
    absences = (labels < 0).any()
    require(absences, "labels", "no -1", "-1 where a label is absent; 0 is unannotated")
  else:
    kinds = (~seen[labels]).any() and (protocol != XIAN or seen[labels].any())
    found = "images of one kind of classes alone"
    require(kinds, "labels", found, "images of unseen and, for xian, of seen classes")
  fits = calibration.gamma is None or protocol == XIAN
  require(fits, "gamma", calibration.gamma, f"no calibration with {protocol}")
  require(several or not tuple(top_k), "top_k", top_k, f"none with {protocol}")
  require_numbers(scores)
  scores = scores.astype(np.float32)
  outputs = jax.device_get(decide(scores, seen)) if protocol == XIAN else scores
  evaluator = make_evaluator(protocol, top_k)
  return evaluator.report(outputs, labels, seen, calibration)


def evaluate(
  scores: np.ndarray,
  labels: np.ndarray,
  seen: np.ndarray,
  protocol: str = XIAN,
  gamma: float | None = None,
  calibration: str = "additive",
  top_k: Iterable[int] = (),
) -> dict[str, float]:
  """Metrics in percent of scores that any system made.

  >>> scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.1, 0.7], [0.1, 0.2, 0.7]])
  >>> found = evaluate(scores, np.array([0, 2, 2]), np.array([True, False, False]))
  >>> found["t1"], found["u"], found["s"], round(found["h"], 2)
  (100.0, 50.0, 100.0, 66.67)

  Args:
    scores: see ``report_of``, as ``labels``, ``seen``, ``protocol`` and ``top_k``.
    gamma: taken from seen classes' scores, chosen elsewhere; None calibrates nothing.
    calibration: ``additive`` or ``multiplicative``.

  Raises:
    ZsljaxError: see ``report_of``.
  """
  chosen = UNCALIBRATED if gamma is None else Calibration(calibration, gamma)
  return report_of(scores, labels, seen, protocol, chosen, top_k).metrics
