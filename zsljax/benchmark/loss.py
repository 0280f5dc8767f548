"""The ranking loss of SDL against other ways to compute it, in one process.

Each computes the loss and its gradient with respect to the images' matrices.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zsljax.benchmark import PRESETS, random_labels, time_calls
from zsljax.classes import ClassSpace
from zsljax.errors import ZsljaxError, did_you_mean
from zsljax.io.files import write_json
from zsljax.models import SDL, Batch, label_scores
from zsljax.models.sdl import marked

Array = jax.Array

ROWS = 7
# Images on which all pairs are computed, and then multiplied up: more do not fit.
_FEW = {"nus": 128, "openimages": 2}
_NAMES = {
  "scores": "the scores alone",
  "loss": "the loss",
  "padded": "positives padded to the batch's maximum",
  "all_pairs": "all pairs of labels, masked",
}


def padded_ranking(scores: Array, positives: Array) -> Array:
  """Each positive slot [B, M] against all labels, ``[B]``."""
  own = jnp.take_along_axis(scores, jnp.maximum(positives, 0), 1)
  positive = marked(positives, scores.shape[1])
  negative_scores = jnp.where(positive, -jnp.inf, scores)
  pairs = jax.nn.softplus(negative_scores[:, None, :] - own[:, :, None])
  return jnp.sum(pairs, (1, 2), where=(positives >= 0)[:, :, None])


def all_pairs_ranking(scores: Array, positives: Array) -> Array:
  """Each label against each other, ``[B]``, those that are no pair masked."""
  positive = marked(positives, scores.shape[1])
  pairs = jax.nn.softplus(scores[:, None, :] - scores[:, :, None])
  is_pair = positive[:, :, None] & ~positive[:, None, :]
  return jnp.sum(pairs, (1, 2), where=is_pair)


def run(preset: str) -> dict[str, Any]:
  """Times and memory of all forms, as JSON values."""
  if preset not in _FEW:
    raise ZsljaxError(
      f"--preset: no multi-label shapes {preset!r}. {did_you_mean(preset, _FEW)}"
    )
  shapes = PRESETS[preset]
  images, labels = shapes.batch_size, shapes.num_seen
  rng = np.random.default_rng(0)
  vectors = rng.standard_normal((labels, shapes.num_attributes)).astype(np.float32)
  classes = ClassSpace.create([str(i) for i in range(labels)], vectors)
  vectors = classes.unit_embeddings()
  positives = jnp.asarray(random_labels(images, labels))
  matrices = jnp.asarray(
    rng.standard_normal((images, ROWS, shapes.num_attributes)), jnp.float32
  )
  # Makes the gradient of the scores alone as dense as that of a loss.
  slope = jnp.asarray(rng.standard_normal((images, labels)), jnp.float32)
  system = SDL(rows=ROWS, variance_weight=0.3)

  def scores_alone(matrices):
    return jnp.sum(label_scores(matrices, vectors) * slope)

  def loss(matrices):
    batch = Batch(None, positives, jnp.ones(images, bool), images)
    ranking, variance, _ = system.terms(matrices, vectors, batch, classes)
    weight = system.variance_weight
    return jnp.mean((1 - weight) * ranking + weight * variance)

  def other(ranking):
    def total(matrices):
      few = positives[: len(matrices)]
      return jnp.sum(ranking(label_scores(matrices, vectors), few))

    return total

  few = _FEW[preset]
  compiled = {
    "scores": _gradient(scores_alone, matrices),
    "loss": _gradient(loss, matrices),
    "padded": _gradient(other(padded_ranking), matrices),
    "all_pairs": _gradient(other(all_pairs_ranking), matrices[:few]),
  }
  together = {name: compiled[name][0] for name in ("scores", "loss", "padded")}
  timings = time_calls(together, seconds=10)
  timings |= time_calls({"all_pairs": compiled["all_pairs"][0]}, seconds=1)
  seconds = {name: timing.median for name, timing in timings.items()}
  seconds["all_pairs"] *= images / few
  return {
    "preset": preset,
    "images": images,
    "rows": ROWS,
    "labels": labels,
    "positives": int(jnp.sum(positives >= 0)),
    "most_positives": positives.shape[1],
    "device": jax.devices()[0].device_kind,
    "images_of_all_pairs": few,
    "timings": {name: dataclasses.asdict(timing) for name, timing in timings.items()},
    "seconds": seconds,
    "temporary_bytes": {name: size for name, (_, size) in compiled.items()},
    "loss_over_scores": seconds["loss"] / seconds["scores"],
    "padded_over_loss": seconds["padded"] / seconds["loss"],
    "all_pairs_over_loss": seconds["all_pairs"] / seconds["loss"],
  }


def _gradient(function: Callable, matrices: Array) -> tuple[Callable[[], Any], int]:
  """A call that computes value and gradient, and the memory that it takes."""
  compiled = jax.jit(jax.value_and_grad(function)).lower(matrices).compile()
  return lambda: compiled(matrices), compiled.memory_analysis().temp_size_in_bytes


def show(figures: dict[str, Any]) -> str:
  """The figures as lines for the terminal."""
  few, images = figures["images_of_all_pairs"], figures["images"]
  lines = [
    f"{figures['preset']}: batch {images}, {figures['rows']} rows, {figures['labels']} "
    f"labels, {figures['positives']} positives (at most {figures['most_positives']} an "
    f"image), one device ({figures['device']}); value and gradient",
    f"{'':<40} {'time':>10}     {'to the loss':>11}  {'memory':>11}",
  ]
  for name, text in _NAMES.items():
    ratio = figures["seconds"][name] / figures["seconds"]["loss"]
    lines.append(
      f"{text:<40} {1e3 * figures['seconds'][name]:>10.2f} ms  {ratio:>11.2f}  "
      f"{figures['temporary_bytes'][name] / 1e6:>8.1f} MB"
    )
  if few < images:
    lines.append(
      f"All pairs: computed on {few} images, the time multiplied by {images // few}, "
      "the memory not."
    )
  return "\n".join(lines)


def main(args) -> None:
  """The ``benchmark-loss`` verb."""
  figures = run(args.preset)
  print(show(figures))
  if args.json:
    write_json(args.json, figures)
