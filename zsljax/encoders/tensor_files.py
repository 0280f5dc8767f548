"""Named tensors in .safetensors files and PyTorch checkpoints, read as arrays.

A PyTorch checkpoint has a pickle, and unpickling can call any function by its name.
Here it can call only the functions that a state dict is made of, and each of them is
defined below. PyTorch is not needed.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
import functools
import importlib.util
import io
import math
import pathlib
import pickle
import struct
from typing import Any, BinaryIO
import zipfile

import ml_dtypes
import numpy as np
import safetensors.numpy

from zsljax.errors import ZsljaxError, line_of, require

ENDINGS = (".safetensors", ".pth", ".pt")
_STORAGES = {
  f"{name}Storage": np.dtype(dtype)
  for name, dtype in (
    ("Double", "<f8"), ("Float", "<f4"), ("Half", "<f2"), ("Long", "<i8"),
    ("Int", "<i4"), ("Short", "<i2"), ("Char", "i1"), ("Byte", "u1"),
    ("Bool", bool), ("BFloat16", ml_dtypes.bfloat16),
  )
}  # fmt: skip
# The first bytes of what torch.save wrote before PyTorch 1.6.
_OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_ZIP = b"PK\x03\x04"


def read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The tensors of a file, by name.

  Args:
    path: ``.safetensors``, or ``.pth`` or ``.pt`` as torch.save writes it, before and
      since PyTorch 1.6: a state dict, or a dict that has one as ``state_dict`` or
      ``model``. A prefix ``module.`` that all names share is taken off.

  Raises:
    ZsljaxError: it is missing, damaged or of another kind, or its pickle asks for
      anything but tensors in plain containers.
  """
  ending = path.suffix.lower()
  require(ending in ENDINGS, str(path), f"ending {ending!r}", " or ".join(ENDINGS))
  found = "a folder" if path.is_dir() else "no such file"
  require(path.is_file(), str(path), found, "weights of a network")
  try:
    content: Any
    if ending == ".safetensors":
      content = safetensors.numpy.load_file(path)
    else:
      content = _checkpoint(path)
  except ZsljaxError:
    raise
  except Exception as error:  # Zip, pickle and safetensors have each their own.
    raise ZsljaxError(
      f"{path}: not readable ({type(error).__name__}: {line_of(error)}), expected a "
      f"complete {ending} file with weights (was the download cut off?)"
    ) from error
  for key in ("state_dict", "model"):
    if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
      content = content[key]
      break
  found = f"a {type(content).__name__}"
  if isinstance(content, Mapping):
    found = f"a dict with {', '.join(map(repr, list(content)[:5])) or 'nothing'}"
  require(
    isinstance(content, Mapping)
    and all(isinstance(name, str) for name in content)
    and all(isinstance(value, np.ndarray) for value in content.values()),
    str(path),
    found,
    "a state dict, tensors by name, or a dict that has one as 'state_dict' or 'model'",
  )
  if all(name.startswith("module.") for name in content):
    return {name.removeprefix("module."): value for name, value in content.items()}
  return dict(content)


def packaged(package: str, pattern: str, install: str) -> pathlib.Path:
  """The file of weights that an installed package ships; nothing of it is run.

  Args:
    package: its import name.
    pattern: of the file, below the package's folder.
    install: what installs the package.

  Raises:
    ZsljaxError: the package is not installed.
  """
  found = importlib.util.find_spec(package)
  folders = [] if found is None else found.submodule_search_locations or []
  for folder in folders:
    for path in pathlib.Path(folder).glob(pattern):
      return path
  raise ZsljaxError(
    f"weights: found none, expected a file of weights; or run `{install}`"
  )


