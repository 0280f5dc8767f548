"""A system together with the network that makes its features, trained as one."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math
from typing import Any
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp

from zsljax.classes import ClassSpace
from zsljax.errors import require
from zsljax.models.closed_form import ClosedForm
from zsljax.models.system import Array, Batch, Params, Spec, System


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndToEnd(System):
  """A system on features of a trainable backbone; its own features are images.

  For fine-tuning from Python, with ``make_train_step`` and batches of images; stored
  datasets hold features. Warns where the system calibrates itself: the authors of that
  loss advise against it with a trainable backbone, which then raises the scores of
  unseen classes on images of seen ones.

  Attributes:
    head: the system.
    backbone: turns images ``[B, S, S, 3]`` into maps ``[B, H, W, D]``, for example of
      ``zsljax.encoders.NETWORKS``.
    variables: of the backbone to begin with, such as ``load_encoder(...).variables``.
      ``params`` are trained, all else (statistics) stays.
    regions: the head takes regions ``[B, H W, D]``; else their mean ``[B, D]``.
  """

  head: System
  backbone: nn.Module
  variables: Mapping[str, Any] = dataclasses.field(repr=False)
  regions: bool = True

  def __post_init__(self):
    require(not self.head.multi_label, "head", self.head.name, "one label an image")
    require(
      not isinstance(self.head, ClosedForm),
      "head",
      self.head.name,
      "a system that learns by gradients",
    )
    if self.head.self_calibrates:
      warnings.warn(
        f"{self.head.name} calibrates itself by raising the scores of unseen classes. "
        "Its authors advise against that with a trainable backbone: set "
        "weight_calibration to 0, or train on stored features.",
        stacklevel=3,
      )

  @property
  def name(self) -> str:
    return f"end_to_end_{self.head.name}"

  def init(self, rng: Array, spec: Spec) -> Params:
    images = jax.ShapeDtypeStruct((1, *spec.feature_shape), jnp.float32)
    shape = jax.eval_shape(
      lambda images: self._features(self.variables["params"], images), images
    ).shape
    head = self.head.init(rng, dataclasses.replace(spec, feature_shape=shape[1:]))
    return {"backbone": self.variables["params"], "head": head}

  @property
  def closed_set(self) -> bool:
    return self.head.closed_set

  @property
  def class_params(self) -> tuple[str, ...]:
    return self.head.class_params

  def warm_start(
    self, params: Params, batch: Batch, classes: ClassSpace, rng: Array
  ) -> Params:
    made = self._features(params["backbone"], batch.features)
    batch = dataclasses.replace(batch, features=made)
    return params | {"head": self.head.warm_start(params["head"], batch, classes, rng)}

  def prepare(self, params: Params, classes: ClassSpace) -> tuple[Params, Any]:
    return params["backbone"], self.head.prepare(params["head"], classes)

  def compare(self, features: Array, prepared: tuple[Params, Any]) -> Array:
    backbone, of_head = prepared
    return self.head.compare(self._features(backbone, features), of_head)

  def loss(
    self, params: Params, batch: Batch, classes: ClassSpace, rng: Array
  ) -> tuple[Array, dict[str, Array]]:
    made = self._features(params["backbone"], batch.features)
    batch = dataclasses.replace(batch, features=made)
    return self.head.loss(params["head"], batch, classes, rng)

  def _features(self, params: Params, images: Array) -> Array:
    maps = self.backbone.apply({**self.variables, "params": params}, images)
    regions = maps.reshape(len(maps), math.prod(maps.shape[1:3]), maps.shape[3])
    return regions if self.regions else regions.mean(1)
