"""From scores to what every single-label number is computed from."""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from zsljax.classes import ClassSpace
from zsljax.errors import require
from zsljax.models import Batch, System
from zsljax.sharding import replicated
from zsljax.training import to_mesh

Array = jax.Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decisions:
  """The best seen and the best unseen class of each of n images.

  Conventional and generalized accuracy at every calibration follow from these:
  a shift of all seen scores never changes which seen class is best.

  Attributes:
    label: position of the true class in the class space, ``[n]``.
    seen_class: position of the best seen class, ``[n]``.
    seen_score: its score, ``[n]``.
    unseen_class: position of the best unseen class, ``[n]``.
    unseen_score: its score, ``[n]``.
  """

  label: Array
  seen_class: Array
  seen_score: Array
  unseen_class: Array
  unseen_score: Array


def decide(scores: Array, labels: Array, classes: ClassSpace) -> Decisions:
  """The decisions that ``scores`` [B, C] imply; ties go to the first class.

  ``labels`` are class ids, ``[B]``.
  """
  seen = jnp.asarray(classes.seen)
  among_seen = jnp.where(seen, scores, -jnp.inf)
  among_unseen = jnp.where(seen, -jnp.inf, scores)
  return Decisions(
    label=classes.positions(labels),
    seen_class=jnp.argmax(among_seen, 1),
    seen_score=jnp.max(among_seen, 1),
    unseen_class=jnp.argmax(among_unseen, 1),
    unseen_score=jnp.max(among_unseen, 1),
  )


def decide_all(
  system: System,
  params,
  classes: ClassSpace,
  batches: Iterable[dict[str, np.ndarray]],
  mesh: jax.sharding.Mesh,
) -> Decisions:
  """Decisions for all examples of ``batches``, on the host; padding left out.

  Raises:
    ZsljaxError: a score is NaN.
  """
  classes = jax.device_put(classes, replicated(mesh))

  @jax.jit
  def step(params, batch: Batch, classes: ClassSpace) -> Decisions:
    batch = batch.astype(jnp.float32)
    return decide(system.scores(params, batch.features, classes), batch.labels, classes)

  parts = []
  for host in batches:
    batch = to_mesh(host, mesh, num_examples=0)
    decisions = jax.device_get(step(params, batch, classes))
    parts.append(jax.tree.map(lambda x, m=host["mask"]: x[m], decisions))
  decisions = jax.tree.map(lambda *xs: np.concatenate(xs), *parts)
  bad = np.isnan(decisions.seen_score) | np.isnan(decisions.unseen_score)
  require(
    not bad.any(),
    "scores",
    f"NaN for {bad.sum()} of {len(bad)} images",
    "numbers: the parameters or features are not finite",
  )
  return decisions
