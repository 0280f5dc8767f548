"""Weights of torchvision's and timm's residual networks as Flax variables."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import jax
import numpy as np

from zsljax.encoders.resnet import NETWORKS
from zsljax.encoders.tensor_files import read_tensors
from zsljax.errors import require, some

# PyTorch's names of Flax's parameters and statistics.
_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}
# The classifier, and a count that only training uses.
_IGNORED = re.compile(r"fc\..*|.*\.num_batches_tracked")


def read_weights(path: pathlib.Path, network: str) -> dict[str, Any]:
  """The variables of a network, in float32.

  Args:
    path: see ``read_tensors``.
    network: of ``NETWORKS``.

  Raises:
    ZsljaxError: the file is not readable, or has another network's weights.
  """
  tensors = {
    name: tensor
    for name, tensor in read_tensors(path).items()
    if not _IGNORED.fullmatch(name)
  }
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
  variables = jax.eval_shape(NETWORKS[network].init, jax.random.key(0), images)
  expected = {
    _torch_name(leaf): _torch_layout(value.shape)
    for leaf, value in jax.tree_util.tree_leaves_with_path(variables)
  }
  shapes = {name: tensor.shape for name, tensor in tensors.items()}
  differing = sorted({name for name, _ in shapes.items() ^ expected.items()})
  require(
    not differing,
    str(path),
    f"{len(differing)} tensors missing, too many or misshapen ({some(differing)})",
    f"the weights of {network} as in torchvision or timm",
  )

  def converted(leaf: tuple, _: Any) -> np.ndarray:
    tensor = tensors[_torch_name(leaf)].astype(np.float32)
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor

  return jax.tree_util.tree_map_with_path(converted, variables)


def _torch_name(leaf: tuple) -> str:
  """PyTorch's name of a leaf, given its path in the variables."""
  _, *modules, last = (key.key for key in leaf)
  return ".".join((*modules, _LEAVES[last]))


def _torch_layout(shape: tuple[int, ...]) -> tuple[int, ...]:
  """A kernel's [H, W, in, out] as PyTorch's [out, in, H, W]."""
  return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape
