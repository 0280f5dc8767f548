"""Baselines in closed form, which check data, metric and protocol."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from zsljax.classes import ClassSpace
from zsljax.devices.precision import computed_in
from zsljax.errors import require
from zsljax.models.registry import register
from zsljax.models.system import Array, Batch, Params, Spec, System
from zsljax.numerics import l2_normalize, pooled, unit_rows


class ClosedForm(System):
  """A system whose parameters are a formula of the training set.

  Training is one step: ``warm_start`` solves, given all training images at once
  (``config.batch_size=0``), and the loss is 0. Rows of the features have length one,
  if a system's ``rows`` does not say otherwise.

  A formula decomposes matrices that depend on the images and classes alone, and only
  then uses the system's numbers, so that under ``vmap`` over those a whole grid of
  settings shares the decompositions.

  The formula is computed in float32, whatever precision the config asks for. With the
  weights that validation chooses, ESZSL's accuracies agree with float64 to 0.01; with
  weights of 1e-3 solutions can differ by a tenth, and T1 by 0.25.
  """

  presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}}
  full_batch = True

  def warm_start(
    self, params: Params, batch: Batch, classes: ClassSpace, rng: Array
  ) -> Params:
    del rng
    outside = classes.positions(batch.labels) < 0
    features = jnp.where(outside[:, None], jnp.nan, self.rows(batch.features))
    features = jnp.where(batch.mask[:, None], features, 0)
    with computed_in("float32"):
      return self.solve(params, features, batch, classes)

  def rows(self, features: Array) -> Array:
    """Features ``[N, D]`` that the formula takes."""
    return unit_rows(features)

  def solve(
    self, params: Params, features: Array, batch: Batch, classes: ClassSpace
  ) -> Params:
    """Computes the parameters from ``rows``, in which padding is 0."""
    raise NotImplementedError

  def loss(
    self, params: Params, batch: Batch, classes: ClassSpace, rng: Array
  ) -> tuple[Array, dict[str, Array]]:
    """0 without a gradient; NaN where a parameter is not finite."""
    del batch, classes, rng
    leaves = jax.tree.leaves(jax.lax.stop_gradient(params))
    return sum(0 * jnp.sum(leaf) for leaf in leaves), {}


@register
@dataclasses.dataclass(frozen=True)
class ESZSL(ClosedForm):
  r"""ESZSL (Romera-Paredes & Torr, ICML 2015).

  .. math::
    V = (X^\top X + \gamma I)^{-1} X^\top Y S (S^\top S + \lambda I)^{-1}

  for images X ``[N, D]``, targets Y ``[N, C]`` and seen descriptors S ``[C, A]``; the
  scores are :math:`x^\top V s_c`. Descriptors are taken as they stand.

  Attributes:
    gamma: on the features' side.
    lambda_: on the descriptors' side.
    negative: Y of a class that is not the image's, -1 in the paper; 0 is better on many
      sets. Y of the image's own class is 1.
    unit_features: rows of X have length one; false takes them as they stand, as
      published re-implementations do.
  """

  name: ClassVar[str] = "eszsl"
  vmappable = ("gamma", "lambda_", "negative")

  gamma: float = 1.0
  lambda_: float = 1.0
  negative: float = -1.0
  unit_features: bool = True

  def __post_init__(self):
    positive = "more than 0"
    self.check_fields(gamma=positive, lambda_=positive, negative="between -1 and 0")

  def init(self, rng: Array, spec: Spec) -> Params:
    del rng
    return {"map": jnp.zeros((spec.feature_shape[-1], spec.num_attributes))}

  def rows(self, features: Array) -> Array:
    return unit_rows(features) if self.unit_features else pooled(features)

  def solve(
    self, params: Params, features: Array, batch: Batch, classes: ClassSpace
  ) -> Params:
    del params
    seen = jnp.asarray(classes.seen)[:, None]
    descriptions = jnp.where(seen, jnp.asarray(classes.embeddings), 0)
    own = classes.positions(batch.labels)[:, None] == jnp.arange(len(classes))[None]
    own = features.T @ own.astype(features.dtype)
    rest = jnp.sum(features, 0)[:, None]
    # With X'X = E diag(e) E' and S = U diag(s) W',
    # V = E diag(1 / (e + gamma)) E'X'Y U diag(s / (s^2 + lambda)) W'.
    values, vectors = _eigh(features.T @ features)
    left, singular, right = jnp.linalg.svd(descriptions, full_matrices=False)
    own, rest = vectors.T @ own @ left, vectors.T @ rest @ jnp.sum(left, 0)[None]
    core = (1 - self.negative) * own + self.negative * rest
    core *= (singular / (singular**2 + self.lambda_))[None]
    return {"map": vectors @ (core / (values + self.gamma)[:, None]) @ right}

  def prepare(self, params: Params, classes: ClassSpace) -> Array:
    return params["map"] @ jnp.asarray(classes.embeddings).T

  def score(self, features: Array, prepared: Array) -> Array:
    return self.rows(features) @ prepared


@register
@dataclasses.dataclass(frozen=True)
class SAE(ClosedForm):
  r"""Semantic autoencoder (Kodirov, Xiang & Gong, CVPR 2017).

  One matrix W ``[A, D]`` that maps features to descriptors, and its transpose back:

  .. math::
    \min_W \|X - W^\top S\|^2 + \lambda \|W X - S\|^2

  where images are columns and S holds the descriptor of each image. It solves the
  Sylvester equation :math:`S S^\top W + \lambda W X X^\top = (1 + \lambda) S X^\top`,
  here by the eigenvectors of both symmetric matrices.

  Attributes:
    lambda_: the weight of the map to descriptors.
    space: the space in which image and class are compared by cosine: ``visual`` (the
      class's descriptor is mapped to features) or ``semantic`` (the image to a
      descriptor).
  """

  name: ClassVar[str] = "sae"
  vmappable = ("lambda_",)

  lambda_: float = 1.0
  space: str = "visual"

  def __post_init__(self):
    self.check_fields(space=("visual", "semantic"), lambda_="more than 0")

  def init(self, rng: Array, spec: Spec) -> Params:
    del rng
    return {"map": jnp.zeros((spec.num_attributes, spec.feature_shape[-1]))}

  def solve(
    self, params: Params, features: Array, batch: Batch, classes: ClassSpace
  ) -> Params:
    del params
    own = classes.unit_embeddings()[classes.positions(batch.labels)]
    own = jnp.where(batch.mask[:, None], own, 0)
    left_values, left = _eigh(own.T @ own)
    right_values, right = _eigh(features.T @ features)
    target = (1 + self.lambda_) * (left.T @ (own.T @ features) @ right)
    # Where both are 0, the target is 0 too.
    values = left_values[:, None] + self.lambda_ * right_values[None]
    limits = jnp.finfo(values.dtype)
    floor = limits.eps * jnp.max(values) + limits.tiny
    return {"map": left @ (target / jnp.maximum(values, floor)) @ right.T}

  def prepare(self, params: Params, classes: ClassSpace) -> tuple[Array, Array]:
    mapping, descriptions = params["map"], classes.unit_embeddings()
    if self.space == "visual":
      descriptions = l2_normalize(descriptions @ mapping)
    return mapping, descriptions

  def score(self, features: Array, prepared: tuple[Array, Array]) -> Array:
    (mapping, descriptions), features = prepared, unit_rows(features)
    if self.space == "semantic":
      features = l2_normalize(features @ mapping.T)
    return features @ descriptions.T


@register
@dataclasses.dataclass(frozen=True)
class NearestMean(ClosedForm):
  r"""Nearest class mean, with the means of unseen classes predicted.

  A seen class's mean is that of its images; an unseen class's is a ridge regression of
  the seen means on their descriptors, centred on both sides. The score is minus the
  squared distance. A comparison with this baseline shows a method's gain over averages.

  Attributes:
    ridge: weight of the regression's penalty, on descriptors of length one.
  """

  name: ClassVar[str] = "nearest_mean"
  vmappable = ("ridge",)

  ridge: float = 0.1

  def __post_init__(self):
    self.check_fields(ridge="more than 0")

  def init(self, rng: Array, spec: Spec) -> Params:
    del rng
    width, attributes = spec.feature_shape[-1], spec.num_attributes
    return {
      "map": jnp.zeros((attributes, width)),
      "description": jnp.zeros(attributes),
      "feature": jnp.zeros(width),
      "means": jnp.zeros((spec.num_classes, width)),
      "has_mean": jnp.zeros(spec.num_classes),
    }

  def solve(
    self, params: Params, features: Array, batch: Batch, classes: ClassSpace
  ) -> Params:
    ids = jnp.asarray(classes.ids)
    own = (batch.labels[:, None] == ids[None]) & batch.mask[:, None]
    count = own.sum(0)
    means = own.T.astype(features.dtype) @ features / jnp.maximum(count, 1)[:, None]
    known, descriptions = (count > 0)[:, None], classes.unit_embeddings()
    number = jnp.maximum(jnp.sum(known), 1)
    description = jnp.sum(descriptions, 0, where=known) / number
    feature = jnp.sum(means, 0, where=known) / number
    centred = jnp.where(known, descriptions - description[None], 0)
    left, singular, right = jnp.linalg.svd(centred, full_matrices=False)
    target = left.T @ (means - feature[None])
    mapping = right.T @ ((singular / (singular**2 + self.ridge))[:, None] * target)
    return {
      "map": mapping,
      "description": description,
      "feature": feature,
      "means": params["means"].at[ids].set(means),
      "has_mean": params["has_mean"].at[ids].set(jnp.where(count > 0, 1.0, 0.0)),
    }

  def prepare(self, params: Params, classes: ClassSpace) -> Array:
    """Means of the classes, ``[C, D]``."""
    centred = classes.unit_embeddings() - params["description"][None]
    predicted = params["feature"][None] + centred @ params["map"]
    known = jnp.asarray(classes.seen) & (params["has_mean"][classes.ids] > 0)
    return jnp.where(known[:, None], params["means"][classes.ids], predicted)

  def score(self, features: Array, prepared: Array) -> Array:
    products = unit_rows(features) @ prepared.T
    return 2 * products - jnp.sum(prepared**2, 1)[None] - 1


@register
@dataclasses.dataclass(frozen=True)
class Similarity(ClosedForm):
  r"""Cosine between images and class descriptions of one space, over a temperature.

  The row without training of tables with features of CLIP or SigLIP (Radford et al.,
  ICML 2021), whose image and text towers share a space. Their pre-training has seen
  the "unseen" classes.

  Attributes:
    temperature: 0.01 is where CLIP's training ends.
  """

  name: ClassVar[str] = "similarity"

  temperature: float = 0.01

  def __post_init__(self):
    self.check_fields(temperature="more than 0")

  def init(self, rng: Array, spec: Spec) -> Params:
    del rng
    width, attributes = spec.feature_shape[-1], spec.num_attributes
    require(
      width == attributes,
      "similarity",
      f"features of {width} numbers and classes described by {attributes}",
      "both in one space, as from CLIP's image and text towers: these spaces differ",
    )
    return {"scale": jnp.asarray(1 / self.temperature)}

  def solve(
    self, params: Params, features: Array, batch: Batch, classes: ClassSpace
  ) -> Params:
    del features, batch, classes
    return params

  def prepare(self, params: Params, classes: ClassSpace) -> Array:
    return params["scale"] * classes.unit_embeddings().T

  def score(self, features: Array, prepared: Array) -> Array:
    return unit_rows(features) @ prepared


def _eigh(gram: Array) -> tuple[Array, Array]:
  """Eigenvalues, those below 0 by rounding set to 0, and eigenvectors."""
  values, vectors = jnp.linalg.eigh(gram)
  return jnp.maximum(values, 0), vectors
