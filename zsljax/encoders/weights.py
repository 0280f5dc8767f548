"""Networks for images that their weights tell, as Flax modules and variables."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import pathlib
import re
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from zsljax.data.files.images import Preprocessing
from zsljax.encoders.efficientnet import EfficientNetLite
from zsljax.encoders.layouts import converted, filled, recognise
from zsljax.encoders.resnet import ResNet
from zsljax.encoders.tensor_files import read_tensors
from zsljax.errors import ZsljaxError

# The classifier, and a count that only training uses.
_IGNORED = re.compile(r"_?fc\..*|.*\.num_batches_tracked")
_RESNETS = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101"}


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
  """A network for images, with weights.

  Attributes:
    name: of it.
    module: gives features ``[B, D]`` and ``[B, R, D]`` of images ``[B, S, S, 3]``.
    variables: its parameters and statistics, in float32.
    preprocessing: that it was trained for.
    stride: pixels from one region to the next; S is a multiple of it.
  """

  name: str
  module: nn.Module
  variables: Mapping[str, Any]
  preprocessing: Preprocessing
  stride: int


def read_network(path: pathlib.Path, activation: str | None = None) -> Network:
  """The network that the names and shapes of a file's tensors tell.

  Args:
    path: see ``read_tensors``.
    activation: of CLIP, see ``recognise``.

  Raises:
    ZsljaxError: the file is not readable, or its weights are of no known network, or
      not all of one.
  """
  everything = read_tensors(path)
  tensors = {x: t for x, t in everything.items() if not _IGNORED.fullmatch(x)}
  blocks = _residual_blocks(tensors)
  if blocks:
    name = _RESNETS.get(blocks, f"resnet{'_'.join(map(str, blocks))}")
    width = len(tensors.get("layer1.0.conv1.weight", range(64)))
    module, stride = ResNet(blocks, width), 2 ** (len(blocks) + 1)
    preprocessing = Preprocessing(224, 224 / 256)
  elif "_conv_stem.weight" in tensors:
    name, module, stride = "efficientnet_lite2", EfficientNetLite(), 32
    grey = {"mean": (127 / 255,) * 3, "deviation": (128 / 255,) * 3}
    preprocessing = Preprocessing(260, 260 / 292, "before", "bicubic", **grey)
  else:
    tower = recognise(everything, f"{path}", activation).vision
    if tower is None:
      raise ZsljaxError(f"{path}: found a text tower alone, expected one of images")
    blocks, stride = tower.module.transformer, tower.module.patch
    name = f"{tower.family.lower()}_{blocks.width}x{blocks.depth}_p{stride}"
    return Network(name, tower.module, tower.variables, tower.preprocessing, stride)
  own, names = {}, {}
  for found, tensor in tensors.items():
    for key, part in converted(found.replace("running_", ""), tensor):
      key = found if key in own else key  # By two names: one is too many.
      own[key], names[key] = part, found
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
  expected = f"all weights of a {name}"
  variables = filled(module, (images,), own, names, f"{path}", expected)
  return Network(name, module, variables, preprocessing, stride)


def _residual_blocks(tensors: Mapping[str, Any]) -> tuple[int, ...]:
  """The number of blocks of each stage of a residual network, by its names."""
  found = (re.match(r"layer(\d+)\.\d+\.conv1\.", name) for name in tensors)
  stages = [int(match[1]) for match in found if match]
  return tuple(stages.count(stage + 1) for stage in range(max(stages, default=0)))
