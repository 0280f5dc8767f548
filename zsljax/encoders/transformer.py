"""Transformers that turn images and sentences into features, for inference.

Fields of the modules say in what published networks differ. Products are computed in
full float32, as in ``zsljax.encoders.resnet``.
"""

from __future__ import annotations

from collections.abc import Callable
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

_PRECISION = jax.lax.Precision.HIGHEST
_ACTIVATIONS = {
  "gelu": functools.partial(nn.gelu, approximate=False),
  "tanh_gelu": nn.gelu,
  "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
}
_Dense = functools.partial(nn.Dense, precision=_PRECISION)
_Norm = functools.partial(nn.LayerNorm, use_fast_variance=False)
_Attention = functools.partial(nn.MultiHeadDotProductAttention, precision=_PRECISION)


def _mlp(x: jax.Array, hidden: int, activation: str, name: str) -> jax.Array:
  """Two layers, the first of width ``hidden``, submodules of the caller."""
  width = x.shape[-1]
  x = _ACTIVATIONS[activation](_Dense(hidden, name=f"{name}.up")(x))
  return _Dense(width, name=f"{name}.down")(x)


class Transformer(nn.Module):
  """Blocks of attention and an MLP: ``[B, L, W]`` from ``[B, L, W]``.

  Vaswani et al., "Attention Is All You Need" (NeurIPS 2017).

  Attributes:
    width: W.
    depth: number of blocks.
    heads: of every attention.
    hidden: width within every MLP.
    activation: ``gelu``, ``tanh_gelu`` or ``quick_gelu``.
    epsilon: of every layer normalisation.
    norm_input: normalises the input.
    norm_sums: normalises the sums in a block, as the original and BERT; otherwise the
      inputs of its two parts, and the last output.
    scaled: multiplies channels of each part by parameters, the LayerScale of Touvron et
      al., "Going deeper with Image Transformers" (ICCV 2021).
  """

  width: int
  depth: int
  heads: int
  hidden: int
  activation: str
  epsilon: float
  norm_input: bool
  norm_sums: bool
  scaled: bool

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """``mask``, ``[B or 1, 1, L or 1, L]``, is true where a token sees another."""

    def add(x: jax.Array, part: Callable, name: str) -> jax.Array:
      norm = _Norm(self.epsilon, name=f"{name}_norm")
      y = part(x if self.norm_sums else norm(x), name=name)
      if self.scaled:
        scale = self.param(f"{name}_scale", nn.initializers.ones, (1, 1, self.width))
        y = y * scale
      return norm(x + y) if self.norm_sums else x + y

    def attend(x: jax.Array, name: str) -> jax.Array:
      return _Attention(self.heads, name=name)(x, mask=mask)

    mlp = functools.partial(_mlp, hidden=self.hidden, activation=self.activation)
    if self.norm_input:
      x = _Norm(self.epsilon, name="norm_input")(x)
    for i in range(self.depth):
      x = add(x, attend, f"{i}.attention")
      x = add(x, mlp, f"{i}.mlp")
    return x if self.norm_sums else _Norm(self.epsilon, name="norm")(x)


