"""EfficientNet-Lite, which turns images into features."""

from __future__ import annotations

from collections.abc import Iterator
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from zsljax.encoders.resnet import pooled_and_regions

# Kernel, stride, expansion, channels and number of blocks of each stage.
_LITE2 = (
  (3, 1, 1, 16, 1),
  (3, 2, 6, 24, 3),
  (5, 2, 6, 48, 3),
  (3, 2, 6, 88, 4),
  (5, 1, 6, 120, 4),
  (5, 2, 6, 208, 5),
  (3, 1, 6, 352, 1),
)
_EPSILON = 1e-3


class EfficientNetLite(nn.Module):
  """The convolutional part of an EfficientNet without squeeze-and-excitation.

  Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks"
  (ICML 2019), in the Lite form that TensorFlow released: ReLU6, and inverted residual
  blocks alone. Submodules have the names of the PyTorch port of these weights.

  Attributes:
    stages: kernel, stride, expansion, channels and number of blocks of each.
    stem: channels before the first stage.
    channels: D, of the last map.
  """

  stages: tuple[tuple[int, int, int, int, int], ...] = _LITE2
  stem: int = 32
  channels: int = 1280

  @nn.compact
  def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Features ``[B, D]`` and ``[B, R, D]`` of images ``[B, S, S, 3]``."""
    stem = _Stem(self.stem, name="_conv_stem")
    x = _activated(_normalization("_bn0")(stem(images)))
    block = 0
    for kernel, stride, expansion, channels, blocks in self.stages:
      for i in range(blocks):
        x = _Block(
          kernel, 1 if i else stride, expansion, channels, name=f"_blocks.{block}"
        )(x)
        block += 1
    return pooled_and_regions(_convolved(x, self.channels, "_conv_head", "_bn1"))


class _Stem(nn.Module):
  """A 3 x 3 convolution of stride 2 as one matrix product of all its inputs.

  On a CPU several times faster than XLA's convolution of three channels.
  """

  channels: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (3, 3, x.shape[-1], self.channels)
    weight = self.param("kernel", nn.initializers.lecun_normal(), shape)
    inputs = jnp.concatenate(list(_shifted(x, 3, 2)), -1)
    return _product(inputs, weight.reshape(-1, self.channels))


class _Block(nn.Module):
  """1 x 1, depthwise and 1 x 1 convolutions, added to an input of the same shape."""

  kernel: int
  stride: int
  expansion: int
  channels: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y, wide = x, x.shape[-1] * self.expansion
    if self.expansion > 1:
      y = _convolved(y, wide, "_expand_conv", "_bn0")
    y = _Depthwise(self.kernel, self.stride, name="_depthwise_conv")(y)
    y = _activated(_normalization("_bn1")(y))
    y = _normalization("_bn2")(_Pointwise(self.channels, name="_project_conv")(y))
    return x + y if x.shape == y.shape else y


class _Depthwise(nn.Module):
  """A convolution of each channel with a kernel of its own.

  A sum of shifted products: XLA's grouped convolution on a CPU is some twenty times
  slower.
  """

  kernel: int
  stride: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    k = self.kernel
    shape = (k, k, 1, x.shape[-1])
    weight = self.param("kernel", nn.initializers.lecun_normal(), shape)
    taps = weight.reshape(k * k, 1, 1, 1, -1)
    shifted = _shifted(x, k, self.stride)
    return sum(a * tap for a, tap in zip(shifted, taps, strict=True))


def _shifted(x: jax.Array, kernel: int, stride: int) -> Iterator[jax.Array]:
  """The inputs, ``[B, S / stride, S / stride, C]``, at each place of a kernel."""
  side = -(-x.shape[1] // stride)
  # As TensorFlow pads: what is odd goes to the end.
  padding = max((side - 1) * stride + kernel - x.shape[1], 0)
  edges = (padding // 2, padding - padding // 2)
  # Computed once, not again for each place.
  x = jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), edges, edges, (0, 0))))
  reach = (side - 1) * stride + 1
  for i in range(kernel):
    for j in range(kernel):
      yield x[:, i : i + reach : stride, j : j + reach : stride]


class _Pointwise(nn.Module):
  """A 1 x 1 convolution as a matrix product, on a CPU twice as fast as XLA's."""

  channels: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (1, 1, x.shape[-1], self.channels)
    weight = self.param("kernel", nn.initializers.lecun_normal(), shape)
    return _product(x, weight)


_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def _normalization(name: str) -> nn.BatchNorm:
  return nn.BatchNorm(use_running_average=True, epsilon=_EPSILON, name=name)


def _convolved(x: jax.Array, channels: int, conv: str, norm: str) -> jax.Array:
  """A 1 x 1 convolution, its normalisation and activation."""
  return _activated(_normalization(norm)(_Pointwise(channels, name=conv)(x)))


def _activated(x: jax.Array) -> jax.Array:
  return jnp.clip(x, 0, 6)
