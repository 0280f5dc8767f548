"""MSDN: two attention nets, attributes to regions and back, that teach each other."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from zsljax.classes import ClassSpace
from zsljax.errors import require
from zsljax.losses import (
  class_cross_entropy,
  jensen_shannon,
  probability_distance,
  unseen_cross_entropy,
  unseen_log_mass,
  weighted_score_distance,
)
from zsljax.models.attention import (
  OVER_QUERIES,
  OVER_REGIONS,
  AttentionMaps,
  at_unit_length,
  attended_scores,
  check_regions,
  project,
)
from zsljax.models.registry import register
from zsljax.models.system import Array, Batch, Params, Spec, System
from zsljax.numerics import l2_normalize, masked_log_mean, masked_mean

_CHOICES = {
  "visual_to_attribute": ("mapped", "attended_score"),
  "denominator": ("seen", "all"),
  "calibration": ("per_image", "batch_mass"),
  "distance": ("probabilities", "weighted_scores"),
  "initializer": ("fan_in", "released"),
}


class _Prepared(NamedTuple):
  """Maps of the attributes ``[A, D]`` of each net, class descriptors, and biases."""

  maps: dict[str, list[Array]]
  descriptors: Array
  bias: Array


@register
@dataclasses.dataclass(frozen=True)
class MSDN(System):
  r"""Mutually Semantic Distillation Network (Chen et al. 2022).

  Attributes have trainable vectors :math:`v_k` (rows of V), regions are features
  :math:`f_r` of unit length. The attribute-to-visual net looks for each attribute
  where it is,

  .. math:: \psi_k = \sum_r \mathrm{softmax}_r(v_k^\top W_2 f_r)\, v_k^\top W_1 f_r,

  the visual-to-attribute net says of each region which attribute it is, with the
  attention :math:`\gamma_{rk} = \mathrm{softmax}_k(v_k^\top W_{21} f_r)`, either by

  .. math:: \Psi_k = \sum_r \gamma_{rk}\, v_k^\top W_{11} f_r

  (``attended_score``), or by a score of each region, from the attribute vector that it
  attends to, which is mapped to attributes,

  .. math:: \Psi_k = \sum_r \bar\Psi_r\, f_r^\top W_{att} v_k, \quad
    \bar\Psi_r = f_r^\top W_4 \sum_k \gamma_{rk} v_k

  (``mapped``). An image's class scores are :math:`s = Z\psi + b` with the class
  descriptors Z (rows of unit length) and b = +1 for unseen and -1 for seen classes.
  Both nets j learn from

  .. math:: L = \sum_j (L_{CE}^j + \lambda_{cal} L_{cal}^j) +
    \lambda_{dis} \frac1B \sum_i (JSD(p^1_i, p^2_i) + d(s^1_i, s^2_i))

  and their scores are fused for prediction. The descriptors of unseen classes are
  used in training. The features come from a frozen network: with a trainable one,
  self-calibration raises unseen scores on seen images.

  References:
    Chen, Hong, Xie, Yang, Peng, Wang, Zhao, You, `MSDN: Mutually Semantic
    Distillation Network for Zero-Shot Learning
    <https://arxiv.org/abs/2203.03137>`_, CVPR 2022.

  ``official_code`` follows the authors' released trainer. ``paper``, all defaults, is a
  reconstruction: its equations are partly recalled, which each field below says.

  Attributes:
    weight_calibration: lambda_cal.
    weight_distillation: lambda_dis.
    fusion: weight of the attribute-to-visual net's scores in a prediction,
      alpha_1; the other net has the rest. 0.9 CUB, 0.7 SUN, 1 AWA2 in the code.
    bias: b, added for unseen and subtracted for seen classes. It is in calibration,
      distillation and prediction; the cross-entropy is without it.
    normalize_vectors: whether attribute vectors have unit length in every step, not
      only at first (AWA2 in the code).
    clip_descriptors: whether negative class descriptors count as 0 (AWA2 in the code).
    visual_to_attribute: how the second net scores attributes (see its two equations):
      ``attended_score`` (code) or ``mapped`` (paper, recalled).
    denominator: of the cross-entropy: ``seen`` classes (paper, recalled) or ``all``
      (code).
    calibration: ``per_image`` (paper, recalled): minus the log-probabilities of the
      unseen classes, summed. ``batch_mass`` (code): minus the logarithm of the
      batch's mean probability of all unseen classes together.
    distance: d: ``probabilities`` (paper, recalled): squared distance of the
      softmaxes. ``weighted_scores`` (code): the sum of ``|d|^3 / ||d||`` of the scores.
    initializer: ``released`` (code): W_1 drawn from N(0, 1), the others 0.
      ``fan_in`` (the paper says nothing): all normal with variance 1 / V, for word
      vectors of V numbers; from 0 the paper's second net would never leave.

  Other differences lie in the data: the paper speaks of GloVe vectors and the released
  files hold word2vec (google-news-300), the words of an attribute summed; the released
  runs use 14 x 14 regions, not 7 x 7; batches are drawn
  independently (``config.data.sampling``), on SUN and AWA2 balanced over classes; the
  released top-k evaluation on SUN fuses half and half, all else there 0.7 and 0.3.
  """

  name: ClassVar[str] = "msdn"
  vmappable = (
    "weight_calibration",
    "weight_distillation",
    "fusion",
    "bias",
  )
  presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
    "paper": {},
    "official_code": {
      "visual_to_attribute": "attended_score",
      "denominator": "all",
      "calibration": "batch_mass",
      "distance": "weighted_scores",
      "initializer": "released",
    },
  }

  weight_calibration: float = 0.1
  weight_distillation: float = 1e-3
  fusion: float = 0.9
  bias: float = 1.0
  normalize_vectors: bool = False
  clip_descriptors: bool = False
  visual_to_attribute: str = "mapped"
  denominator: str = "seen"
  calibration: str = "per_image"
  distance: str = "probabilities"
  initializer: str = "fan_in"

  def __post_init__(self):
    weights = "weight_calibration", "weight_distillation", "bias"
    numbers = dict.fromkeys(weights, "0 or more")
    self.check_fields(**_CHOICES, **numbers, fusion="between 0 and 1")

  def init(self, rng: Array, spec: Spec) -> Params:
    check_regions(spec.feature_shape, self.name)
    require(
      spec.attribute_vectors is not None,
      "attribute vectors",
      "none in this dataset",
      "a word vector for each attribute, which msdn learns from (w2v_att of the "
      "HDF5 file, or --word_vectors of the import)",
    )
    vectors = l2_normalize(jnp.asarray(spec.attribute_vectors, jnp.float32))
    shape = vectors.shape[1], spec.feature_shape[1]
    normal = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
    zeros = nn.initializers.zeros
    first = rest = normal
    if self.initializer == "released":
      first, rest = nn.initializers.normal(1.0), zeros
    keys = jax.random.split(rng, 5)
    to_visual = {"score": first(keys[0], shape), "attention": rest(keys[1], shape)}
    to_attribute = {"score": rest(keys[2], shape), "attention": rest(keys[3], shape)}
    if self.visual_to_attribute == "mapped":
      to_attribute["map"] = rest(keys[4], shape)
    return {
      "attribute_vectors": vectors,
      "attribute_to_visual": to_visual,
      "visual_to_attribute": to_attribute,
    }

  def prepare(self, params: Params, classes: ClassSpace) -> _Prepared:
    vectors = params["attribute_vectors"]
    if self.normalize_vectors:
      vectors = l2_normalize(vectors)
    maps = {
      net: [
        vectors @ params[net][m]
        for m in ("attention", "score", "map")
        if m in params[net]
      ]
      for net in ("attribute_to_visual", "visual_to_attribute")
    }
    descriptors = jnp.asarray(classes.embeddings)
    if self.clip_descriptors:
      descriptors = jnp.maximum(descriptors, 0)
    return _Prepared(maps, l2_normalize(descriptors), self._bias(classes))

  def score(self, features: Array, prepared: _Prepared) -> Array:
    first, second = self.net_scores(features, prepared)
    return self.fusion * first + (1 - self.fusion) * second

  def loss(
    self, params: Params, batch: Batch, classes: ClassSpace, rng: Array
  ) -> tuple[Array, dict[str, Array]]:
    del rng
    positions = classes.positions(batch.labels)
    seen = jnp.asarray(classes.seen)
    among = seen if self.denominator == "seen" else jnp.ones_like(seen)
    prepared = self.prepare(params, classes)
    nets = self.net_scores(batch.features, prepared, batch.inverse_lengths)

    def cross_entropy(scores: Array) -> Array:
      without_bias = scores - self._bias(classes)
      return masked_mean(
        class_cross_entropy(without_bias, positions, among), batch.mask
      )

    def calibration(scores: Array) -> Array:
      if self.calibration == "per_image":
        return masked_mean(unseen_cross_entropy(scores, seen), batch.mask)
      return -masked_log_mean(unseen_log_mass(scores, seen), batch.mask)

    distance = {
      "probabilities": probability_distance,
      "weighted_scores": weighted_score_distance,
    }[self.distance]
    parts = {
      "cross_entropy_1": cross_entropy(nets[0]),
      "cross_entropy_2": cross_entropy(nets[1]),
      "calibration_1": calibration(nets[0]),
      "calibration_2": calibration(nets[1]),
      "distillation": masked_mean(jensen_shannon(*nets) + distance(*nets), batch.mask),
    }
    objective = (
      parts["cross_entropy_1"]
      + parts["cross_entropy_2"]
      + self.weight_calibration * (parts["calibration_1"] + parts["calibration_2"])
      + self.weight_distillation * parts["distillation"]
    )
    return objective, parts

  def net_scores(
    self, features: Array, prepared: _Prepared, inverse_lengths: Array | None = None
  ) -> tuple[Array, Array]:
    """Class scores ``[B, C]`` of the attribute-to-visual and of the other net."""
    maps, descriptors, bias = prepared
    # One product of the regions for both nets.
    to_visual, to_attribute = maps["attribute_to_visual"], maps["visual_to_attribute"]
    scale = at_unit_length(features, inverse_lengths)
    products = project(features, *to_visual, *to_attribute, scale=scale)
    # Attribute scores [B, A]: where attributes attend to regions, and the other way.
    first = attended_scores(*products[:2])
    affinities, scores, *mapped = products[2:]
    if mapped:
      attention = jax.nn.softmax(affinities, OVER_QUERIES)
      of_region = jnp.sum(attention * scores, OVER_QUERIES, keepdims=True)
      second = jnp.sum(of_region * mapped[0], OVER_REGIONS)
    else:
      second = attended_scores(affinities, scores, OVER_QUERIES)
    return first @ descriptors.T + bias, second @ descriptors.T + bias

  def region_attention(
    self, params: Params, features: Array, classes: ClassSpace
  ) -> dict[str, AttentionMaps]:
    """Attention of both nets, over regions and over attributes."""
    maps, found = self.prepare(params, classes).maps, {}
    scale = at_unit_length(features)
    for net, axis, over in (
      ("attribute_to_visual", OVER_REGIONS, "regions"),
      ("visual_to_attribute", OVER_QUERIES, "queries"),
    ):
      affinities, *_ = project(features, *maps[net], scale=scale)
      weights = jax.nn.softmax(affinities, axis).mT
      found[net] = AttentionMaps(weights, "attributes", over)
    return found

  def _bias(self, classes: ClassSpace) -> Array:
    return jnp.where(jnp.asarray(classes.seen), -self.bias, self.bias)[None, :]
