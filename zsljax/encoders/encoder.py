"""A pretrained network that turns images into features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools
import pathlib
from typing import Any

import jax
import numpy as np

from zsljax.data.feature_set import sha256_of
from zsljax.data.files.images import (
  PREPROCESSING,
  image_batches,
  list_images,
  not_decodable,
  refuse_bad,
)
from zsljax.devices.mesh import make_mesh, over_batch, replicated
from zsljax.encoders.resnet import NETWORKS, ResNet
from zsljax.encoders.weights import read_weights
from zsljax.errors import ZsljaxError, did_you_mean, require

OUTPUTS = ("pooled", "regions")


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
  """A network with weights, on all devices or some of them.

  Attributes:
    module: the network.
    variables: its parameters and statistics, on every device of the mesh.
    mesh: the devices, which share a batch.
    description: everything that decides the features, stored with them: ``network``,
      ``weights`` (the file's name), ``weights_sha256``, ``size``, ``output``,
      ``preprocessing``.
  """

  module: ResNet
  variables: Mapping[str, Any]
  mesh: jax.sharding.Mesh
  description: Mapping[str, Any]

  @property
  def size(self) -> int:
    """S, the side of an image in pixels."""
    return self.description["size"]

  @property
  def feature_shape(self) -> tuple[int, ...]:
    """(D,) of ``pooled``; (R, D) of ``regions``, the rows of the grid in turn."""
    regions = (self.size // self.module.stride) ** 2
    channels = self.module.channels
    pooled = self.description["output"] == "pooled"
    return (channels,) if pooled else (regions, channels)

  def encode(self, images: np.ndarray) -> np.ndarray:
    """Features ``[B, D]`` or ``[B, R, D]`` in float32.

    Each B has a program of its own, compiled at first use.

    Args:
      images: ``[B, S, S, 3]``, as ``image_batches`` makes them.

    Raises:
      ZsljaxError: they have another shape.
    """
    square = (self.size, self.size, 3)
    require(
      images.ndim == 4 and images.shape[1:] == square and len(images) > 0,
      "images",
      f"shape {images.shape}",
      f"[B, {self.size}, {self.size}, 3]",
    )
    devices = self.mesh.shape["data"]
    padding = [(0, -len(images) % devices), (0, 0), (0, 0), (0, 0)]
    padded = np.pad(np.asarray(images, np.float32), padding)
    return np.asarray(self._features(self.variables, padded))[: len(images)]

  @functools.cached_property
  def _features(self):
    """Jitted: features of a batch, split over the devices."""
    everywhere, split = replicated(self.mesh), over_batch(self.mesh)

    def features(variables, images):
      grid: jax.Array = self.module.apply(variables, images)
      regions = grid.reshape(len(grid), -1, grid.shape[-1])
      pooled = self.description["output"] == "pooled"
      return regions.mean(1) if pooled else regions

    return jax.jit(features, in_shardings=(everywhere, split), out_shardings=split)


def load_encoder(
  network: str,
  weights: pathlib.Path,
  size: int = 224,
  output: str = "pooled",
  devices: int = -1,
) -> Encoder:
  """A network with the weights of a local file.

  Args:
    network: ``resnet50`` or ``resnet101``.
    weights: torchvision's or timm's, see ``zsljax.encoders.tensor_files.read_tensors``.
    size: side of an image in pixels, a multiple of 32.
    output: ``pooled`` or ``regions``.
    devices: how many share a batch; -1 takes all.

  Raises:
    ZsljaxError: the file is not readable or has another network's weights, or an
      argument is wrong.
  """
  named = ("network", network, NETWORKS), ("output", output, OUTPUTS)
  for field, value, known in named:
    if value not in known:
      raise ZsljaxError(f"{field}: unknown {value!r}. {did_you_mean(value, known)}")
  stride = NETWORKS[network].stride
  fits = size > 0 and size % stride == 0
  require(fits, "size", size, f"a multiple of {stride} pixels")
  weights = weights.expanduser()
  mesh = make_mesh(devices)
  return Encoder(
    module=NETWORKS[network],
    variables=jax.device_put(read_weights(weights, network), replicated(mesh)),
    mesh=mesh,
    description={
      "network": network,
      "weights": weights.name,
      "weights_sha256": sha256_of(weights),
      "size": size,
      "output": output,
      "preprocessing": PREPROCESSING,
    },
  )


def check(description: Mapping[str, Any], weights: pathlib.Path) -> None:
  """Raises unless ``weights`` make features that compare with those described.

  Args:
    description: of the encoder that made some features.
    weights: a local file.

  Raises:
    ZsljaxError: its content differs, or images are no longer prepared that way.
  """
  require(
    description["preprocessing"] == PREPROCESSING,
    "encoder: preprocessing",
    f"features by {description['preprocessing']}",
    f"{PREPROCESSING}, that of this version: encode the images again",
  )
  weights = weights.expanduser()
  require(weights.is_file(), str(weights), "no file", "weights of a network")
  found, recorded = sha256_of(weights), description["weights_sha256"]
  require(
    found == recorded,
    str(weights),
    f"SHA-256 {found[:16]}...",
    f"{recorded[:16]}..., that of {description['weights']}, which made the features",
  )


def encode_images(
  encoder: Encoder,
  folder: pathlib.Path,
  names: Sequence[str] | None = None,
  skip_bad: bool = False,
  batch_size: int = 32,
) -> tuple[np.ndarray, list[str], list[str]]:
  """Features of images, in memory.

  Args:
    encoder: makes them.
    folder: of the images.
    names: relative to it; None takes all that ``list_images`` finds.
    skip_bad: leaves out images that cannot be decoded.
    batch_size: images at a time.

  Returns:
    Features ``[N, D]`` or ``[N, R, D]``, the names of their images, and the names of
    those left out.

  Raises:
    ZsljaxError: images cannot be decoded and ``skip_bad`` is not set, or features are
      not finite.
  """
  require(batch_size >= 1, "batch_size", batch_size, "1 or more")
  folder = folder.expanduser()
  names = list_images(folder) if names is None else list(names)
  features, decoded = [np.empty((0, *encoder.feature_shape), np.float32)], []
  for images, good in image_batches(folder, names, encoder.size, batch_size):
    good = good[: len(names) - len(decoded)]
    if not (skip_bad or good.all()):
      refuse_bad(folder, not_decodable(folder, names[len(decoded) :]))
    some = encoder.encode(images)[: len(good)]
    require(
      np.isfinite(some).all(),
      encoder.description["weights"],
      "weights that make features which are not finite",
      "those of a trained network",
    )
    features.append(some[good])
    decoded.extend(good)
  kept = list(itertools.compress(names, decoded))
  left_out = list(itertools.compress(names, np.logical_not(decoded)))
  return np.concatenate(features), kept, left_out