def _checkpoint(path: pathlib.Path) -> Any:
  """The content of a file as torch.save writes it."""
  with path.open("rb") as file:
    start = file.read(32)
  if start.startswith(_OLD_FORMAT):
    return _old_checkpoint(path)
  require(
    start.startswith(_ZIP),
    str(path),
    f"no PyTorch checkpoint (it begins with {start[:20]!r})",
    "a file as torch.save writes it (is it a web page or another format?)",
  )
  with zipfile.ZipFile(path) as archive:
    for member in archive.infolist():  # torch.save compresses none: they cannot grow.
      if member.compress_type != zipfile.ZIP_STORED:
        raise zipfile.BadZipFile(f"{member.filename} is compressed")
    names = archive.namelist()
    pickles = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
    found = "a zip file without data.pkl"
    require(len(pickles) == 1, str(path), found, "a checkpoint of torch.save")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in names:
      order = archive.read(f"{folder}byteorder").decode()
      require(order == "little", f"{path}: byteorder", order, "little")

    @functools.cache
    def read(key: str, dtype: np.dtype, _: int) -> np.ndarray:
      return np.frombuffer(archive.read(f"{folder}data/{key}"), dtype)

    content = io.BytesIO(archive.read(f"{folder}data.pkl"))
    return _StateDictUnpickler(path, content, read).load()


def _old_checkpoint(path: pathlib.Path) -> Any:
  """The content as before PyTorch 1.6: pickles, then counts and numbers of storages."""
  storages: dict[str, np.ndarray] = {}
  room = path.stat().st_size

  def allocate(key: str, dtype: np.dtype, count: int) -> np.ndarray:
    """A storage that is filled later."""
    nonlocal room
    if key not in storages:
      room -= count * dtype.itemsize
      if count < 0 or room < 0:
        raise pickle.UnpicklingError(f"storage {key} is larger than the file")
      storages[key] = np.zeros(count, dtype)
    return storages[key]

  with path.open("rb") as file:
    for _ in ("magic number", "version", "system"):
      _StateDictUnpickler(path, file, allocate).load()
    content = _StateDictUnpickler(path, file, allocate).load()
    for key in _StateDictUnpickler(path, file, allocate).load():
      (count,) = struct.unpack("<q", file.read(8))
      numbers = storages[key].view(np.uint8)
      if count != len(storages[key]) or file.readinto(numbers) != len(numbers):
        raise pickle.UnpicklingError(f"storage {key} is cut off")
  return content


class _StateDictUnpickler(pickle.Unpickler):
  """Unpickles tensors in plain containers, and refuses any other global name.

  ``storage(key, dtype, count)`` returns the numbers of a storage.
  """

  def __init__(self, path: pathlib.Path, content: BinaryIO, storage: Callable):
    super().__init__(content)
    self._path, self._storage = path, storage

  def find_class(self, module: str, name: str) -> Any:
    """The stand-in for a global name. A pickle may call it, and set its attributes."""
    if (module, name) == ("collections", "OrderedDict"):
      return collections.OrderedDict
    if module == "torch" and name in _STORAGES:
      return name
    if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
      return lambda *arguments: _tensor(*arguments)
    if (module, name) == ("torch._utils", "_rebuild_parameter"):
      return lambda tensor, *_: tensor
    raise ZsljaxError(
      f"{self._path}: found {module}.{name} in its pickle, which was not run; expected "
      "tensors in plain dicts and lists. From a source that you trust, load it in "
      "PyTorch and safetensors.torch.save_file(model.state_dict(), FILE)"
    )

  def persistent_load(self, pid: Any) -> np.ndarray:
    """The numbers of a storage, flat."""
    kind, storage, key, _, count, *view = pid
    if kind != "storage" or any(part is not None for part in view):
      raise pickle.UnpicklingError(f"persistent id {pid!r}")
    numbers = self._storage(key, _STORAGES[storage], count)
    if len(numbers) != count:
      raise pickle.UnpicklingError(f"storage {key} has {len(numbers)}, not {count}")
    return numbers


def _tensor(
  storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: Any
) -> np.ndarray:
  """A view of a flat storage, which must hold all of it; strides count numbers."""
  size = math.prod(shape)
  last = offset + sum((s - 1) * t for s, t in zip(shape, strides, strict=True))
  if (
    not (storage.ndim == 1 and storage.flags.c_contiguous)
    or min((offset, *shape, *strides)) < 0
    or (size and last >= len(storage))
    or size > len(storage)  # Numbers are not repeated.
  ):
    raise pickle.UnpicklingError(f"a tensor {shape} that its storage does not hold")
  return np.lib.stride_tricks.as_strided(
    storage[offset:], shape, [t * storage.itemsize for t in strides], writeable=False
  )
