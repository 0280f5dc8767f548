"""Image files as the squares of grey values that a pretrained network expects."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
import concurrent.futures
import dataclasses
import json
import os
import pathlib
from typing import Any
import warnings

import numpy as np
import PIL.Image
import PIL.ImageOps

from zsljax.errors import ZsljaxError, require

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# A longer side beyond this many shorter ones is no photograph.
_LONGEST = 50
# Of ImageNet's training images, of values in [0, 1].
IMAGENET = {"mean": (0.485, 0.456, 0.406), "deviation": (0.229, 0.224, 0.225)}


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """The way from an image to the input of a network.

  Attributes:
    size: S, side of the square in pixels.
    share: of the shorter side, that the square in the centre has.
    cut: ``after`` the shorter side was resized to ``S / share`` (rounded down), as
      torchvision does; ``before`` the square is resized; ``never``: the whole image is
      resized to a square.
    resampling: ``bilinear`` or ``bicubic``, Pillow's, which average where they shrink.
    mean: taken off values in [0, 1], by channel.
    deviation: divided by.
  """

  size: int
  share: float = 1.0
  cut: str = "after"
  resampling: str = "bilinear"
  mean: tuple[float, ...] = IMAGENET["mean"]
  deviation: tuple[float, ...] = IMAGENET["deviation"]

  def described(self) -> dict[str, Any]:
    """The fields as JSON has them; different where the same file gives other pixels."""
    return {"by": "pillow"} | json.loads(json.dumps(dataclasses.asdict(self)))

  def __call__(self, image: PIL.Image.Image) -> np.ndarray:
    """The square ``[S, S, 3]`` of an image, uint8, before ``mean`` is taken off."""
    size, method = (self.size, self.size), PIL.Image.Resampling[self.resampling.upper()]
    shorter = min(image.size)
    if self.cut == "before":
      image = _centre(image, int(shorter * self.share)).resize(size, method)
    elif self.cut == "after":
      side = int(self.size / self.share)
      sides = [length * side // shorter for length in image.size]
      image = _centre(image.resize((sides[0], sides[1]), method), self.size)
    else:
      image = image.resize(size, method)
    return np.asarray(image)


def read_image(path: pathlib.Path) -> PIL.Image.Image:
  """An image in RGB, upright as its EXIF data says.

  Grey images, palettes, CMYK and 16 bits become RGB of 8 bits, transparency is dropped,
  of an animation the first frame is taken.

  Raises:
    ZsljaxError: the file cannot be decoded, or is too long to be a photograph.
  """
  try:
    with PIL.Image.open(path) as image:
      image = PIL.ImageOps.exif_transpose(image)
      if image.mode.startswith("I"):  # Pillow would cut off what is above 255.
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
      image = image.convert("RGB")
  except Exception as error:  # Decoders and readers of EXIF have each their own.
    raise ZsljaxError(
      f"{path}: not readable as an image ({error}), expected a photograph"
    ) from error
  longest = f"a longer side of at most {_LONGEST} shorter ones"
  sides = f"{image.width} x {image.height} pixels"
  require(max(image.size) <= _LONGEST * min(image.size), str(path), sides, longest)
  return image


def _centre(image: PIL.Image.Image, side: int) -> PIL.Image.Image:
  """The square in the centre; half a pixel too many goes to the even side."""
  left, top = (round((length - side) / 2) for length in image.size)
  return image.crop((left, top, left + side, top + side))


def list_images(folder: pathlib.Path) -> list[str]:
  """Names of all images below a folder, relative to it, with ``/``, sorted.

  Files and folders whose name begins with a dot are left out; linked folders are
  entered.

  Raises:
    ZsljaxError: there is no such folder or no image in it.
  """
  require(
    folder.is_dir(),
    str(folder),
    "no such folder" if not folder.exists() else "a file",
    f"a folder with images ({' '.join(ENDINGS)})",
  )
  names = [path.relative_to(folder) for path in _files_below(folder)]
  found = sorted(
    name.as_posix()
    for name in names
    if name.suffix.lower() in ENDINGS
    and not any(part.startswith(".") for part in name.parts)
  )
  # HDF5 and JSON want texts; other bytes became surrogates.
  strange = [n for n in found if n != n.encode("utf-8", "replace").decode()]
  require(
    not strange, str(folder), f"a name that is no text, {strange[:1]}", "names in UTF-8"
  )
  require(
    len(found) > 0, str(folder), "no image", f"files that end in {' '.join(ENDINGS)}"
  )
  return found


def _files_below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  entered = set()
  root = os.path.realpath(folder)
  for here, folders, files in os.walk(folder, followlinks=True):
    place = os.path.realpath(here)
    if os.path.commonpath([root, place]) != root:
      warnings.warn(f"{here} is a link to {place}, outside of {folder}", stacklevel=2)
    if place in entered:  # A link to where it lies.
      folders.clear()
      continue
    entered.add(place)
    yield from (pathlib.Path(here, file) for file in files)


def image_batches(
  folder: pathlib.Path,
  names: Sequence[str],
  preprocessing: Preprocessing,
  batch_size: int,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Images in the order of ``names``, decoded ahead by all cores.

  Args:
    folder: of the images.
    names: relative to it.
    preprocessing: gives S.
    batch_size: B.

  Yields:
    Images ``[B, S, S, 3]`` in uint8, and a mask ``[B]`` that is true for images: those
    that cannot be decoded, and the rest of the last batch, are zeros.
  """
  size = preprocessing.size

  def load(name: str) -> np.ndarray | None:
    try:
      return preprocessing(read_image(folder / name))
    except ZsljaxError:
      return None

  parts = [names[i : i + batch_size] for i in range(0, len(names), batch_size)]
  # Threads suffice: Pillow decodes and resizes outside of Python's lock.
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    ahead = collections.deque(pool.map(load, part) for part in parts[:2])
    for i in range(len(parts)):
      ahead.extend(pool.map(load, part) for part in parts[i + 2 : i + 3])
      images = np.zeros((batch_size, size, size, 3), np.uint8)
      good = np.zeros(batch_size, bool)
      for row, square in enumerate(ahead.popleft()):
        if square is not None:
          images[row], good[row] = square, True
      yield images, good
