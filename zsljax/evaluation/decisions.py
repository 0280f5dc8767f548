"""From scores to what every single-label number is computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zsljax.classes import ClassSpace
from zsljax.devices.mesh import replicated
from zsljax.errors import require
from zsljax.models import Batch, System
from zsljax.training import (
  to_mesh,
)

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


def scores_of(system: System, params, batch: Batch, classes: ClassSpace):
  """The scores of a system for a batch, ``[B, C]``."""
  return system.scores(params, batch.features, classes)


def class_scores(
  system: System,
  params,
  classes: ClassSpace,
  batches: Iterable[dict[str, np.ndarray]],
  mesh: jax.sharding.Mesh,
) -> np.ndarray:
  """Scores of all examples of ``batches``, ``[N, C]`` on the host.

  Raises:
    ZsljaxError: a score is NaN.
  """
  function = functools.partial(scores_of, system)
  parts = over_batches(function, params, classes, batches, mesh)
  scores = np.concatenate([part for _, part in parts])
  require_numbers(scores)
  return scores


def decisions_of(system: System, params, batch: Batch, classes: ClassSpace):
  """The decisions of a system about a batch."""
  return decide(system.scores(params, batch.features, classes), batch.labels, classes)


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

  function = functools.partial(decisions_of, system)
  parts = over_batches(function, params, classes, batches, mesh)
  decisions = jax.tree.map(lambda *xs: np.concatenate(xs), *(part for _, part in parts))
  require_numbers(np.stack([decisions.seen_score, decisions.unseen_score], 1))
  return decisions


def require_numbers(scores: np.ndarray) -> None:
  """Raises if one of ``scores`` [N, C] is NaN."""
  bad = np.isnan(scores).any(1)
  require(
    not bad.any(),
    "scores",
    f"NaN for {bad.sum()} of {len(bad)} images",
    "numbers: the parameters or features are not finite",
  )


def over_batches(
  function: Callable[[Any, Batch, ClassSpace], Any],
  params,
  classes: ClassSpace,
  batches: Iterable[dict[str, np.ndarray]],
  mesh: jax.sharding.Mesh,
) -> Iterator[tuple[dict[str, np.ndarray], Any]]:
  """Each batch with what ``function`` makes of it on the mesh, back on the host.

  ``function`` is jitted and gives arrays ``[B, ...]``; the rows of padding are left out
  of what comes back.
  """
  classes = jax.device_put(classes, replicated(mesh))
  step = jax.jit(lambda p, batch, c: function(p, batch.astype(jnp.float32), c))
  for host in batches:
    outputs = jax.device_get(step(params, to_mesh(host, mesh, num_examples=0), classes))
    yield host, jax.tree.map(lambda x, m=host["mask"]: x[m], outputs)
