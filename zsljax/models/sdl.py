"""SDL: an embedding matrix per image, for images of many labels."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from zsljax.classes import ClassSpace
from zsljax.devices.mesh import by_own_rows
from zsljax.losses import matrix_variance, pairwise_ranking, semantic_diversity
from zsljax.models.registry import register
from zsljax.models.system import (
  MULTI_LABEL,
  Array,
  Batch,
  Params,
  Spec,
  System,
)
from zsljax.numerics import PYTORCH_LINEAR, masked_mean, pooled


def label_scores(matrices: Array, vectors: Array) -> Array:
  """Scores labels by their best row, ``max_k <a_k, w_c>``, ``[B, C]``.

  Matrices of images are ``[B, K, V]``, word vectors of labels ``[C, V]``.
  """
  return jnp.max(jnp.einsum("bkv,cv->bkc", matrices, vectors), 1)


@register
@dataclasses.dataclass(frozen=True)
class SDL(System):
  r"""Semantic Diversity Learning (Ben-Cohen et al. 2021), for several labels an image.

  One linear map without bias makes a matrix :math:`A` of K rows from an image's pooled
  features (regions are averaged). A label with word vector :math:`w` scores
  :math:`g(w) = \max_k a_k^\top w`, and

  .. math::
    L = \frac fB \sum_i (1 - \lambda)\, \frac{\omega_i}{|P_i|} \sum_{p \in P_i}
      \sum_{n \in N_i} \log(1 + e^{g(w_n) - g(w_p)})
      + \lambda\, \| \mathrm{Var}_k(A_i) \|_1

  with the semantic diversity :math:`\omega_i = 1 + \sum_j \mathrm{Var}_p(w_{p,j})` of
  the image's labels :math:`P_i`. Word vectors have length one, as the released ones.
  Only seen labels count, and images without one count for nothing. Positives of an
  image that has no negative are compared with the score 0, as in the released code.

  Partly recalled: the factor f and the normaliser of the paper's equation were not
  re-read; all else follows the released code. That code makes the matrix as V x K;
  its kernel ``[D, V * K]`` is this one's after a reshape to ``[D, V, K]`` and an
  exchange of the last two axes.

  Attributes:
    rows: K, the rows of an image's matrix; 2 on MS-COCO, 7 on NUS-WIDE.
    variance_weight: lambda, the share of the matrix variance; 0.01 on MS-COCO.
    factor: f, 1 (paper, recalled) or 2 (code).
    unannotated: the role in training of a label annotated neither as present nor as
      absent: a ``negative`` (paper and code) or none (``ignore``). Where a set
      annotates no absences, every label that is not present is a negative.
  """

  name: ClassVar[str] = "sdl"
  task = MULTI_LABEL
  vmappable = ("variance_weight", "factor")
  presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
    "paper": {"factor": 1.0},
    "official_code": {"factor": 2.0},
  }

  rows: int = 2
  variance_weight: float = 0.01
  factor: float = 1.0
  unannotated: str = "negative"

  def __post_init__(self):
    words = "negative", "ignore"
    self.check_fields(
      unannotated=words,
      factor="more than 0",
      rows="1 or more",
      variance_weight="between 0 and 1",
    )

  def init(self, rng: Array, spec: Spec) -> Params:
    features = jnp.zeros((1, *spec.feature_shape))
    network = _Network(self.rows, spec.num_attributes)
    return network.init(rng, features)["params"]

  def prepare(self, params: Params, classes: ClassSpace) -> tuple[Params, Array]:
    return params, classes.unit_embeddings()

  def score(self, features: Array, prepared: tuple[Params, Array]) -> Array:
    params, vectors = prepared
    return label_scores(self._matrices(params, features, vectors), vectors)

  def loss(
    self, params: Params, batch: Batch, classes: ClassSpace, rng: Array
  ) -> tuple[Array, dict[str, Array]]:
    del rng
    vectors = classes.unit_embeddings()
    matrices = self._matrices(params, batch.features, vectors)
    ranking, variance, has_label = by_own_rows(
      self.terms, matrices, batch, whole=(vectors, classes)
    )
    parts = {
      "ranking": (1 - self.variance_weight) * masked_mean(ranking, has_label),
      "variance": self.variance_weight * masked_mean(variance, has_label),
    }
    parts = {name: self.factor * part for name, part in parts.items()}
    return sum(parts.values()), parts

  def terms(
    self, matrices: Array, batch: Batch, vectors: Array, classes: ClassSpace
  ) -> tuple[Array, Array, Array]:
    """Computes the terms of the loss from matrices ``[B, K, V]``, vectors ``[C, V]``.

    Returns:
      The ranking term, the matrix variance, and whether the image has a seen label and
      so counts, each ``[B]``.
    """
    seen = jnp.asarray(classes.seen)

    def among_seen(labels: Array) -> Array:
      at = classes.positions(labels)
      return jnp.where((at >= 0) & seen[at] & batch.mask[:, None], at, -1)

    positives = among_seen(batch.labels)
    negative = ~marked(positives, len(classes)) & seen[None, :]
    if self.unannotated == "ignore" and batch.absent is not None:
      negative &= marked(among_seen(batch.absent), len(classes))
    scores = label_scores(matrices, vectors)
    # Without a negative the score 0 stands for one.
    alone = ~negative.any(1, keepdims=True) & (jnp.arange(len(classes)) == 0)[None, :]
    negative_scores = jnp.where(negative, scores, jnp.where(alone, 0, -jnp.inf))
    ranking = pairwise_ranking(
      jnp.take_along_axis(scores, jnp.maximum(positives, 0), 1),
      positives >= 0,
      negative_scores,
    )
    count = jnp.sum(positives >= 0, 1)
    weight = semantic_diversity(positives, vectors) / jnp.maximum(count, 1)
    return weight * ranking, matrix_variance(matrices), count > 0

  def _matrices(self, params: Params, features: Array, vectors: Array) -> Array:
    network = _Network(self.rows, vectors.shape[1])
    return network.apply({"params": params}, features)


class _Network(nn.Module):
  """Maps features [B, D] or [B, R, D] to matrices [B, K, V]."""

  rows: int
  width: int

  @nn.compact
  def __call__(self, features: Array) -> Array:
    embedded = nn.Dense(
      self.rows * self.width,
      use_bias=False,
      kernel_init=PYTORCH_LINEAR,  # As in the released code.
      name="embedding",
    )(pooled(features))
    return embedded.reshape(-1, self.rows, self.width)


def marked(positions: Array, count: int) -> Array:
  """Marks the columns at ``positions`` [B, M]: ``[B, count]`` bool; -1 marks none."""
  rows = jnp.arange(len(positions))[:, None]
  columns = jnp.where(positions >= 0, positions, count)
  return (
    jnp.zeros((len(positions), count), bool).at[rows, columns].set(True, mode="drop")
  )
