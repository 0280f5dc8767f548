"""Numbers behind explanations: predictions, choice of images, map, confusion."""

from __future__ import annotations

import collections
from collections.abc import Hashable, Iterable
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from zsljax.devices.mesh import replicated
from zsljax.devices.precision import computed_in
from zsljax.evaluation import over_batches
from zsljax.evaluation.metrics import require_numbers
from zsljax.models import CLOSED_SET, Embeds
from zsljax.predict import Predictor
from zsljax.runs.experiment import Experiment

_MAPPED = 2000  # Images on the map at most.


@dataclasses.dataclass(frozen=True)
class Scored:
  """All N test images, in stored order.

  Attributes:
    names: of the images, N; ``row 7`` (of the source) where they have none.
    labels: places of the true classes in the class space, ``[N, M]``; -1 is none.
    predicted: place of the best class, with the run's calibration, ``[N]``.
    unseen: whether one of the true classes is unseen, ``[N]``.
    mapped: embeddings (or else class scores) of the images on the map, ``[n, d]``.
    on_map: places of these images, ``[n]``.
  """

  names: list[str]
  labels: np.ndarray
  predicted: np.ndarray
  unseen: np.ndarray
  mapped: np.ndarray
  on_map: np.ndarray

  @property
  def right(self) -> np.ndarray:
    """True where the best class is one of the true ones, ``[N]`` bool."""
    return (self.labels == self.predicted[:, None]).any(1)


def score_test_images(run: Experiment, predictor: Predictor) -> Scored:
  """Scores the test images in one pass.

  Raises:
    ZsljaxError: a score is NaN.
  """
  system, dataset = run.system, run.dataset
  classes, splits, batches = run.images("test")
  closed_set = system.task == CLOSED_SET

  def outputs(params, batch, classes):
    scores = system.scores(params, batch.features, classes)
    lowered = predictor.calibration.lowered(scores, classes.seen)
    if closed_set:
      lowered = jnp.where(classes.seen, scores, -jnp.inf)
    embeds = isinstance(system, Embeds)
    mapped = system.embed(params, batch.features) if embeds else scores
    return jnp.argmax(lowered, 1), mapped

  size = dataset.size(*splits)
  on_map = np.linspace(0, size - 1, min(size, _MAPPED)).round().astype(int)
  predicted, labels, mapped, start = [], [], [], 0
  params = jax.device_put(predictor.params, replicated(run.mesh))
  with computed_in(predictor.precision):
    for host, found in over_batches(outputs, params, classes, batches, run.mesh):
      best, vectors = found
      predicted.append(best)
      labels.append(np.asarray(classes.positions(host["labels"][host["mask"]])))
      end = start + len(vectors)
      here = on_map[(on_map >= start) & (on_map < end)]
      mapped.append(vectors[here - start])
      start = end
  mapped = np.concatenate(mapped)
  require_numbers(mapped)
  labels = np.concatenate(labels).reshape(size, -1)
  names = dataset.image_files(splits)
  if names is None:
    names = np.array([f"row {row}" for row in dataset.source_rows(splits)])
  unseen = ((labels >= 0) & ~np.asarray(classes.seen)[labels]).any(1)
  mapped = mapped.astype(np.float32)
  predicted = np.concatenate(predicted)
  return Scored(names.tolist(), labels, predicted, unseen, mapped, on_map)


def choose_images(scored: Scored, usable: np.ndarray, number: int) -> np.ndarray:
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
  """For each value, the number of equal values before it."""
  count, turns = collections.Counter(), []
  for value in values:
    turns.append(count[value])
    count[value] += 1
  return np.array(turns, int)


def on_plane(vectors: np.ndarray) -> np.ndarray:
  """Points ``[n, 2]`` for vectors ``[n, d]``, by t-SNE."""
  from sklearn.manifold import TSNE

  perplexity = min(30, len(vectors) / 3)
  init = "pca" if min(vectors.shape) > 1 else "random"
  return TSNE(perplexity=perplexity, init=init, random_state=0).fit_transform(vectors)


def confusion(
  scored: Scored, seen: np.ndarray, closed_set: bool
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
