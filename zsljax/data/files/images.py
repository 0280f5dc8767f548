"""Image files as the batches that a pretrained network expects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import io
import os
import pathlib

import numpy as np
import PIL.Image

from zsljax.data.store import tensorflow
from zsljax.errors import ZsljaxError, require

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# A longer side beyond this many shorter ones is no photograph.
_LONGEST = 50
# Changes whenever the same file would give other pixels.
PREPROCESSING = "torchvision-evaluation-1"
# Of ImageNet's training images in [0, 1], for which the networks are trained.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


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
  for here, folders, files in os.walk(folder, followlinks=True):
    place = os.path.realpath(here)
    if place in entered:  # A link to where it lies.
      folders.clear()
      continue
    entered.add(place)
    yield from (pathlib.Path(here, file) for file in files)


def image_batches(
  folder: pathlib.Path, names: Sequence[str], size: int, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Images in the order of ``names``, ready for a network.

  As torchvision evaluates: the shorter side is resized to ``size * 256 / 224`` (rounded
  down) with a bilinear filter that averages where it shrinks, the centre is cut out,
  and ImageNet's mean is taken off and its deviation divided by. The resized image is
  not rounded to whole grey values. Grey images and palettes become RGB, transparency
  is dropped, of an animated GIF the first frame is taken.

  Args:
    folder: of the images.
    names: relative to it.
    size: S, the side of the square.
    batch_size: B.

  Yields:
    Images ``[B, S, S, 3]`` in float32, and a mask ``[B]`` that is true for images:
    those that cannot be decoded, and the rest of the last batch, are zeros.
  """
  decoded = _decoded(folder, names, size)
  row, image = next(decoded, (len(names), None))
  for first in range(0, len(names), batch_size):
    images = np.zeros((batch_size, size, size, 3), np.float32)
    good = np.zeros(batch_size, bool)
    while row < min(first + batch_size, len(names)):
      images[row - first], good[row - first] = image, True
      row, image = next(decoded, (len(names), None))
    yield images, good


def not_decodable(folder: pathlib.Path, names: Sequence[str]) -> list[str]:
  """Selects the ``names`` of images that cannot be decoded."""
  good = {row for row, _ in _decoded(folder, names, size=1)}
  return [name for row, name in enumerate(names) if row not in good]


def refuse_bad(folder: pathlib.Path, bad: Sequence[str]) -> None:
  """Raises if there are images that cannot be decoded."""
  if bad:
    raise ZsljaxError(
      f"{folder}: found images that cannot be decoded: {len(bad)}, the first is "
      f"{bad[0]}; expected whole files of the kinds {' '.join(ENDINGS)} (with skip_bad "
      "others are left out)"
    )


def _decoded(
  folder: pathlib.Path, names: Sequence[str], size: int
) -> Iterator[tuple[int, np.ndarray]]:
  """Rows of the images that can be decoded, and the images."""
  tf, _ = tensorflow()

  def load(row, path):
    return row, _preprocess(_decode(tf.io.read_file(path)), size)

  paths = tf.constant([str(folder / name) for name in names], tf.string)
  dataset = tf.data.Dataset.from_tensor_slices((np.arange(len(names)), paths))
  dataset = dataset.map(load, tf.data.AUTOTUNE, deterministic=True)
  # Keeps the others, in order; the row tells which are missing.
  dataset = dataset.ignore_errors().prefetch(tf.data.AUTOTUNE)
  yield from dataset.as_numpy_iterator()


def _decode(content):
  """An image [H, W, 3] of whole grey values."""
  tf, _ = tensorflow()
  is_png = tf.strings.substr(content, 0, 4) == b"\x89PNG"
  is_gif = tf.strings.substr(content, 0, 4) == b"GIF8"
  image = tf.case(
    [
      (
        tf.io.is_jpeg(content),
        # The exact transform, as Pillow's.
        lambda: tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"),
      ),
      (is_png | is_gif, lambda: tf.io.decode_image(content, expand_animations=False)),
    ],
    lambda: tf.numpy_function(_with_pillow, [content], tf.uint8),
  )
  image.set_shape([None, None, None])
  grey = tf.shape(image)[2] < 3  # Perhaps with transparency.
  return tf.cond(grey, lambda: tf.repeat(image[..., :1], 3, -1), lambda: image[..., :3])


def _with_pillow(content: bytes) -> np.ndarray:
  """Decodes the first frame of kinds that TensorFlow does not know."""
  with PIL.Image.open(io.BytesIO(content)) as image:
    return np.asarray(image.convert("RGB"))


def _preprocess(image, size: int):
  tf, _ = tensorflow()
  sides = tf.shape(image)[:2]
  shape = tf.debugging.assert_less_equal(
    tf.reduce_max(sides), _LONGEST * tf.reduce_min(sides)
  )
  with tf.control_dependencies([shape]):
    image = tf.identity(image)
  # The longer side in whole numbers, rounded down like the shorter.
  sides = sides * (size * 256 // 224) // tf.reduce_min(sides)
  image = tf.image.resize(image, sides, "bilinear", antialias=True)
  # Half a pixel too many goes to the even side, as Python rounds.
  top, left = tf.unstack(tf.cast(tf.round((sides - size) / 2), tf.int32))
  image = image[top : top + size, left : left + size]
  image = tf.ensure_shape(image, (size, size, 3))
  return (image / 255 - MEAN) / DEVIATION