class VisionTransformer(nn.Module):
  """The transformer of Dosovitskiy et al. (ICLR 2021), DINOv2, CLIP or SigLIP.

  Attributes:
    transformer: its blocks.
    patch: side of a region in pixels.
    grid: regions along a side for which there are position embeddings.
    prefix: number of the class token and register tokens (Darcet et al., ICLR 2024)
      before the regions; 0 pools the regions by the attention of a learned query.
    projection: D; 0 leaves pooled features at W.
  """

  transformer: Transformer
  patch: int
  grid: int
  prefix: int
  projection: int

  @nn.compact
  def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``pooled`` [B, D] and ``regions`` [B, R, W] of images ``[B, S, S, 3]``.

    Both are normalised; ``pooled`` is projected then, ``regions`` are not, and lie in
    the order of the grid's rows. Images of a size other than the weights' get position
    embeddings by ``bicubic``.
    """
    side, like = (self.patch, self.patch), self.transformer
    embed = nn.Conv(like.width, side, side, "VALID", precision=_PRECISION, name="patch")
    x = embed(images)
    table = _table(self, "positions", self.grid**2)
    table = table.reshape(self.grid, self.grid, like.width)
    resize = bicubic(self.grid, x.shape[1])
    table = jnp.einsum("ai,bj,ijw->abw", resize, resize, table, precision=_PRECISION)
    x = (x + table[None]).reshape(len(x), -1, like.width)
    token = _table(self, "prefix" if self.prefix else "probe", self.prefix or 1)
    token = jnp.broadcast_to(token, (len(x), *token.shape))
    if self.prefix:
      x = like(jnp.concatenate([token, x], 1))
      pooled = x[:, 0]
    else:  # The attention pooling of Zhai et al., "Scaling Vision Transformers".
      x = like(x)
      y = _Attention(like.heads, name="pool.attention")(token, x)
      pooled = _Norm(like.epsilon, name="pool.norm")(y)
      pooled = (y + _mlp(pooled, like.hidden, like.activation, "pool.mlp"))[:, 0]
    if self.projection:
      pooled = _Dense(self.projection, name="projection")(pooled)
    return pooled, x[:, self.prefix :]


class TextTransformer(nn.Module):
  """The text tower of CLIP or SigLIP, or BERT.

  Attributes:
    transformer: its blocks.
    vocabulary: number of tokens.
    length: of the longest sentence, in tokens.
    reading: ``end`` reads the token of the highest id, and tokens see no later ones
      (CLIP); ``last`` reads the last one, and all see all, padding too (SigLIP);
      ``mean`` averages those in the mask, which all see (sentence transformers).
    projection: D; 0 leaves features at W.
  """

  transformer: Transformer
  vocabulary: int
  length: int
  reading: str
  projection: int

  @nn.compact
  def __call__(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    """Features ``[B, D]`` of tokens ``[B, L]``, int32, and their mask ``[B, L]``."""
    rows, length = jnp.arange(len(tokens)), tokens.shape[1]
    x = _table(self, "tokens", self.vocabulary)[tokens]
    x += _table(self, "positions", self.length)[None, :length]
    if self.reading == "end":
      x = self.transformer(x, jnp.tril(jnp.ones((1, 1, length, length), bool)))
      x = x[rows, tokens.argmax(1)]
    elif self.reading == "last":
      x = self.transformer(x)[:, -1]
    else:
      x = self.transformer(x, mask[:, None, None] > 0)
      x = (x * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return _Dense(self.projection, name="projection")(x) if self.projection else x


def _table(
  module: VisionTransformer | TextTransformer, name: str, rows: int
) -> jax.Array:
  """A parameter ``[rows, W]`` of a module."""
  return module.param(name, nn.initializers.zeros, (rows, module.transformer.width))


def bicubic(old: int, new: int) -> np.ndarray:
  """The matrix ``[new, old]`` of bicubic interpolation along a side of a grid.

  Equals PyTorch's ``interpolate(mode="bicubic")`` without aligned corners and without
  antialiasing, as transformers resizes position embeddings: the kernel of Keys (1981)
  with a = -0.75, edges repeated. The identity where the sizes agree. timm antialiases,
  and the repository of DINOv2 shifts the grid by a tenth.
  """
  a = -0.75
  at = (np.arange(new) + 0.5) * old / new - 0.5
  x = np.abs(at[:, None] - np.arange(-2, old + 2)[None])
  near = ((a + 2) * x - (a + 3)) * x**2 + 1
  far = a * (((x - 5) * x + 8) * x - 4)
  edges = np.pad(np.eye(old), ((2, 2), (0, 0)), "edge")
  return (np.select([x <= 1, x < 2], [near, far]) @ edges).astype(np.float32)
