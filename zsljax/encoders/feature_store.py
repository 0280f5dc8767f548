"""Features of a folder of images in one HDF5 file, made in parts.

Until all images are encoded, their features lie in the folder ``DEST.parts``: files of
128 images or fewer, and ``request.json`` with everything that decides them. A file gets
its name when all of it is written, so a run that continues finds complete ones alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from typing import Any

import h5py
import numpy as np

from zsljax.data.files.images import list_images
from zsljax.encoders.encoder import Encoder, encode_images, require_same
from zsljax.errors import ZsljaxError, counted, in_bytes, require
from zsljax.io.checks import readable
from zsljax.io.files import locked, replacing, write_json
from zsljax.io.json_files import OBJECT, read_json
from zsljax.io.progress import step_bar

_ENDINGS = (".h5", ".hdf5")
_PART = 128  # Images.


@dataclasses.dataclass(frozen=True)
class Written:
  """The result of ``encode_folder``.

  Attributes:
    shape: of the features.
    left_out: names of images that could not be decoded.
    encoded: number of images that were encoded now; others were there before.
  """

  shape: tuple[int, ...]
  left_out: list[str]
  encoded: int


def encode_folder(
  encoder: Encoder,
  folder: pathlib.Path,
  dest: pathlib.Path,
  batch_size: int = 32,
  skip_bad: bool = False,
  names: Sequence[str] | None = None,
) -> Written:
  """Writes features of images below a folder into an HDF5 file.

  It has ``features`` [N, D] or [N, R, D], ``image_files`` [N], the images' names
  relative to the folder, and ``left_out``, the names of those that cannot be decoded;
  its attribute ``encoder`` is the encoder's description as JSON. Interrupted and called
  again it continues, and ends with the same features.

  Args:
    encoder: makes the features.
    folder: of the images.
    dest: ``.h5`` or ``.hdf5``.
    batch_size: images at a time.
    skip_bad: leaves out images that cannot be decoded.
    names: of the images, relative to the folder; None takes all that ``list_images``
      finds.

  Raises:
    ZsljaxError: images cannot be decoded and ``skip_bad`` is not set, or features of
      another kind are there already.
  """
  folder, dest = folder.expanduser(), dest.expanduser()
  require(batch_size >= 1, "batch_size", batch_size, "1 or more")
  ending = dest.suffix.lower()
  require(ending in _ENDINGS, str(dest), f"ending {ending!r}", " or ".join(_ENDINGS))
  names = list_images(folder) if names is None else sorted(names)
  request = {**encoder.description, "images": _summary(names)}
  scratch = dest.with_name(f"{dest.name}.parts")
  if dest.exists():
    written = _complete(dest, request, skip_bad)
    shutil.rmtree(scratch, ignore_errors=True)
    return written
  parts = {
    scratch / f"part-{first // _PART:05d}.npz": first
    for first in range(0, len(names), _PART)
  }
  encoded = 0
  with (
    locked(scratch / "lock", f"{dest}: another process is writing there"),
    step_bar(len(names), "encoding", unit="image") as bar,
  ):
    for draft in scratch.glob("*.draft"):  # Of a process that was killed.
      draft.unlink()
    if any(scratch.glob("part-*")):
      before = read_json(scratch / "request.json", OBJECT, "a request of `encode`")
      require_same(before, request, f"{scratch}", "or another file")
    write_json(scratch / "request.json", request)
    for path, first in parts.items():
      some = names[first : first + _PART]
      there = path.exists() and (skip_bad or not _read(path, "left_out").size)
      if not there:
        features, _, bad = encode_images(encoder, folder, some, skip_bad, batch_size)
        _write_part(path, features, bad)
        encoded += len(some)
      bar.update(len(some))
    left_out = _join(list(parts), dest, encoder, names)
    shutil.rmtree(scratch)
  shape = (len(names) - len(left_out), *encoder.feature_shape)
  return Written(shape, left_out, encoded)


def _summary(names: Sequence[str]) -> str:
  """The number of images and a hash of their names."""
  digest = hashlib.sha256(repr(list(names)).encode()).hexdigest()
  return f"{len(names)} with names of SHA-256 {digest[:16]}"


def _write_part(
  path: pathlib.Path, features: np.ndarray, left_out: Sequence[str]
) -> None:
  """Writes features of some images, and the names of those that have none."""
  with replacing(path) as draft, draft.open("wb") as file:
    np.savez(file, features=features, left_out=np.array(left_out, str))


def _read(part: pathlib.Path, field: str) -> np.ndarray:
  """One array of a part."""
  with readable(part), np.load(part, allow_pickle=False) as arrays:
    return arrays[field]


def _join(
  parts: Sequence[pathlib.Path],
  dest: pathlib.Path,
  encoder: Encoder,
  names: Sequence[str],
) -> list[str]:
  """Makes the parts the file ``dest``, and returns the images that are left out."""
  left_out = np.concatenate([_read(part, "left_out") for part in parts]).tolist()
  bad = set(left_out)
  image_files = [name for name in names if name not in bad]
  require(len(image_files) > 0, "images", "none that can be decoded", "at least one")
  shape = (len(image_files), *encoder.feature_shape)
  size, free = sum(map(os.path.getsize, parts)), shutil.disk_usage(dest.parent).free
  require(size < free, str(dest), f"room for {in_bytes(free)}", in_bytes(size))
  joined = parts[0].with_name("joined.h5")
  with replacing(joined) as draft, h5py.File(draft, "w") as file:
    features = file.create_dataset("features", shape, np.float32)
    end = 0
    for part in parts:
      some = _read(part, "features")
      features[end : end + len(some)] = some
      end += len(some)
    for field, texts in (("image_files", image_files), ("left_out", left_out)):
      file.create_dataset(field, data=texts, dtype=h5py.string_dtype())
    file.attrs["encoder"] = json.dumps(encoder.description)
  os.replace(joined, dest)
  return left_out


def _complete(
  dest: pathlib.Path, request: Mapping[str, Any], skip_bad: bool
) -> Written:
  """The features in ``dest``, which must be those requested."""
  try:
    with h5py.File(dest) as file:
      left_out = file["left_out"].asstr()[()].tolist()
      there = json.loads(file.attrs["encoder"]) | {
        "images": _summary(sorted([*file["image_files"].asstr(), *left_out])),
      }
      shape = file["features"].shape
  except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
    raise ZsljaxError(
      f"{dest}: found another kind of file, expected these features, or a free name"
    ) from error
  require_same(there, request, f"{dest}", "or another file")
  require(
    skip_bad or not left_out,
    str(dest),
    f"{counted(len(left_out), 'image')} left out, as not decodable (first "
    f"{left_out[:1]})",
    "none, or --skip_bad",
  )
  return Written(shape, left_out, 0)


def described(encoder: Encoder, dest: pathlib.Path, written: Written) -> str:
  """Lines on what was written, and what was left out."""
  (count, *shape), about = written.shape, encoder.description
  told = (
    f"{dest}: {about['output']} features of {about['network']} for "
    f"{counted(count, 'image')}, "
    f"{' x '.join(map(str, shape))}"
  )
  left_out = [f"left out, as it cannot be decoded: {name}" for name in written.left_out]
  return "\n".join([told, *left_out])
