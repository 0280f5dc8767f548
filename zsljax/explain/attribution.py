"""Numbers behind explanations: predictions, attention, contributions, confusion."""

from __future__ import annotations

import collections
from collections.abc import Hashable, Iterable
import dataclasses
import re

import jax
import numpy as np

from zsljax.devices.mesh import replicated
from zsljax.devices.precision import computed_in
from zsljax.evaluation import (
  Decisions,
  generalized_predictions,
  make_evaluator,
  over_batches,
  protocols_for,
)
from zsljax.evaluation.metrics import require_numbers
from zsljax.io.progress import task_bar
from zsljax.models import CLOSED_SET, MULTI_LABEL, AttendsToRegions, Embeds
from zsljax.models.attention import AttentionMaps
from zsljax.numerics import pooled
from zsljax.predict import Predictor
from zsljax.runs.experiment import Experiment

MAPS = ("tsne", "pca")
_MAPPED = 2000  # Images on the map at most.
_PERPLEXITY = 30.0


@dataclasses.dataclass(frozen=True)
class ExplainedImages:
  """All N test images, in stored order.

  Attributes:
    names: of the images, N; ``row 7`` (of the source) where they have none.
    labels: places of the true classes in the class space, ``[N, M]``; -1 is none.
    predicted: place of the best class, with the run's calibration, ``[N]``.
    unseen: whether one of the true classes is unseen, ``[N]``.
    decisions: of images with one label, by systems that know unseen classes.
    mapped: of the images on the map, ``[n, d]``: the means of their features, or their
      embeddings or else class scores.
    on_map: places of these images, ``[n]``.
  """

  names: list[str]
  labels: np.ndarray
  predicted: np.ndarray
  unseen: np.ndarray
  decisions: Decisions | None
  mapped: np.ndarray
  on_map: np.ndarray

  @property
  def right(self) -> np.ndarray:
    """True where the best class is one of the true ones, ``[N]`` bool."""
    return (self.labels == self.predicted[:, None]).any(1)


def score_test_images(
  run: Experiment, predictor: Predictor, features: bool = False
) -> ExplainedImages:
  """Scores the test images in one pass.

  Args:
    run: that is explained.
    predictor: its parameters.
    features: whether features are mapped, not what the run makes of them.

  Raises:
    ZsljaxError: a score is NaN.
  """
  system, dataset = run.system, run.dataset
  classes, splits, batches = run.images("test")
  usual, *_ = protocols_for(system)
  evaluator = make_evaluator(usual)

  def outputs(params, batch, classes):
    found = evaluator.outputs(system, params, batch, classes)
    if features:
      return found, pooled(batch.features)
    if isinstance(system, Embeds):
      return found, system.embed(params, batch.features)
    return found, system.scores(params, batch.features, classes)

  size = dataset.size(*splits)
  on_map = np.linspace(0, size - 1, min(size, _MAPPED)).round().astype(int)
  # Labels of an image with several are padded with -1, which is no class.
  columns = classes.positions if system.task == MULTI_LABEL else classes.columns
  best, labels, mapped, start = [], [], [], 0
  params = jax.device_put(predictor.params, replicated(run.mesh))
  with (
    computed_in(predictor.precision),
    task_bar(size, "scoring test images", "images") as bar,
  ):
    for host, parts in over_batches(outputs, params, classes, batches, run.mesh):
      found, vectors = parts
      best.append(found.argmax(1) if system.task == MULTI_LABEL else found)
      labels.append(np.asarray(columns(host["labels"][host["mask"]])))
      end = start + len(vectors)
      here = on_map[(on_map >= start) & (on_map < end)]
      mapped.append(vectors[here - start])
      bar.update(len(vectors))
      start = end
  best = jax.tree.map(lambda *xs: np.concatenate(xs), *best)
  mapped = np.concatenate(mapped)
  require_numbers(mapped)
  labels, decisions = np.concatenate(labels).reshape(size, -1), None
  if system.task == MULTI_LABEL:
    predicted = best
  elif system.task == CLOSED_SET:
    predicted = best.seen_class
  else:
    decisions = best
    predicted = generalized_predictions(decisions, predictor.calibration)
  names = dataset.image_files(splits)
  if names is None:
    names = np.array([f"row {row}" for row in dataset.source_rows(splits)])
  unseen = ((labels >= 0) & ~np.asarray(classes.seen)[labels]).any(1)
  mapped = mapped.astype(np.float32)
  return ExplainedImages(
    names.tolist(), labels, predicted, unseen, decisions, mapped, on_map
  )


