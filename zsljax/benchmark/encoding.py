"""Rates of decoding images, of an encoder's network alone, and of both together."""

from __future__ import annotations

from collections.abc import Callable
import itertools
import pathlib
import statistics
import time
from typing import Any

from zsljax.data.files.images import image_batches, list_images
from zsljax.encoders import encode_images
from zsljax.encoders.encoder import Encoder
from zsljax.errors import require

_ROUNDS = 3


def run(
  encoder: Encoder, folder: pathlib.Path, batch_size: int, number: int
) -> dict[str, Any]:
  """Times the encoding of images, by parts, in turns.

  Args:
    encoder: whose programs are compiled first.
    folder: of the images, which are taken again where they are fewer than ``number``.
    batch_size: images at a time.
    number: of images.

  Returns:
    Images a second, the medians of three rounds.

  Raises:
    ZsljaxError: an image cannot be decoded.
  """
  for field, value in (("batch_size", batch_size), ("number", number)):
    require(value >= 1, field, value, "1 or more")
  names = list(itertools.islice(itertools.cycle(list_images(folder)), number))

  def batches(names):
    return image_batches(folder, names, encoder.network.preprocessing, batch_size)

  ((images, _),) = batches(names[:batch_size])
  encoder.encode(images)

  def decoding():
    for _ in batches(names):
      pass

  def network():
    for _ in range(0, number, batch_size):
      encoder.encode(images)

  parts: dict[str, Callable] = {
    "decoding": decoding,
    "network": network,
    "both": lambda: encode_images(encoder, folder, names, batch_size=batch_size),
  }
  seconds: dict[str, list[float]] = {name: [] for name in parts}
  for _ in range(_ROUNDS):
    for name, call in parts.items():
      begin = time.perf_counter()
      call()
      seconds[name].append(time.perf_counter() - begin)
  rates = {name: number / statistics.median(times) for name, times in seconds.items()}
  rates["network"] *= -(-number // batch_size) * batch_size / number  # Whole batches.
  return {
    "network": encoder.description["network"],
    "output": encoder.description["output"],
    "precision": encoder.description["precision"],
    "batch_size": batch_size,
    "images": number,
    **{f"{name}_images_per_second": rate for name, rate in rates.items()},
  }
