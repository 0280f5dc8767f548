"""Cosine classifiers: embeddings, a prototype for each class, a choice of losses."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import inspect
import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from zsljax.classes import ClassSpace
from zsljax.errors import require
from zsljax.losses import FAMILY, GeneralizedSoftmax, make_loss
from zsljax.models.registry import register
from zsljax.models.system import (
  CLOSED_SET,
  SINGLE_LABEL,
  Array,
  Batch,
  Params,
  Spec,
  System,
)
from zsljax.numerics import PYTORCH_LINEAR, l2_normalize, masked_mean, pooled

# Settings of the family's members, which are fields of the system.
SETTINGS = tuple(
  dict.fromkeys(
    name for m in FAMILY.values() for name in inspect.signature(m).parameters
  )
)
_CHANNELS = (32, 64)
_KERNEL = 3
# Most groups of classes that are sampled apart.
_GROUPS = 64


@register
@dataclasses.dataclass(frozen=True)
class CosineClassifier(System):
  r"""Embeddings compared with class prototypes, trained by a generalized softmax.

  A class has a prototype: a learned vector (closed-set embedding learning), or what a
  network makes of the class's description (zero-shot learning: unseen classes get one
  too). The loss is over seen classes.

  ``class_norm`` is the model of Skorokhodov & Elhoseiny, "Class Normalization for
  (Continual?) Generalized Zero-Shot Learning" (ICLR 2021): features as they are, and a
  generator that standardises its activations over classes.
  ``class_norm_official_code`` also has the released code's variances and first biases.
  One difference: that code keeps running statistics for the test; here the statistics
  are those of the seen classes under the present parameters, which running ones follow
  late.

  Attributes:
    loss_name: a member of the family.
    encoder: ``none`` (class_norm) takes the features for the embedding; ``mlp``
      (zero_shot) has layers of ``hidden`` widths with ReLU and a linear one; ``conv``
      (embedding), for features that are the pixels of square grey images, two
      convolutions and a linear layer. Regions are averaged.
    hidden: widths of the hidden layers of ``mlp``.
    embedding_size: d of ``mlp`` and ``conv``.
    prototypes: ``learned`` (embedding), or ``generated`` from class descriptions.
    generator_hidden: width of the generator's two hidden layers.
    class_normalization: whether the generator's second layer is standardised over the
      seen classes, before and after its ReLU (class_norm).
    bias_initializer: of the generator: ``zeros``, or ``uniform`` in +-1 /
      sqrt(fan-in), PyTorch's default (class_norm_official_code).
    unbiased: whether the variance over classes is the unbiased one, of ddof 1
      (class_norm_official_code).
    nonnegative: whether the generator ends with a ReLU, for features that are not
      negative.
    sample_share: share of negatives that take part in a step, for learned prototypes;
      see ``sample_classes``.
    scale: of the loss, as all below (see the function named like it in
      ``zsljax.losses.generalized_softmax``); None takes the member's own value.
    margin: of all but softmax and normface; sphereface's is the factor of the angle.
    times: combined only: the factor of the angle.
    cosine_margin: combined only: taken from the cosine.
    positive_goal: so_softmax: where similarities to the own prototype are drawn to.
    negative_goal: so_softmax: where the other similarities are drawn to.
    positive_weight: so_softmax and cs_softmax: factor of the transform of the own
      similarity.
    negative_weight: so_softmax and cs_softmax: factor of the others' transform.
    one_sided: so_softmax: whether nothing is gained beyond the goals.
    stop_gradient: circle: whether its weights are constants to the gradient.
  """

  name: ClassVar[str] = "cosine"
  class_params: ClassVar[tuple[str, ...]] = ("prototypes",)
  presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
    "embedding": {"encoder": "conv", "prototypes": "learned"},
    "zero_shot": {"encoder": "mlp", "prototypes": "generated"},
    "class_norm": {
      "encoder": "none",
      "prototypes": "generated",
      "class_normalization": True,
    },
    "class_norm_official_code": {
      "encoder": "none",
      "prototypes": "generated",
      "class_normalization": True,
      "bias_initializer": "uniform",
      "unbiased": True,
    },
  }

  loss_name: str = "normface"
  encoder: str = "mlp"
  hidden: tuple[int, ...] = (512,)
  embedding_size: int = 128
  prototypes: str = "generated"
  generator_hidden: int = 1024
  class_normalization: bool = False
  bias_initializer: str = "zeros"
  unbiased: bool = False
  nonnegative: bool = False
  sample_share: float = 1.0
  scale: float | None = None
  margin: float | None = None
  times: float | None = None
  cosine_margin: float | None = None
  positive_goal: float | None = None
  negative_goal: float | None = None
  positive_weight: float | None = None
  negative_weight: float | None = None
  one_sided: bool | None = None
  stop_gradient: bool | None = None

  def __post_init__(self):
    self.check_fields(
      encoder=("none", "mlp", "conv"),
      prototypes=("learned", "generated"),
      bias_initializer=("zeros", "uniform"),
      embedding_size="1 or more",
      generator_hidden="1 or more",
    )
    share, field = self.sample_share, "config.system.sample_share"
    require(0 < share <= 1, field, share, "more than 0 and at most 1")
    closed_set = self.task == CLOSED_SET
    require(share == 1 or closed_set, field, share, "1 with generated prototypes")
    make_loss(self.loss_name, "config.system.", **self._settings)

  @property
  def _settings(self) -> dict[str, Any]:
    """Settings of the loss that are given."""
    values = {name: getattr(self, name) for name in SETTINGS}
    return {name: value for name, value in values.items() if value is not None}

  @property
  def vmappable(self) -> tuple[str, ...]:
    """Settings of the loss that are numbers of an equation."""
    fixed = {"one_sided", "stop_gradient"}
    if self.loss_name == "sphereface":
      fixed.add("margin")  # A number of steps.
    return tuple(name for name in SETTINGS if name not in fixed)

  @property
  def task(self) -> str:
    return CLOSED_SET if self.prototypes == "learned" else SINGLE_LABEL

  def family_member(self) -> GeneralizedSoftmax:
    """Builds the loss from settings that ``__post_init__`` checked."""
    return FAMILY[self.loss_name](**self._settings)

  def init(self, rng: Array, spec: Spec) -> Params:
    keys = jax.random.split(rng)
    features = jnp.zeros((1, *spec.feature_shape))
    width = self._width(spec)
    params = {}
    if self.encoder != "none":
      params["encoder"] = self._encoder.init(keys[0], features)["params"]
    if self.task == CLOSED_SET:
      scale = 1 / math.sqrt(width)
      params["prototypes"] = scale * jax.random.normal(
        keys[1], (spec.num_classes, width)
      )
    else:
      generator = self._generator(width)
      embeddings = jnp.zeros((2, spec.num_attributes))
      params["generator"] = generator.init(keys[1], embeddings, jnp.ones(2, bool))[
        "params"
      ]
    return params

  def embed(self, params: Params, features: Array) -> Array:
    """Embeds features: ``[B, d]``, of any length."""
    if self.encoder == "none":
      return pooled(features)
    return self._encoder.apply({"params": params["encoder"]}, features)

  def prepare(self, params: Params, classes: ClassSpace) -> tuple[Params, Array]:
    prototypes = self._prototypes(params, classes)
    if self.task == CLOSED_SET:
      prototypes = prototypes[classes.ids]
    return params, prototypes

  def score(self, features: Array, prepared: tuple[Params, Array]) -> Array:
    params, prototypes = prepared
    member = self.family_member()
    embeddings = self.embed(params, features)
    return member.scale * _similarities(member, embeddings, prototypes)

  def loss(
    self, params: Params, batch: Batch, classes: ClassSpace, rng: Array
  ) -> tuple[Array, dict[str, Array]]:
    member = self.family_member()
    embeddings = self.embed(params, batch.features)
    prototypes = self._prototypes(params, classes)
    seen, log_weights = jnp.asarray(classes.seen), None
    rows = jnp.arange(len(prototypes))
    if self.task == CLOSED_SET:  # A row for each class id.
      own_row = batch.labels
      seen = jnp.zeros(len(prototypes), bool).at[classes.ids].set(seen)
      if self.sample_share < 1:
        rows, log_weights = sample_classes(rng, own_row, seen, self.sample_share)
        prototypes, seen = _rows_of(prototypes, rows), seen[rows].ravel()
        rows, log_weights = rows.ravel(), log_weights.reshape(1, -1)
    else:
      own_row = classes.positions(batch.labels)
    own = own_row[:, None] == rows[None, :]
    similarities = _similarities(member, embeddings, prototypes)
    losses = member(similarities, own, seen[None, :], log_weights)
    loss = masked_mean(losses, batch.mask)
    return loss, {self.loss_name: loss}

  def _width(self, spec: Spec) -> int:
    if self.encoder == "none":
      return spec.feature_shape[-1]
    if self.encoder == "conv":
      pixels = spec.feature_shape[-1]
      require(
        len(spec.feature_shape) == 1 and math.isqrt(pixels) ** 2 == pixels,
        "config.system.encoder",
        f"'conv' with features of shape {spec.feature_shape}",
        "mlp, or features that are the pixels of square images",
      )
    return self.embedding_size

  @property
  def _encoder(self) -> nn.Module:
    if self.encoder == "conv":
      return _ConvolutionalEncoder(self.embedding_size)
    return _Encoder(self.hidden, self.embedding_size)

  def _generator(self, width: int) -> nn.Module:
    return _Generator(
      self.generator_hidden,
      width,
      self.class_normalization,
      self.bias_initializer,
      self.unbiased,
      self.nonnegative,
    )

  def _prototypes(self, params: Params, classes: ClassSpace) -> Array:
    """Prototypes ``[C, d]``; a row for each class id where they are learned."""
    if self.task == CLOSED_SET:
      return params["prototypes"]
    # Rows of length sqrt(A), so that their numbers are of the order of one.
    embeddings = classes.unit_embeddings()
    embeddings *= math.sqrt(embeddings.shape[1])
    width = params["generator"]["prototypes"]["bias"].shape[0]
    return self._generator(width).apply(
      {"params": params["generator"]}, embeddings, jnp.asarray(classes.seen)
    )


def _similarities(
  member: GeneralizedSoftmax, embeddings: Array, prototypes: Array
) -> Array:
  """Cosines or inner products of embeddings and prototypes, ``[B, C]``."""
  if member.cosine:
    embeddings, prototypes = l2_normalize(embeddings), l2_normalize(prototypes)
  return embeddings @ prototypes.T


def sample_classes(
  rng: Array, labels: Array, seen: Array, share: float
) -> tuple[Array, Array]:
  """Draws the classes of a step: all of the batch's own, and some of the others.

  The draw is within groups of neighbouring ids, so that prototypes which lie split over
  devices are gathered where they are. A negative that was drawn stands for all that
  could have been: weighted so, the sum over negatives in the denominator of the
  softmax is unbiased. Its logarithm, and hence the loss and its gradient, is biased by
  a term of the order of the sum's relative variance.

  References:
    An et al., Partial FC (2021), the sampled softmax of large face-recognition systems.
    It has no weights: its sum is low by the share.

  Args:
    rng: a random key.
    labels: class ids of the batch, ``[B]``.
    seen: ``[C]`` bool; others are never drawn before all seen ones.
    share: share of a group's classes that are drawn; at least B + 1 are, or all.

  Returns:
    Ids ``[G, K]``, and the logarithms of their weights ``[G, K]``.
  """
  count = len(seen)
  groups = math.gcd(count, _GROUPS)
  size = count // groups
  kept = min(size, max(math.ceil(share * size), len(labels) + 1))
  present = jnp.zeros(count, bool).at[labels].set(True).reshape(groups, size)
  seen = seen.reshape(groups, size)
  order = jax.random.uniform(rng, (groups, size)) + jnp.where(seen, 1, 0)
  _, drawn = jax.lax.top_k(jnp.where(present, 3, order), kept)
  is_present = jnp.take_along_axis(present, drawn, 1)
  # Seen classes that are not the batch's own: how many there are to each one drawn.
  free = jnp.sum(seen & ~present, 1, keepdims=True)
  taken = jnp.sum(jnp.take_along_axis(seen & ~present, drawn, 1), 1, keepdims=True)
  weights = jnp.where(is_present, 1, free / jnp.maximum(taken, 1))
  ids = drawn + size * jnp.arange(groups)[:, None]
  return ids, jnp.log(jnp.maximum(weights, 1))


def _rows_of(prototypes: Array, ids: Array) -> Array:
  """Gathers rows ``[G * K, d]`` of prototypes ``[C, d]`` within each group."""
  groups = prototypes.reshape(len(ids), -1, prototypes.shape[1])
  within = ids - groups.shape[1] * jnp.arange(len(ids))[:, None]
  rows = jnp.take_along_axis(groups, within[:, :, None], 1)
  return rows.reshape(-1, prototypes.shape[1])


class _Encoder(nn.Module):
  """Maps features [B, D] or [B, R, D] to embeddings [B, d]."""

  hidden: tuple[int, ...]
  size: int

  @nn.compact
  def __call__(self, features: Array) -> Array:
    features = pooled(features)
    for i, width in enumerate(self.hidden):
      features = nn.relu(nn.Dense(width, name=f"hidden_{i}")(features))
    return nn.Dense(self.size, name="embedding")(features)


class _Convolution(nn.Module):
  """Convolves images [B, h, w, c] to [B, h, w, channels], zeros around them.

  A matrix product of patches: runs that are trained together have a kernel each, for
  which compilers have products but no fast convolution.
  """

  channels: int

  @nn.compact
  def __call__(self, images: Array) -> Array:
    _, height, width, _ = images.shape
    edge = _KERNEL // 2
    padded = jnp.pad(images, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    patches = [
      padded[:, i : i + height, j : j + width]
      for i in range(_KERNEL)
      for j in range(_KERNEL)
    ]
    return nn.Dense(self.channels, name="kernel")(jnp.concatenate(patches, -1))


def _half_size(images: Array) -> Array:
  """Takes the maximum of each 2 x 2 pixels [B, h, w, c], of fewer at an odd end."""
  count, height, width, channels = images.shape
  odd = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
  images = jnp.pad(images, odd, constant_values=-jnp.inf)
  height, width = -(-height // 2), -(-width // 2)
  return images.reshape(count, height, 2, width, 2, channels).max((2, 4))


class _ConvolutionalEncoder(nn.Module):
  """Maps pixels [B, side * side] to embeddings [B, d]."""

  size: int

  @nn.compact
  def __call__(self, pixels: Array) -> Array:
    side = math.isqrt(pixels.shape[-1])
    images = pixels.reshape(-1, side, side, 1)
    for i, channels in enumerate(_CHANNELS):
      images = _Convolution(channels, name=f"conv_{i}")(images)
      images = _half_size(nn.relu(images))
    return nn.Dense(self.size, name="embedding")(images.reshape(len(images), -1))


class _Generator(nn.Module):
  """Maps class descriptions [C, A] to prototypes [C, d]."""

  hidden: int
  size: int
  class_normalization: bool
  bias_initializer: str
  unbiased: bool
  nonnegative: bool

  @nn.compact
  def __call__(self, embeddings: Array, seen: Array) -> Array:
    # The last layer keeps the prototypes' variance at 1 / d for inputs of variance 1.
    usual = PYTORCH_LINEAR
    last = nn.initializers.variance_scaling(1 / self.size, "fan_in", "uniform")

    def dense(name: str, width: int, kernel_init, x: Array) -> Array:
      bias_init = nn.initializers.zeros
      if self.bias_initializer == "uniform":
        bias_init = _uniform(x.shape[-1] ** -0.5)
      return nn.Dense(width, kernel_init=kernel_init, bias_init=bias_init, name=name)(x)

    def standardised(x: Array) -> Array:
      if not self.class_normalization:
        return x
      return class_standardise(x, seen, int(self.unbiased))

    x = nn.relu(dense("hidden_0", self.hidden, usual, embeddings))
    x = dense("hidden_1", self.hidden, usual, x)
    x = standardised(nn.relu(standardised(x)))
    prototypes = dense("prototypes", self.size, last, x)
    return nn.relu(prototypes) if self.nonnegative else prototypes


def _uniform(bound: float) -> nn.initializers.Initializer:
  """Draws initial values between -``bound`` and ``bound``."""

  def draw(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return draw


def class_standardise(activations: Array, seen: Array, ddof: int = 0) -> Array:
  """Standardises classes: minus the mean, over the variance (not its root).

  Args:
    activations: ``[C, H]``.
    seen: marks the classes whose mean and variance are taken, ``[C]`` bool. Where none
      is seen the result is NaN: new classes alone have no statistics.
    ddof: taken off the number of classes in the variance: 1 in the released code.

  References:
    Skorokhodov & Elhoseiny (ICLR 2021), as in the released code, with its 1e-5.
  """
  where = seen[:, None]
  mean = jnp.mean(activations, 0, where=where, keepdims=True)
  variance = jnp.var(activations, 0, where=where, keepdims=True, ddof=ddof)
  return (activations - mean) / (variance + 1e-5)
