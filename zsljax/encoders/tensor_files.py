"""Named tensors in .safetensors files and PyTorch checkpoints, read as arrays.

A PyTorch checkpoint has a pickle, and unpickling can call any function by its name.
Here it can call the few that a state dict is made of, each of them written below;
PyTorch is not needed.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
import io
import math
import pathlib
import pickle
import struct
from typing import Any, BinaryIO
import zipfile

import ml_dtypes
import numpy as np
import safetensors

from zsljax.errors import ZsljaxError, require

ENDINGS = (".safetensors", ".pth", ".pt")
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_SAFETENSORS = {
  "F64": np.dtype("<f8"),
  "F32": np.dtype("<f4"),
  "F16": np.dtype("<f2"),
  "BF16": _BFLOAT16,
  "I64": np.dtype("<i8"),
  "I32": np.dtype("<i4"),
  "I16": np.dtype("<i2"),
  "I8": np.dtype("i1"),
  "U8": np.dtype("u1"),
  "BOOL": np.dtype(bool),
}
_STORAGES = {
  "DoubleStorage": np.dtype("<f8"),
  "FloatStorage": np.dtype("<f4"),
  "HalfStorage": np.dtype("<f2"),
  "BFloat16Storage": _BFLOAT16,
  "LongStorage": np.dtype("<i8"),
  "IntStorage": np.dtype("<i4"),
  "ShortStorage": np.dtype("<i2"),
  "CharStorage": np.dtype("i1"),
  "ByteStorage": np.dtype("u1"),
  "BoolStorage": np.dtype(bool),
}
# The first bytes of what torch.save wrote before PyTorch 1.6.
_OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_ZIP = b"PK\x03\x04"
_TO_SAFETENSORS = "safetensors.torch.save_file(model.state_dict(), FILE)"


def read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The tensors of a file, by name.

  Args:
    path: ``.safetensors``, or ``.pth`` or ``.pt`` as torch.save writes it, before and
      since PyTorch 1.6: a state dict, or a dict that has one as ``state_dict`` or
      ``model``. The prefix ``module.`` of all names is taken off.

  Raises:
    ZsljaxError: it is missing, damaged or of another kind, or its pickle asks for
      anything but tensors in plain containers.
  """
  ending = path.suffix.lower()
  require(ending in ENDINGS, str(path), f"ending {ending!r}", " or ".join(ENDINGS))
  require(
    path.is_file(),
    str(path),
    "a folder" if path.is_dir() else "no such file",
    "weights of a network",
  )
  try:
    content = (_safetensors if ending == ".safetensors" else _checkpoint)(path)
  except ZsljaxError:
    raise
  except Exception as error:  # Zip, pickle and safetensors have each their own.
    raise ZsljaxError(
      f"{path}: not readable ({type(error).__name__}: {error}), expected a complete "
      f"{ending} file with weights (was the download cut off?)"
    ) from error
  for key in ("state_dict", "model"):
    if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
      content = content[key]
      break
  if not isinstance(content, Mapping) or not all(
    isinstance(name, str) and isinstance(value, np.ndarray)
    for name, value in content.items()
  ):
    raise ZsljaxError(
      f"{path}: found {_in_words(content)}, expected a state dict, tensors by name, or "
      "a dict that has one as 'state_dict' or 'model'"
    )
  prefixed = all(name.startswith("module.") for name in content)
  return {
    name.removeprefix("module.") if prefixed else name: value
    for name, value in content.items()
  }


def _in_words(content: Any) -> str:
  if isinstance(content, Mapping):
    return f"a dict with {', '.join(map(repr, list(content)[:5])) or 'nothing'}"
  return f"a {type(content).__name__}"


def _safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  tensors = {}
  for name, tensor in safetensors.deserialize(path.read_bytes()):
    dtype = _SAFETENSORS.get(tensor["dtype"])
    require(
      dtype is not None,
      f"{path}: {name}",
      f"numbers of type {tensor['dtype']}",
      f"one of {', '.join(_SAFETENSORS)}",
    )
    tensors[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"])
  return tensors


def _checkpoint(path: pathlib.Path) -> Any:
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
    names = archive.namelist()
    pickles = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
    require(
      len(pickles) == 1,
      str(path),
      "a zip file without data.pkl",
      "a checkpoint as torch.save writes it",
    )
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in names:
      order = _member(archive, f"{folder}byteorder").decode()
      require(order == "little", f"{path}: byteorder", order, "little")
    storages: dict[str, np.ndarray] = {}

    def read(key: str, dtype: np.dtype, count: int) -> np.ndarray:
      if key not in storages:
        content = _member(archive, f"{folder}data/{key}")
        storages[key] = np.frombuffer(content, dtype)
      if len(storages[key]) != count:
        raise pickle.UnpicklingError(
          f"storage {key} has {len(storages[key])} numbers, not {count}"
        )
      return storages[key]

    content = io.BytesIO(_member(archive, f"{folder}data.pkl"))
    return _StateDictUnpickler(path, content, read).load()


def _old_checkpoint(path: pathlib.Path) -> Any:
  """As before PyTorch 1.6: pickles, and then each storage's count and numbers."""
  storages: dict[str, np.ndarray] = {}
  room = path.stat().st_size

  def allocate(key: str, dtype: np.dtype, count: int) -> np.ndarray:
    """A storage whose numbers come later."""
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


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
  """A file of a checkpoint, which is never compressed: it cannot grow when read."""
  if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
    raise zipfile.BadZipFile(f"{name} is compressed")
  return archive.read(name)


class _StateDictUnpickler(pickle.Unpickler):
  """Unpickles tensors in plain containers, and refuses any other global name."""

  def __init__(
    self,
    path: pathlib.Path,
    content: BinaryIO,
    storage: Callable[[str, np.dtype, int], np.ndarray],
  ):
    super().__init__(content)
    self._path, self._storage = path, storage

  def find_class(self, module: str, name: str) -> Any:
    """What stands for that name. A pickle may call it, and set its attributes."""
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
      f"PyTorch and {_TO_SAFETENSORS}"
    )

  def persistent_load(self, pid: Any) -> np.ndarray:
    """The numbers of a storage, flat."""
    kind, storage, key, _, count, *view = pid
    if kind != "storage" or any(part is not None for part in view):
      raise pickle.UnpicklingError(f"persistent id {pid!r}")
    return self._storage(key, _STORAGES[storage], count)


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
