"""Features of a folder of images in one HDF5 file, resumable, and the verb ``encode``.

Until all images are encoded their features lie in ``DEST.partial``: a line of JSON that
says what they are, and a record for each image in turn. It only grows, so that what a
kill cuts off is the last record.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import io
import itertools
import json
import os
import pathlib
import time
from typing import Any

import h5py
import numpy as np

from zsljax.data.files.images import list_images
from zsljax.encoders.encoder import Encoder, encoded_batches, load_encoder
from zsljax.errors import ZsljaxError, in_bytes, require
from zsljax.io.files import explained, locked
from zsljax.io.progress import step_bar

STORAGES = ("float32", "float16")
_ENDINGS = (".h5", ".hdf5")
_GOOD, _BAD = 1, 2
_HEADER_LIMIT = 2**16
_COPIED_BYTES = 2**26


@dataclasses.dataclass(frozen=True)
class Written:
  """What ``encode_folder`` wrote.

  Attributes:
    shape: of the features.
    left_out: names of images that could not be decoded.
    encoded: images that were encoded now; those that were there before are not counted.
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
      fit into the precision, or what is there already is something else.
  """
  folder, dest = folder.expanduser(), dest.expanduser()
  require(batch_size >= 1, "batch_size", batch_size, "1 or more")
  require(storage in STORAGES, "storage", repr(storage), " or ".join(STORAGES))
  ending = dest.suffix.lower()
  require(ending in _ENDINGS, str(dest), f"ending {ending!r}", " or ".join(_ENDINGS))
  names = list_images(folder) if names is None else sorted(names)
  names_sha256 = hashlib.sha256(repr(names).encode()).hexdigest()
  if dest.exists():
    return _found(dest, encoder, names, storage, skip_bad)
  partial = _Partial(
    path=dest.with_name(f"{dest.name}.partial"),
    request={
      **encoder.description,
      "storage": storage,
      "images": f"{len(names)} with names of SHA-256 {names_sha256[:16]}",
    },
    record=np.dtype([("state", "u1"), ("features", storage, encoder.feature_shape)]),
  )
  with locked(partial.path, f"{partial.path}: another process is writing there"):
    start = partial.resume(skip_bad) // batch_size * batch_size
    with (
      step_bar(len(names), "encoding", start, "image") as bar,
      partial.path.open("r+b", buffering=0) as file,
    ):
      partial.rewind(file, start)
      for features, good in encoded_batches(
        encoder, folder, names[start:], skip_bad, batch_size
      ):
        partial.append(file, features, good)
        bar.update(len(good))
    left_out = _finish(partial, dest, encoder, names)
  shape = (len(names) - len(left_out), *encoder.feature_shape)
  return Written(shape, left_out, len(names) - start)


def encode_command(args: argparse.Namespace) -> None:
  """Encodes a folder, and says what was written and how fast."""
  encoder = load_encoder(args.network, args.weights, args.size, args.output)
  began = time.perf_counter()
  written = encode_folder(
    encoder, args.images, args.dest, args.batch_size, args.storage, args.skip_bad
  )
  seconds = time.perf_counter() - began
  count, *shape = written.shape
  size = args.dest.expanduser().stat().st_size
  speed = (
    f"{seconds:.1f} s, {written.encoded / seconds:.1f} images/s"
    if written.encoded
    else "was complete already"
  )
  print(
    f"{args.dest}: {args.output} features of {args.network} for {count} images, "
    f"{' x '.join(map(str, shape))} in {args.storage} ({in_bytes(size)}); {speed}"
  )
  if written.left_out:
    print(f"left out, as they cannot be decoded: {len(written.left_out)}")
    print("\n".join(f"  {name}" for name in written.left_out))


@dataclasses.dataclass(frozen=True)
class _Partial:
  """The file that grows.

  Attributes:
    path: of the file.
    request: what is computed, its first line.
    record: type of what follows: ``state``, whether the image could be decoded, and
      its ``features``.
  """

  path: pathlib.Path
  request: Mapping[str, Any]
  record: np.dtype

  @property
  def header(self) -> bytes:
    """The first line."""
    return json.dumps(self.request).encode() + b"\n"

  def resume(self, skip_bad: bool) -> int:
    """How many records there are that stay; without ``skip_bad``, before a bad one.

    Raises:
      ZsljaxError: the file is something else.
    """
    with self.path.open("rb") as file:
      there = file.readline(_HEADER_LIMIT)
    if not self.header.startswith(there):  # It may be cut off.
      self._refuse(there)
    states = self.records()["state"]
    bad = np.flatnonzero(states != _GOOD)
    return len(states) if skip_bad or not len(bad) else int(bad[0])

  def records(self) -> np.ndarray:
    """All whole records, read when asked."""
    size = self.path.stat().st_size - len(self.header)
    count = max(0, size // self.record.itemsize)
    if not count:
      return np.empty(0, self.record)
    return np.memmap(self.path, self.record, "r", len(self.header), count)

  def rewind(self, file: io.FileIO, start: int) -> None:
    """Keeps ``start`` records of the file, open for writing, and goes to its end."""
    with explained(self.path):
      file.write(self.header)
      file.truncate(len(self.header) + start * self.record.itemsize)
      file.seek(0, os.SEEK_END)

  def append(self, file: io.FileIO, features: np.ndarray, good: np.ndarray) -> None:
    """Adds a record for each image.

    Raises:
      ZsljaxError: features are too large for the precision, or the disk is full.
    """
    records = np.empty(len(good), self.record)
    records["state"] = np.where(good, _GOOD, _BAD)
    with np.errstate(over="ignore"):
      records["features"] = features
    require(
      np.isfinite(records["features"]).all(),
      "storage",
      f"{self.request['storage']}, which ends before {np.abs(features).max():.3g}, a "
      "feature here",
      "float32",
    )
    content = memoryview(records.tobytes())
    with explained(self.path):
      while content:
        content = content[file.write(content) :]

  def _refuse(self, there: bytes) -> None:
    try:
      other = json.loads(there)
      differences = [
        f"{field} {other.get(field)} there, {value} here"
        for field, value in self.request.items()
        if other.get(field) != value
      ]
    except (ValueError, AttributeError):
      differences = ["another kind of file"]
    raise ZsljaxError(
      f"{self.path}: found the beginning of something else ({'; '.join(differences)}), "
      "expected one of the same features: finish it with its own settings, or delete it"
    )


def _finish(
  partial: _Partial, dest: pathlib.Path, encoder: Encoder, names: Sequence[str]
) -> list[str]:
  """Makes the records the file ``dest``, at once, and returns who is left out."""
  records = partial.records()
  good = records["state"] == _GOOD
  image_files = list(itertools.compress(names, good))
  left_out = list(itertools.compress(names, ~good))
  require(len(image_files) > 0, "images", "none that can be decoded", "at least one")
  shape, dtype = partial.record["features"].shape, partial.record["features"].base
  draft = dest.with_name(f"{dest.name}.draft")
  step = max(1, _COPIED_BYTES // partial.record.itemsize)
  try:
    with explained(draft):
      with h5py.File(draft, "w") as file:
        features = file.create_dataset("features", (len(image_files), *shape), dtype)
        end = 0
        for first in range(0, len(names), step):
          some = slice(first, first + step)
          part = records["features"][some][good[some]]
          features[end : end + len(part)] = part
          end += len(part)
        for field, texts in (("image_files", image_files), ("left_out", left_out)):
          file.create_dataset(field, data=texts, dtype=h5py.string_dtype())
        file.attrs["encoder"] = json.dumps(encoder.description)
      with draft.open("rb") as file:
        os.fsync(file.fileno())
      os.replace(draft, dest)
  finally:
    draft.unlink(missing_ok=True)
  partial.path.unlink()
  return left_out


def _found(
  dest: pathlib.Path,
  encoder: Encoder,
  names: Sequence[str],
  storage: str,
  skip_bad: bool,
) -> Written:
  """What is in ``dest`` already, which must be what would be written."""
  try:
    with h5py.File(dest) as file:
      left_out = file["left_out"].asstr()[()].tolist()
      there = json.loads(file.attrs["encoder"]) | {
        "storage": str(file["features"].dtype),
        "images": sorted([*file["image_files"].asstr(), *left_out]),
      }
      shape = file["features"].shape
  except (OSError, KeyError, TypeError, ValueError) as error:
    raise ZsljaxError(
      f"{dest}: found another kind of file, expected these features, or a name that is "
      "free"
    ) from error
  here = {**encoder.description, "storage": storage, "images": names}
  differing = [field for field in here if there.get(field) != here[field]]
  require(
    not differing,
    str(dest),
    f"features with other {', '.join(differing)}",
    "these features; delete the file to encode the images again",
  )
  require(
    skip_bad or not left_out,
    str(dest),
    f"{len(left_out)} images left out, which cannot be decoded (first {left_out[:1]})",
    "none, or --skip_bad",
  )
  return Written(shape, left_out, 0)
