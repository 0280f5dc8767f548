"""The ranking loss of SDL against other ways to compute it.

Each computes the loss and its gradient with respect to the images' matrices: the scores
alone, the loss, positives padded to the batch's maximum, and all pairs of labels,
masked.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zsljax.benchmark.shapes import PRESETS, random_classes, random_labels
from zsljax.benchmark.timing import time_calls
from zsljax.errors import ZsljaxError, did_you_mean
from zsljax.models import SDL, Batch, label_scores
from zsljax.models.sdl import marked

Array = jax.Array

_ROWS = 7
# Images on which all pairs are computed; more do not fit into memory.
_FEW = {"nus": 128, "openimages": 2}


def padded_ranking(scores: Array, positives: Array) -> Array:
  """Compares each positive slot [B, M] with all labels, ``[B]``."""
  own = jnp.take_along_axis(scores, jnp.maximum(positives, 0), 1)
  positive = marked(positives, scores.shape[1])
  negative_scores = jnp.where(positive, -jnp.inf, scores)
  pairs = jax.nn.softplus(negative_scores[:, None, :] - own[:, :, None])
  return jnp.sum(pairs, (1, 2), where=(positives >= 0)[:, :, None])


def all_pairs_ranking(scores: Array, positives: Array) -> Array:
  """Compares each label with each other, ``[B]``; masks those that are no pair."""
  positive = marked(positives, scores.shape[1])
  pairs = jax.nn.softplus(scores[:, None, :] - scores[:, :, None])
  is_pair = positive[:, :, None] & ~positive[:, None, :]
  return jnp.sum(pairs, (1, 2), where=is_pair)


def run(preset: str, seconds: float = 10.0) -> dict[str, Any]:
  """Measures seconds and bytes of temporaries of each form, as JSON values.

  All pairs are computed on few images; their seconds are scaled to all, not the bytes.

  Args:
    preset: ``nus`` or ``openimages``.
    seconds: time to spend.
  """
  if preset not in _FEW:
    raise ZsljaxError(
      f"--preset: no multi-label shapes {preset!r}. {did_you_mean(preset, _FEW)}"
    )
  shapes, few = PRESETS[preset], _FEW[preset]
  images, labels = shapes.batch_size, shapes.num_seen
  spec = dataclasses.replace(shapes.spec(), num_classes=labels)
  classes = random_classes(spec, labels)
  vectors = classes.unit_embeddings()
  positives = jnp.asarray(random_labels(images, labels))
  rng = np.random.default_rng(0)
  size = images, _ROWS, shapes.num_attributes
  matrices = jnp.asarray(rng.standard_normal(size, np.float32))
  # Makes the gradient of the scores alone as dense as that of a loss.
  slope = jnp.asarray(rng.standard_normal((images, labels), np.float32))
  system = SDL(rows=_ROWS, variance_weight=0.3)

  def scores_alone(matrices):
    return jnp.sum(label_scores(matrices, vectors) * slope)

  def loss(matrices):
    batch = Batch(None, positives, jnp.ones(images, bool), images)
    ranking, variance, _ = system.terms(matrices, batch, vectors, classes)
    weight = system.variance_weight
    return jnp.mean((1 - weight) * ranking + weight * variance)

  def total(ranking: Callable) -> Callable:
    return lambda matrices: jnp.sum(
      ranking(label_scores(matrices, vectors), positives[: len(matrices)])
    )

  calls, temporaries = {}, {}
  for name, function, inputs in (
    ("scores", scores_alone, matrices),
    ("loss", loss, matrices),
    ("padded", total(padded_ranking), matrices),
    ("all_pairs", total(all_pairs_ranking), matrices[:few]),
  ):
    compiled = jax.jit(jax.value_and_grad(function)).lower(inputs).compile()
    calls[name] = functools.partial(compiled, inputs)
    planned = compiled.memory_analysis()
    assert planned is not None
    temporaries[name] = planned.temp_size_in_bytes
  timings = time_calls(calls, seconds)
  medians = {name: timing["median"] for name, timing in timings.items()}
  medians["all_pairs"] *= images / few
  return {
    "preset": preset,
    "images": images,
    "rows": _ROWS,
    "labels": labels,
    "positives": int(jnp.sum(positives >= 0)),
    "most_positives": positives.shape[1],
    "images_of_all_pairs": few,
    "device": jax.devices()[0].device_kind,
    "timings": timings,
    "seconds": medians,
    "temporary_bytes": temporaries,
    "loss_over_scores": medians["loss"] / medians["scores"],
    "padded_over_loss": medians["padded"] / medians["loss"],
    "all_pairs_over_loss": medians["all_pairs"] / medians["loss"],
  }
