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
import math
import os
import pathlib
import shutil
from typing import Any

import h5py
import numpy as np

from zsljax.data.files.images import list_images, not_decodable, refuse_bad
from zsljax.encoders.encoder import Encoder, encode_images
from zsljax.errors import ZsljaxError, in_bytes, require
from zsljax.io.files import locked, replacing, write_json
from zsljax.io.progress import step_bar

STORAGES = ("float32", "float16")
_ENDINGS = (".h5", ".hdf5")
# Limits of a part: images, and bytes of their features.
_PART, _PART_BYTES = 128, 2**26


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
  storage: str = "float32",
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
    storage: ``float32`` or ``float16``.
    skip_bad: leaves out images that cannot be decoded.
    names: of the images, relative to the folder; None takes all that ``list_images``
      finds.

  Raises:
    ZsljaxError: images cannot be decoded and ``skip_bad`` is not set, features do not
      fit into the precision, or features of another kind are there already.
  """
  folder, dest = folder.expanduser(), dest.expanduser()
  require(batch_size >= 1, "batch_size", batch_size, "1 or more")
  require(storage in STORAGES, "storage", repr(storage), " or ".join(STORAGES))
  ending = dest.suffix.lower()
  require(ending in _ENDINGS, str(dest), f"ending {ending!r}", " or ".join(_ENDINGS))
  names = list_images(folder) if names is None else sorted(names)
  request = {**encoder.description, "storage": storage, "images": _summary(names)}
  scratch = dest.with_name(f"{dest.name}.parts")
  if dest.exists():
    written = _complete(dest, request, skip_bad)
    shutil.rmtree(scratch, ignore_errors=True)
    return written
  image_bytes = np.dtype(storage).itemsize * math.prod(encoder.feature_shape)
  step = min(_PART, max(1, _PART_BYTES // image_bytes))
  parts = {
    scratch / f"part-{first // step:05d}.npz": first
    for first in range(0, len(names), step)
  }
  encoded = 0
  with (
    locked(scratch / "lock", f"{dest}: another process is writing there"),
    step_bar(len(names), "encoding", unit="image") as bar,
  ):
    for draft in scratch.glob("*.draft"):  # Of a process that was killed.
      draft.unlink()
    if any(scratch.glob("part-*")):
      before = json.loads((scratch / "request.json").read_text())
      _require_same(scratch, before, request)
    write_json(scratch / "request.json", request)
    for path, first in parts.items():
      some = names[first : first + step]
      there = path.exists() and (skip_bad or not _read(path, "left_out").size)
      if not there:
        features, _, bad = encode_images(encoder, folder, some, True, batch_size)
        if bad and not skip_bad:
          refuse_bad(folder, not_decodable(folder, names[first:]))
        _write_part(path, features, bad, storage)
        encoded += len(some)
      bar.update(len(some))
    left_out = _join(list(parts), dest, encoder, names, storage)
    shutil.rmtree(scratch)
  shape = (len(names) - len(left_out), *encoder.feature_shape)
  return Written(shape, left_out, encoded)


def _summary(names: Sequence[str]) -> str:
  """The number of images and a hash of their names."""
  digest = hashlib.sha256(repr(list(names)).encode()).hexdigest()
  return f"{len(names)} with names of SHA-256 {digest[:16]}"


def _require_same(
  path: pathlib.Path, there: Mapping[str, Any], here: Mapping[str, Any]
) -> None:
  """Raises if features at ``path`` are others than those requested."""
  differing = [
    f"{field} {there.get(field)} there, {value} here"
    for field, value in here.items()
    if there.get(field) != value
  ]
  require(
    not differing,
    str(path),
    f"other features ({'; '.join(differing)})",
    "those requested: finish them with their own settings, or delete it",
  )


def _write_part(
  path: pathlib.Path, features: np.ndarray, left_out: Sequence[str], storage: str
) -> None:
  """Writes features of some images, and the names of those that have none.

  Raises:
    ZsljaxError: features are too large for the precision, or the disk is full.
  """
  with np.errstate(over="ignore"):
    stored = features.astype(storage)
  require(
    np.isfinite(stored).all(),
    "storage",
    f"{storage}, which ends before {np.abs(features).max(initial=0):.3g}, a feature",
    "float32",
  )
  with replacing(path) as draft, draft.open("wb") as file:
    np.savez(file, features=stored, left_out=np.array(left_out, str))


def _read(part: pathlib.Path, field: str) -> np.ndarray:
  """One array of a part."""
  with np.load(part) as arrays:
    return arrays[field]


def _join(
  parts: Sequence[pathlib.Path],
  dest: pathlib.Path,
  encoder: Encoder,
  names: Sequence[str],
  storage: str,
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
    features = file.create_dataset("features", shape, storage)
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
        "storage": str(file["features"].dtype),
        "images": _summary(sorted([*file["image_files"].asstr(), *left_out])),
      }
      shape = file["features"].shape
  except (OSError, KeyError, TypeError, ValueError) as error:
    raise ZsljaxError(
      f"{dest}: found another kind of file, expected these features, or a free name"
    ) from error
  _require_same(dest, there, request)
  require(
    skip_bad or not left_out,
    str(dest),
    f"{len(left_out)} images left out, which cannot be decoded (first {left_out[:1]})",
    "none, or --skip_bad",
  )
  return Written(shape, left_out, 0)


def described(
  encoder: Encoder, dest: pathlib.Path, written: Written, storage: str, seconds: float
) -> str:
  """Lines on what was written, how fast, and what was left out."""
  (count, *shape), about = written.shape, encoder.description
  speed = "was complete already"
  if written.encoded:
    speed = f"{seconds:.1f} s, {written.encoded / seconds:.1f} images/s"
  size = in_bytes(dest.expanduser().stat().st_size)
  lines = [
    f"{dest}: {about['output']} features of {about['network']} for {count} images, "
    f"{' x '.join(map(str, shape))} in {storage} ({size}); {speed}"
  ]
  if written.left_out:
    lines.append(f"left out, as they cannot be decoded: {len(written.left_out)}")
  return "\n".join(lines + [f"  {name}" for name in written.left_out])
