import os
import pathlib
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from zsljax.encoders.tensor_files import read_tensors
from zsljax.errors import ZsljaxError

TYPES = ("float32", "float64", "float16", ml_dtypes.bfloat16, "int64", "bool")


@pytest.fixture
def tensors():
  rng = np.random.default_rng(0)
  made = {
    f"part.{i}": rng.integers(0, 9, (2, 3, 4)).astype(d) for i, d in enumerate(TYPES)
  }
  return {**made, "count": np.array(5), "none": np.empty((0, 3), np.float32)}


def assert_same(found, expected):
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    assert found[name].dtype == value.dtype
    np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("ending", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_reads_what_was_written(tmp_path, tensors, ending, prefix, save_pth):
  path = tmp_path / f"weights{ending}"
  named = {prefix + name: value for name, value in tensors.items()}
  save = safetensors.numpy.save_file if ending == ".safetensors" else None
  save(named, path) if save else save_pth(path, named)
  assert_same(read_tensors(path), tensors)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_reads_wrapped_state_dicts(tmp_path, tensors, key, save_pth):
  path = save_pth(tmp_path / "w.pth", {"epoch": 3, key: tensors, "arch": "resnet50"})
  assert_same(read_tensors(path), tensors)


def test_reads_other_layouts_and_shared_storages(tmp_path, pickled, write_checkpoint):
  last = np.arange(24.0).reshape(1, 2, 3, 4).transpose(0, 3, 1, 2)  # Channels last.
  saved = pickled({"last": last})
  shared = saved.tensor(0, 5, (2, 2), (1, 6))
  content = saved.content[:-1] + saved.dump("shared") + shared + b"s."
  path = write_checkpoint(tmp_path / "w.pth", content, saved.storages)
  found = read_tensors(path)
  np.testing.assert_array_equal(found["last"], last)
  np.testing.assert_array_equal(found["shared"], [[5, 11], [6, 12]])


@pytest.mark.parametrize(
  ("offset", "shape", "strides"),
  [
    (0, (7,), (1,)),
    (4, (3,), (1,)),
    (-1, (2,), (1,)),
    (0, (2, 2), (5, 1)),
    (0, (2,), (-1,)),
    (0, (10**9,), (0,)),
    (0, (-2, -2), (1, 1)),
  ],
)
def test_refuses_tensors_outside_of_their_storage(
  tmp_path, offset, shape, strides, pickled, write_checkpoint
):
  saved = pickled({"a": np.arange(6.0)})
  content = b"\x80\x02" + saved.tensor(0, offset, shape, strides) + b"."
  path = write_checkpoint(tmp_path / "w.pth", content, saved.storages)
  with pytest.raises(ZsljaxError, match="its storage does not hold"):
    read_tensors(path)


def old_format(saved, keys=None):
  """The bytes that torch.save wrote before PyTorch 1.6."""
  head = (pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
  keys = [str(key) for key in range(len(saved.storages))] if keys is None else keys
  numbers = (struct.pack("<q", x.size) + x.tobytes() for x in saved.storages)
  return b"".join((*head, saved.content, pickle.dumps(keys, 2), *numbers))


def test_reads_the_old_format(tmp_path, pickled, state_dict):
  path, state = tmp_path / "w.pth", state_dict()
  state["fc.weight"] = state["fc.weight"].T  # Strided.
  path.write_bytes(old_format(pickled(state)))
  found = read_tensors(path)
  assert found.keys() == state.keys()
  for name, tensor in state.items():
    np.testing.assert_array_equal(found[name], tensor)


def test_refuses_old_files_that_are_not_whole(tmp_path, pickled):
  path, saved = tmp_path / "w.pth", pickled({"a": np.arange(600.0)})
  whole = old_format(saved)
  for size in range(20, len(whole), 97):
    path.write_bytes(whole[:size])
    with pytest.raises(ZsljaxError, match="not readable"):
      read_tensors(path)
  saved.content = saved.content.replace(b"I600\n", b"I60000000\n")
  path.write_bytes(old_format(saved))
  with pytest.raises(ZsljaxError, match="larger than the file"):
    read_tensors(path)


def test_refuses_a_tensor_for_a_storage(tmp_path, pickled, write_checkpoint):
  saved = pickled({"a": np.arange(6.0)})
  repeated = saved.tensor(0, 5, (6,), (0,))
  arguments = b"".join(map(saved.dump, (0, (6,), (1,))))
  content = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + repeated + arguments
  path = write_checkpoint(tmp_path / "w.pth", content + b"tR.", saved.storages)
  with pytest.raises(ZsljaxError, match="its storage does not hold"):
    read_tensors(path)


class Evil:
  """Does something when it is unpickled."""

  def __init__(self, function, *arguments):
    self.call = function, arguments

  def __reduce__(self):
    return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("kind", ["zip", "old", "bare"])
@pytest.mark.parametrize("function", ["system", "eval", "touch"])
def test_a_pickle_runs_nothing(
  tmp_path, protocol, kind, function, pickled, write_checkpoint
):
  mark = tmp_path / "ran"
  evil = {
    "system": Evil(os.system, f"touch {mark}"),
    "eval": Evil(eval, f"__import__('os').mkdir({str(mark)!r})"),
    "touch": Evil(pathlib.Path.touch, mark),
  }[function]
  content = pickle.dumps({"state_dict": {"a": evil}}, protocol)
  path = tmp_path / "w.pth"
  message = r"w\.pth: found [\w.]+ in its pickle, which was not run"
  if kind == "zip":
    write_checkpoint(path, content)
  elif kind == "old":
    saved = pickled({"a": np.arange(6.0)})
    saved.content = content
    path.write_bytes(old_format(saved))
  else:
    path.write_bytes(content)
    message = r"w\.pth: found no PyTorch checkpoint"
  with pytest.raises(ZsljaxError, match=message):
    read_tensors(path)
  assert not mark.exists()
  pickle.loads(content)
  assert mark.exists()


@pytest.mark.parametrize(
  "name",
  [
    b"collections\nOrderedDict.fromkeys",
    b"torch._utils\n_rebuild_tensor_v2.__globals__",
    b"torch\nload",
    b"argparse\nNamespace",
    b"numpy\nload",
  ],
)
def test_names_what_a_pickle_asks_for(tmp_path, name, write_checkpoint):
  path = write_checkpoint(tmp_path / "w.pth", b"\x80\x02c" + name + b"\n.")
  with pytest.raises(ZsljaxError, match=name.decode().replace("\n", r"\.")):
    read_tensors(path)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_refuses_truncated_files(tmp_path, tensors, ending, save_pth):
  path = tmp_path / f"w{ending}"
  save_pth(path, tensors)
  if ending == ".safetensors":
    safetensors.numpy.save_file(tensors, path)
  whole = path.read_bytes()
  for part in (0, 1, 7, 40, len(whole) // 2, len(whole) - 1):
    path.write_bytes(whole[:part])
    with pytest.raises(ZsljaxError, match=rf"w\{ending}: "):
      read_tensors(path)


def test_refuses_changed_bytes(tmp_path, save_pth):
  path = save_pth(tmp_path / "w.pth", {"a": np.full(100, 1.5)})
  whole = path.read_bytes()
  at = whole.index(np.full(9, 1.5).tobytes())
  path.write_bytes(whole[:at] + b"\0\1\2" + whole[at + 3 :])
  with pytest.raises(ZsljaxError, match="Bad CRC-32"):
    read_tensors(path)


def test_refuses_compressed_archives(tmp_path, pickled, write_checkpoint):
  saved = pickled({"a": np.zeros(10**6)})
  path = write_checkpoint(
    tmp_path / "w.pth", saved.content, saved.storages, zipfile.ZIP_DEFLATED
  )
  with pytest.raises(ZsljaxError, match="archive/data.pkl is compressed"):
    read_tensors(path)


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("w.pth", b"<!DOCTYPE html><html>", r"it begins with b'<!DOCTYPE html><html'\)"),
    ("w.safetensors", b"<!DOCTYPE html><html>", "expected a complete .safetensors"),
    ("w.pth", pickle.dumps(0x1950A86A20F9469CFC6C, 2), "not readable"),
    ("w.ckpt", b"", "ending '.ckpt', expected .safetensors or .pth or .pt"),
    ("w.pth", "folder", "w.pth: found a folder"),
    ("w.pth", None, "w.pth: found no such file"),
    ("w.pth", "zip", "a zip file without data.pkl"),
    ("w.pth", {"epoch": 3}, "found a dict with 'epoch', expected a state"),
    ("w.pth", (1, 2), "found a tuple"),
  ],
)
def test_refuses_other_files(tmp_path, name, content, message, save_pth):
  path = tmp_path / name
  if content == "folder":
    path.mkdir()
  elif content == "zip":
    with zipfile.ZipFile(path, "w") as archive:
      archive.writestr("readme", "")
  elif isinstance(content, bytes):
    path.write_bytes(content)
  elif content is not None:
    save_pth(path, content)
  with pytest.raises(ZsljaxError, match=message):
    read_tensors(path)
