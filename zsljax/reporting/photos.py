"""Photographs on disk: found by an image's name, and cut as an encoder saw them."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from zsljax.data.files.images import read_image
from zsljax.errors import require


def find_photos(root: pathlib.Path, names: Sequence[str]) -> list[pathlib.Path | None]:
  """Finds the photograph of each image below ``root``; None where there is none.

  A name is tried as it stands, then without its first folders, one after another (names
  often begin with folders of another machine), then both with upper and lower case
  taken for the same. A file that fits several names is taken for none of them.

  Raises:
    ZsljaxError: ``root`` is not a folder.
  """
  require(root.is_dir(), f"--images={root}", "no such folder", "that of photographs")
  spelt = [_endings(name) for name in names]
  found = [
    next((root / end for end in ends if os.path.isfile(root / end)), None)
    for ends in spelt
  ]
  if None in found:
    files = {
      path.relative_to(root).as_posix().lower(): path
      for path in root.rglob("*")
      if path.is_file()
    }
    found = [
      path or next((files[e.lower()] for e in ends if e.lower() in files), None)
      for path, ends in zip(found, spelt, strict=True)
    ]
  claims = collections.Counter(path for path, _ in set(zip(found, names, strict=True)))
  return [path if claims[path] == 1 else None for path in found]


def read_photo(
  path: pathlib.Path, encoder: Mapping[str, Any] | None, shape: tuple[int, int]
) -> np.ndarray:
  """Reads a photograph as the encoder saw it, ``[H, W, 3]`` bytes.

  Args:
    path: see ``read_image``.
    encoder: of the dataset. Of the photograph is shown what its ``preprocessing`` cuts
      from the centre; None stands for features of unknown origin: the whole photograph
      is stretched.
    shape: H and W.

  Raises:
    ZsljaxError: the file cannot be read as an image.
  """
  photo, bicubic = read_image(path), Image.Resampling.BICUBIC
  seen = encoder and encoder["preprocessing"]
  if isinstance(seen, str):  # Of version 0.1, which always cut alike.
    seen = {"cut": "after", "share": 224 / 256}
  if not seen or seen["cut"] == "never":
    return np.asarray(photo.resize(shape[::-1], bicubic))
  bleed = (1 - seen["share"]) / 2
  return np.asarray(ImageOps.fit(photo, shape[::-1], bicubic, bleed=bleed))


def _endings(name: str) -> list[str]:
  """A name as it stands, and without its first folders, one after another."""
  parts = [
    part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")
  ]
  return ["/".join(parts[i:]) for i in range(len(parts))]
