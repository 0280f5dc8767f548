r"""Dense attention: every query looks at every region of every image.

A query h makes an attended feature of an image's regions,

.. math:: \tilde x = \sum_r a_r x_r, \quad a = \mathrm{softmax}_r(x_r^\top h).

A linear read-out of it is the attended read-out of the regions,

.. math:: w^\top \tilde x = \sum_r a_r\, w^\top x_r,

so systems ``project`` the regions first, take ``attended_scores`` of the products, and
never make the attended features, B x Q x D numbers.

References:
  Li & Wang, "Joint Learning of Attended Zero-Shot Features and Visual-Semantic
  Mapping" (BMVC 2019), eq. 3: queries are classes.

  Chen et al., `MSDN <https://arxiv.org/abs/2203.03137>`_ (CVPR 2022): queries are
  attributes.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from zsljax.devices.precision import large_product
from zsljax.errors import require
from zsljax.numerics import inverse_length

Array = jax.Array

# Axes of [B, R, Q].
OVER_REGIONS, OVER_QUERIES = 1, 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttentionMaps:
  """Attention weights between queries and regions of images.

  Attributes:
    weights: in [0, 1], ``[B, Q, R]``; ``[Q, R]`` of one image.
    queries: the kind of the queries, ``attributes`` or ``classes``.
    over: the axis on which weights add up to one: the ``regions``, for each query; or
      the ``queries``, for each region.
  """

  weights: Array
  queries: str = dataclasses.field(metadata={"static": True})
  over: str = dataclasses.field(default="regions", metadata={"static": True})

  @property
  def uniform(self) -> float:
    """Weight in a map that prefers nothing."""
    return 1 / self.weights.shape[-1 if self.over == "regions" else -2]


def check_regions(feature_shape: tuple[int, ...], system: str) -> None:
  """Raises unless the features of an image are regions ``(R, D)``."""
  require(
    len(feature_shape) == 2,
    "features",
    f"shape {feature_shape}",
    f"regions (R, D), which {system} attends over: import a feature map, or choose "
    "one with config.data.features (of the benchmark: --preset=cub7)",
  )


def project(regions: Array, *maps: Array, scale: Array | float = 1.0) -> list[Array]:
  r"""Inner products of all regions with the rows of each map, in one product.

  Args:
    regions: ``[B, R, D]``.
    *maps: ``[Q, D]`` each.
    scale: of each region, ``[B, R, 1]``, as in ``at_unit_length``. The products are
      scaled in place of the regions, which have more numbers.

  Returns:
    ``[B, R, Q]`` for each map.
  """
  products = large_product(regions, jnp.concatenate(maps).T)
  ends = np.cumsum([len(m) for m in maps])[:-1]
  return [scale * each.astype(regions.dtype) for each in jnp.split(products, ends, -1)]


def at_unit_length(regions: Array, inverse_lengths: Array | None = None) -> Array:
  """The scale of ``project`` by which regions have length one; zeros stay zeros.

  Args:
    regions: ``[B, R, D]``, read only where ``inverse_lengths`` are not known.
    inverse_lengths: ``[B, R, 1]``, see ``Batch``.
  """
  return inverse_length(regions) if inverse_lengths is None else inverse_lengths


def attended_scores(
  affinities: Array, scores: Array, over: int = OVER_REGIONS
) -> Array:
  r"""Sums the scores of regions, weighted by attention.

  .. math:: \psi_{bq} = \sum_r \mathrm{softmax}(A_b)_{rq}\, S_{brq}

  Args:
    affinities: A, ``[B, R, Q]``.
    scores: S, ``[B, R, Q]``.
    over: the axis of the softmax: the regions, for each query; or the queries, for
      each region.

  Returns:
    ``[B, Q]``.
  """
  # The quotient comes last, so that its gradient needs no further sum over regions.
  largest = jnp.max(affinities, over, keepdims=True)
  weights = jnp.exp(affinities - jax.lax.stop_gradient(largest))
  total = jnp.sum(weights, over, keepdims=True)
  if over == OVER_REGIONS:
    return jnp.sum(weights * scores, OVER_REGIONS) / total[:, 0]
  return jnp.sum(weights / total * scores, OVER_REGIONS)
