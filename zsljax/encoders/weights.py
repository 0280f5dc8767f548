"""Weights of torchvision's and timm's residual networks as Flax variables."""

from __future__ import annotations

import collections
from collections.abc import Mapping
import pathlib
import re
from typing import Any

import jax
import numpy as np

from zsljax.encoders.resnet import NETWORKS
from zsljax.encoders.tensor_files import read_tensors
from zsljax.errors import ZsljaxError

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
_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.")
# Blocks of each stage, and whether they are bottlenecks.
_KNOWN = {
  (2, 2, 2, 2, False): "ResNet-18",
  (3, 4, 6, 3, False): "ResNet-34",
  (3, 4, 6, 3, True): "ResNet-50",
  (3, 4, 23, 3, True): "ResNet-101",
  (3, 8, 36, 3, True): "ResNet-152",
}


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
  _check(path, network, {k: v.shape for k, v in tensors.items()}, expected)

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


def _check(
  path: pathlib.Path,
  network: str,
  found: Mapping[str, tuple[int, ...]],
  expected: Mapping[str, tuple[int, ...]],
) -> None:
  """Raises unless names and shapes of tensors are those of the network."""
  missing = [name for name in expected if name not in found]
  more = [name for name in found if name not in expected]
  wrong = [
    f"{name} of shape {list(found[name])} instead of {list(shape)}"
    for name, shape in expected.items()
    if name in found and found[name] != shape
  ]
  parts = [
    f"{len(names)} tensors {what} ({names[0]}{', ...' if len(names) > 1 else ''})"
    for what, names in (("missing", missing), ("too many", more), ("differing", wrong))
    if names
  ]
  if parts:
    raise ZsljaxError(
      f"{path}: found {_looks_like(found)}, with {', '.join(parts)}; expected the "
      f"weights of {network} as in torchvision or timm"
    )


def _looks_like(found: Mapping[str, tuple[int, ...]]) -> str:
  """The network that the tensors belong to, in words."""
  stages = collections.defaultdict(set)
  for block in filter(None, map(_BLOCK.match, found)):
    stages[block[1]].add(block[2])
  blocks = [len(stages[stage]) for stage in sorted(stages)]
  bottleneck = "layer1.0.conv3.weight" in found
  known = _KNOWN.get((*blocks, bottleneck))
  if known:
    return f"what looks like a {known}"
  if blocks:
    return f"a residual network with {', '.join(map(str, blocks))} blocks"
  return f"another network, which begins with {', '.join(list(found)[:3]) or 'nothing'}"
