"""Residual networks that turn images into features."""

from __future__ import annotations

import flax.linen as nn
import jax

_EXPANSION = 4
_EPSILON = 1e-5


class ResNet(nn.Module):
  """The convolutional part of a residual network with bottleneck blocks, for inference.

  He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016), in the form of
  torchvision (its v1.5): the 3 x 3 convolution has a block's stride. Batch
  normalisation uses stored statistics. Products are computed in full float32 on every
  kind of device, as features are computed once and used often. Submodules have the
  names of torchvision's.

  Attributes:
    blocks: of each stage; every stage after the first halves the grid.
    width: of the first stage's 3 x 3 convolutions, doubled by each stage.
  """

  blocks: tuple[int, ...]
  width: int = 64

  @nn.compact
  def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Features ``[B, D]`` and ``[B, R, D]`` of images ``[B, S, S, 3]``."""
    x = nn.relu(_normalized(images, self.width, 7, 2, "conv1", "bn1"))
    x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
    for stage, blocks in enumerate(self.blocks):
      for block in range(blocks):
        stride = 2 if stage and not block else 1
        name = f"layer{stage + 1}.{block}"
        x = _Bottleneck(self.width * 2**stage, stride, not block, name=name)(x)
    return pooled_and_regions(x)


class _Bottleneck(nn.Module):
  """1 x 1, 3 x 3 and 1 x 1 convolutions, added to the input or its projection."""

  width: int
  stride: int
  project: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = _EXPANSION * self.width
    y = nn.relu(_normalized(x, self.width, 1, 1, "conv1", "bn1"))
    y = nn.relu(_normalized(y, self.width, 3, self.stride, "conv2", "bn2"))
    y = _normalized(y, channels, 1, 1, "conv3", "bn3")
    if self.project:
      names = "downsample.0", "downsample.1"
      x = _normalized(x, channels, 1, self.stride, *names)
    return nn.relu(x + y)


def _normalized(
  x: jax.Array, channels: int, kernel: int, stride: int, conv: str, norm: str
) -> jax.Array:
  """A convolution without bias and its normalisation, submodules of the caller."""
  x = nn.Conv(
    channels,
    (kernel, kernel),
    stride,
    padding=kernel // 2,
    use_bias=False,
    precision=jax.lax.Precision.HIGHEST,
    name=conv,
  )(x)
  return nn.BatchNorm(use_running_average=True, epsilon=_EPSILON, name=norm)(x)


def pooled_and_regions(grid: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The mean ``[B, D]`` of a map ``[B, H, W, D]``, and its regions, row by row."""
  regions = grid.reshape(len(grid), -1, grid.shape[-1])
  return regions.mean(1), regions
