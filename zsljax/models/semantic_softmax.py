"""Semantic softmax: a softmax whose class weights come from class descriptors."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from zsljax.classes import ClassSpace
from zsljax.losses import class_cross_entropy
from zsljax.models.registry import register
from zsljax.models.system import Array, Batch, Params, Spec, System
from zsljax.numerics import masked_mean, minimize, pooled, unit_rows


class _Network(nn.Module):
  """Maps features [B, D] and descriptors [C, A] to one visual space."""

  hidden: tuple[int, ...]
  init_scale: float

  @nn.compact
  def __call__(self, features: Array, embeddings: Array) -> tuple[Array, Array]:
    for i, width in enumerate(self.hidden):
      features = nn.sigmoid(nn.Dense(width, name=f"hidden_{i}")(features))
    prototypes = nn.Dense(
      features.shape[-1],
      use_bias=False,
      kernel_init=nn.initializers.normal(self.init_scale),
      name="prototypes",
    )(embeddings)
    return features, prototypes


@register
@dataclasses.dataclass(frozen=True)
class SemanticSoftmax(System):
  r"""The Semantic Softmax Loss system (Ji et al. 2017).

  A bilinear map :math:`W` (A x D) reconstructs a visual prototype
  :math:`\alpha_c = W^\top y_c` from the descriptor of each class, and the
  prototypes are the weights of a softmax over the seen classes:

  .. math::
    p(c|x) = \mathrm{softmax}_c(\alpha_c^\top x), \qquad
    J(W) = -\tfrac1C \sum_i \log p(y_i|x_i) + \tfrac\lambda2 \|W\|_F^2
      + \tfrac\gamma2 \sum_i \|x_i - \alpha_{y_i}\|^2

  Features and descriptors are L2-normalised first. C is the number of seen
  classes: the cross-entropy is divided by it and not by the number N of images,
  as in the authors' code, and the published lambda and gamma only make sense
  so. In a minibatch the sums over images are N times the batch's mean.

  Reconstruction: the paper's L2 term follows its abstract and the gradient in
  the authors' released code.

  References:
    Ji, Sun, Yu, Guo, Pang, `Semantic Softmax Loss for Zero-Shot Learning
    <https://arxiv.org/abs/1705.07692>`_, 2017.

  Attributes:
    l2_weights: lambda, on the map alone: the released deep code has none on ``hidden``.
    l2_prototypes: gamma, the pull to the visual prototypes.
    prototype_form: the term that gamma multiplies (with a factor 1/2). ``per_sample``
      is the sum over images of the squared distance to the own prototype (paper).
      ``per_class`` counts the squared norm of a prototype once per class and the
      cross-term once per image: the cost whose gradient the released linear code
      follows (its printed cost is another). ``norm_only`` has the squared norms alone,
      as the released deep code.
    hidden: widths of sigmoid layers on the features before the softmax; empty
      is the paper's linear model.
    pretrain_steps: L-BFGS steps in which each hidden layer is first trained as an
      auto-encoder of the layer below, as in the released deep code: a sigmoid decoder,
      and the cost whose gradient that code follows (in its printed cost the
      reconstruction is left out). Reconstruction: that code's is sparse with settings
      that are not known; this one is not. 0 (paper, official_code) or 50
      (official_deep_code).
    pretrain_l2: L2 on the auto-encoder's kernels.
    init_scale: standard deviation of the initial map, 0.005 in the code.
  """

  name: ClassVar[str] = "semantic_softmax"
  vmappable = ("l2_weights", "l2_prototypes")
  presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
    "paper": {},
    "official_code": {"prototype_form": "per_class"},
    "official_deep_code": {"prototype_form": "norm_only", "pretrain_steps": 50},
  }

  l2_weights: float = 5e-3
  l2_prototypes: float = 1e-4
  prototype_form: str = "per_sample"
  hidden: tuple[int, ...] = ()
  pretrain_steps: int = 0
  pretrain_l2: float = 3e-3
  init_scale: float = 0.005

  def __post_init__(self):
    weights = "l2_weights", "l2_prototypes", "pretrain_l2"
    numbers = dict.fromkeys((*weights, "pretrain_steps", "init_scale"), "0 or more")
    forms = "per_sample", "per_class", "norm_only"
    self.check_fields(prototype_form=forms, **numbers)

  def init(self, rng: Array, spec: Spec) -> Params:
    features = jnp.zeros((1, *spec.feature_shape))
    embeddings = jnp.zeros((1, spec.num_attributes))
    network = _Network(self.hidden, self.init_scale)
    return network.init(rng, pooled(features), embeddings)["params"]

  def warm_start(
    self, params: Params, batch: Batch, classes: ClassSpace, rng: Array
  ) -> Params:
    del classes
    if not self.pretrain_steps:
      return params
    params, inputs = dict(params), unit_rows(batch.features)
    for i in range(len(self.hidden)):
      layer = params[f"hidden_{i}"]
      kernel = layer["kernel"]
      decoder = nn.initializers.lecun_normal()(
        jax.random.fold_in(rng, i), kernel.shape[::-1], kernel.dtype
      )
      autoencoder = {
        "encoder": layer,
        "decoder": {"kernel": decoder, "bias": jnp.zeros_like(inputs[0])},
      }
      layer = minimize(
        lambda p, x=inputs: self._autoencoder_loss(p, x, batch.mask),
        autoencoder,
        self.pretrain_steps,
      )["encoder"]
      params[f"hidden_{i}"] = layer
      inputs = _sigmoid_layer(layer, inputs)
    return params

  def prepare(self, params: Params, classes: ClassSpace) -> tuple[Params, Array]:
    return params, classes.unit_embeddings() @ params["prototypes"]["kernel"]

  def score(self, features: Array, prepared: tuple[Params, Array]) -> Array:
    params, prototypes = prepared
    return self._embed(params, features) @ prototypes.T

  def loss(
    self, params: Params, batch: Batch, classes: ClassSpace, rng: Array
  ) -> tuple[Array, dict[str, Array]]:
    del rng
    features = self._embed(params, batch.features)
    _, prototypes = self.prepare(params, classes)
    positions = classes.positions(batch.labels)
    num_seen = jnp.sum(classes.seen)

    def over_training_set(per_example: Array) -> Array:
      return batch.num_examples * masked_mean(per_example, batch.mask)

    scores = features @ prototypes.T
    cross_entropy = class_cross_entropy(scores, positions, classes.seen)
    parts = {
      "cross_entropy": over_training_set(cross_entropy) / num_seen,
      "weights": self.l2_weights / 2 * _squared_norm(params["prototypes"]),
    }
    # |x - a|^2 = |x|^2 - 2 x.a + |a|^2, where the scores have x.a already.
    own = jnp.take_along_axis(scores, positions[:, None], 1)[:, 0]
    squared = jnp.sum(prototypes**2, -1)
    if self.prototype_form == "per_sample":
      pull = jnp.sum(features**2, -1) - 2 * own + squared[positions]
      pull = over_training_set(pull)
    else:
      pull = jnp.sum(squared, where=classes.seen)
      if self.prototype_form == "per_class":
        pull += over_training_set(-2 * own)
    parts["prototypes"] = self.l2_prototypes / 2 * pull
    return sum(parts.values()), parts

  def _autoencoder_loss(self, params: Params, inputs: Array, mask: Array) -> Array:
    """Mean squared reconstruction error, and L2 of the kernels."""
    hidden = _sigmoid_layer(params["encoder"], inputs)
    outputs = _sigmoid_layer(params["decoder"], hidden)
    error = masked_mean(jnp.sum((outputs - inputs) ** 2, -1), mask) / 2
    return error + self.pretrain_l2 / 2 * _squared_norm(params)

  def _embed(self, params: Params, features: Array) -> Array:
    """Features after the hidden layers, ``[B, D]``."""
    features = unit_rows(features)
    for i in range(len(self.hidden)):
      features = _sigmoid_layer(params[f"hidden_{i}"], features)
    return features


def _sigmoid_layer(layer: Params, inputs: Array) -> Array:
  """Applies one hidden layer of ``_Network`` to ``[B, D]``."""
  return nn.sigmoid(inputs @ layer["kernel"] + layer["bias"][None])


def _squared_norm(params: Params) -> Array:
  """Sum of squares of the kernels; biases are not regularised."""
  return sum(jnp.sum(p**2) for p in jax.tree.leaves(params) if p.ndim > 1)