def choose_images(
  scored: ExplainedImages, usable: np.ndarray, number: int
) -> np.ndarray:
  """Places of images to explain, drawn by a fixed seed.

  Images of unseen and of seen classes, right and wrong ones take turns; among each of
  the four kinds, classes do.

  Args:
    scored: all test images.
    usable: whether each may be drawn, ``[N]`` bool.
    number: how many to draw; all usable ones where they are fewer.
  """
  drawn = np.random.default_rng(0).permutation(np.flatnonzero(usable))
  kinds = 2 * scored.unseen[drawn] + scored.right[drawn]
  by_class = _turns(zip(kinds, scored.labels[drawn, 0], strict=True))
  order = np.argsort(by_class, kind="stable")
  drawn, kinds = drawn[order], kinds[order]
  return drawn[np.lexsort((-kinds, _turns(kinds)))][:number]


def _turns(values: Iterable[Hashable]) -> np.ndarray:
  """The number of equal values before each value."""
  count, turns = collections.Counter(), []
  for value in values:
    turns.append(count[value])
    count[value] += 1
  return np.array(turns, int)


def region_grid(features: str, regions: int) -> tuple[int, int] | None:
  """Rows and columns of the regions: as the features' name ends, or a square.

  None where it is neither.
  """
  named = re.search(r"(\d+)x(\d+)$", features)
  if named and int(named[1]) * int(named[2]) == regions:
    return int(named[1]), int(named[2])
  side = round(regions**0.5)
  return (side, side) if side * side == regions else None


def attention_maps(
  predictor: Predictor, features: np.ndarray
) -> dict[str, AttentionMaps]:
  """Attention of each net of a system on images ``[B, R, D]``."""
  with computed_in(predictor.precision):
    system = predictor.system
    assert isinstance(system, AttendsToRegions)
    maps = jax.jit(system.region_attention)
    arrays = predictor.classes.without_names()
    return jax.device_get(maps(predictor.params, features, arrays))


def on_plane(vectors: np.ndarray, how: str) -> tuple[np.ndarray, str]:
  """Points ``[n, 2]`` for vectors ``[n, d]``, and the name of the method.

  Args:
    vectors: to be mapped.
    how: of ``MAPS``; few vectors have a PCA in any case.
  """
  least = int(3 * _PERPLEXITY) + 1
  if how == "tsne" and len(vectors) >= least:
    from sklearn.manifold import TSNE

    points = TSNE(perplexity=_PERPLEXITY, init="pca", random_state=0)
    return points.fit_transform(vectors), f"t-SNE (perplexity {_PERPLEXITY:g}, seed 0)"
  centred = vectors - vectors.mean(0)
  _, _, axes = np.linalg.svd(centred, full_matrices=False)
  points = centred @ axes[:2].T
  share = points.var(0).sum() / max(centred.var(0).sum(), np.finfo(float).tiny)
  points = np.pad(points, [(0, 0), (0, 2 - points.shape[1])])
  why = f", as t-SNE needs {least} images" if how == "tsne" else ""
  return points, f"PCA{why} (two axes have {share:.0%} of the variance)"


def confusion(
  scored: ExplainedImages, seen: np.ndarray, closed_set: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Shares of predicted classes among the images of each true class.

  Args:
    scored: all test images, with one label each.
    seen: ``[C]`` bool.
    closed_set: unseen classes are not known, and are left out.

  Returns:
    The shares, true by predicted classes, ``[r, c]``; and the classes of rows (those
    with test images) and columns, the seen ones first.
  """
  from sklearn.metrics import confusion_matrix

  columns = np.flatnonzero(seen)
  if not closed_set:
    columns = np.concatenate([columns, np.flatnonzero(~seen)])
  true, predicted = scored.labels[:, 0], scored.predicted
  shares = confusion_matrix(true, predicted, labels=columns, normalize="true")
  tested = np.isin(columns, true)
  return shares[tested], columns[tested], columns
