"""Attended autoencoder: class embeddings attend over regions, decoded to classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from zsljax.classes import ClassSpace
from zsljax.losses import class_cross_entropy
from zsljax.models.attention import (
  AttentionMaps,
  at_unit_length,
  attended_scores,
  check_regions,
  project,
)
from zsljax.models.registry import register
from zsljax.models.system import Array, Batch, Params, Spec, System
from zsljax.numerics import l2_normalize, masked_mean


class _Prepared(NamedTuple):
  """Classes ready to be compared with regions.

  Rows of the visual-semantic map, and its bias, are one for each class where
  similarities are products, else one for each attribute.
  """

  queries: Array  # [C, D]
  readouts: Array  # [C, D] or [A, D]
  constant: Array  # [1, C] or [1, A]
  descriptions: Array  # [C, A], of length one


@register
@dataclasses.dataclass(frozen=True)
class AttendedAutoencoder(System):
  r"""Joint learning of attended features and visual-semantic mapping (Li & Wang 2019).

  The encoder takes each class's description k to a query h in visual space, the
  query attends over an image's regions X, and the decoder takes the attended feature
  back to a description, which is compared with the class's own (eq. 3 and 8):

  .. math:: H = h_e(K), \quad \tilde x^c = X\,\mathrm{softmax}(X^\top h_c), \quad
    s_c = s(h_d(\tilde x^c), k_c)

  .. math:: L = L_{CLS} + \alpha \|H_s H_s^\top - K_s K_s^\top\|_F^2 +
    \eta \|K - h_d(H)\|_F^2

  with the cross-entropy over seen classes (eq. 4), manifold alignment of the seen
  classes (eq. 5) and reconstruction of all, unseen ones included (eq. 6). Descriptions
  are taken at unit length.

  References:
    Li & Wang, "Joint Learning of Attended Zero-Shot Features and Visual-Semantic
    Mapping", BMVC 2019. No code was released; the paper gives no optimizer, width,
    normalisation or scale, so these fields are choices of this project. The preset
    ``paper`` has the one similarity that it names; ``dot_product`` has another, that
    of the measured settings.

  Attributes:
    weight_alignment: alpha, 0.5 in the paper.
    weight_reconstruction: eta, 1 in the paper; 0 is its ablation without
      semantics reconstruction.
    coupled: whether the visual-semantic map is the decoder (the paper's model); else
      it is another map of the same form, as in its ablation.
    hidden: 0: the encoder is one sigmoid layer to visual space, whose output is the
      auto-encoder's one hidden layer. Else the width of a sigmoid layer that is
      followed by a linear one: the other reading of "one hidden layer".
    similarity: s: ``cosine`` (paper) or ``dot`` (dot_product).
    scale: factor of the similarity in softmax and prediction: 20 (paper) or 5
      (dot_product). Without one a cosine softmax over 40 classes cannot fall below 1.8
      nats.
    normalize_regions: whether regions have unit length, as in DAZLE and MSDN.
    region_scale: factor of the regions (after that).
  """

  name: ClassVar[str] = "attended_autoencoder"
  vmappable = (
    "weight_alignment",
    "weight_reconstruction",
    "scale",
    "region_scale",
  )
  presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
    "paper": {},
    "dot_product": {"similarity": "dot", "scale": 5.0},
  }

  weight_alignment: float = 0.5
  weight_reconstruction: float = 1.0
  coupled: bool = True
  hidden: int = 0
  similarity: str = "cosine"
  scale: float = 20.0
  normalize_regions: bool = True
  region_scale: float = 1.0

  def __post_init__(self):
    numbers = dict.fromkeys((*self.vmappable, "hidden"), "0 or more")
    self.check_fields(similarity=("dot", "cosine"), **numbers)

  def init(self, rng: Array, spec: Spec) -> Params:
    check_regions(spec.feature_shape, self.name)
    width, dim = spec.num_attributes, spec.feature_shape[1]
    keys = iter(jax.random.split(rng, 4))

    def dense(fan_in: int, fan_out: int, bias: float = 0.0) -> Params:
      kernel = nn.initializers.lecun_normal()(next(keys), (fan_in, fan_out))
      return {"kernel": kernel, "bias": jnp.full(fan_out, bias)}

    if self.hidden:
      encoder = {
        "hidden": dense(width, self.hidden),
        "output": dense(self.hidden, dim),
      }
    else:
      # Aligned queries have unit length: positive entries near 1 / sqrt(D).
      start = -jnp.log(dim**0.5 - 1) if dim > 1 else 0.0
      encoder = {"output": dense(width, dim, start)}
    params = {"encoder": encoder, "decoder": dense(dim, width)}
    if not self.coupled:
      params["map"] = dense(dim, width)
    return params

  def prepare(self, params: Params, classes: ClassSpace) -> _Prepared:
    descriptions = classes.unit_embeddings()
    return self._prepared(params, self._encode(params, descriptions), descriptions)

  def score(
    self,
    features: Array,
    prepared: _Prepared,
    inverse_lengths: Array | None = None,
  ) -> Array:
    """Similarity s(h_d(x~ of class c), k_c) of all images and classes, ``[B, C]``."""
    maps = prepared.queries, prepared.readouts
    affinities, values = self._project(features, maps, inverse_lengths)
    if self.similarity == "dot":
      return self.scale * (attended_scores(affinities, values) + prepared.constant)
    attention = jax.nn.softmax(affinities, 1)
    found = jnp.einsum("brc,bra->bca", attention, values) + prepared.constant[None]
    products = jnp.einsum("bca,ca->bc", l2_normalize(found), prepared.descriptions)
    return self.scale * products

  def loss(
    self, params: Params, batch: Batch, classes: ClassSpace, rng: Array
  ) -> tuple[Array, dict[str, Array]]:
    del rng
    descriptions, seen = classes.unit_embeddings(), jnp.asarray(classes.seen)
    queries = self._encode(params, descriptions)
    prepared = self._prepared(params, queries, descriptions)
    scores = self.score(batch.features, prepared, batch.inverse_lengths)
    positions = classes.positions(batch.labels)
    decoded = _dense(params["decoder"], queries)
    both_seen = seen[:, None] & seen[None, :]
    misalignment = queries @ queries.T - descriptions @ descriptions.T
    parts = {
      "cross_entropy": masked_mean(
        class_cross_entropy(scores, positions, seen), batch.mask
      ),
      "alignment": jnp.sum(misalignment**2, where=both_seen),
      "reconstruction": jnp.sum((descriptions - decoded) ** 2),
    }
    objective = (
      parts["cross_entropy"]
      + self.weight_alignment * parts["alignment"]
      + self.weight_reconstruction * parts["reconstruction"]
    )
    return objective, parts

  def region_attention(
    self, params: Params, features: Array, classes: ClassSpace
  ) -> dict[str, AttentionMaps]:
    """Attention of each class over the regions of each image."""
    queries = self._encode(params, classes.unit_embeddings())
    (affinities,) = self._project(features, [queries])
    weights = jax.nn.softmax(affinities, 1).mT
    return {"class_to_visual": AttentionMaps(weights, "classes")}

  def _encode(self, params: Params, descriptions: Array) -> Array:
    """Queries ``[C, D]`` of descriptions ``[C, A]``."""
    encoder = params["encoder"]
    if self.hidden:
      hidden = nn.sigmoid(_dense(encoder["hidden"], descriptions))
      return _dense(encoder["output"], hidden)
    return nn.sigmoid(_dense(encoder["output"], descriptions))

  def _prepared(self, params: Params, queries: Array, descriptions: Array) -> _Prepared:
    mapping = params["decoder" if self.coupled else "map"]
    readouts, constant = mapping["kernel"].T, mapping["bias"]
    if self.similarity == "dot":
      # k . (x~ W + b) = (W k) . x~ + k . b
      readouts, constant = descriptions @ readouts, descriptions @ constant
    return _Prepared(queries, readouts, constant[None], descriptions)

  def _project(
    self,
    features: Array,
    maps: Sequence[Array],
    inverse_lengths: Array | None = None,
  ) -> list[Array]:
    scale: Array | float = 1.0
    if self.normalize_regions:
      scale = at_unit_length(features, inverse_lengths)
    return [self.region_scale * p for p in project(features, *maps, scale=scale)]


def _dense(layer: Params, inputs: Array) -> Array:
  return inputs @ layer["kernel"] + layer["bias"][None]
