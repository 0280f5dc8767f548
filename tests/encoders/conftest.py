"""Small networks, their weights under PyTorch's names, and files as PyTorch writes."""

import itertools
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy

STORAGES = {
  "float32": b"FloatStorage",
  "float64": b"DoubleStorage",
  "float16": b"HalfStorage",
  "bfloat16": b"BFloat16Storage",
  "int64": b"LongStorage",
  "bool": b"BoolStorage",
}


def random_state(blocks=(1, 2), width=2, seed=0):
  """Random weights of a residual network under the names of torchvision."""
  rng = np.random.default_rng(seed)
  state = {}

  def add(conv, norm, inputs, outputs, kernel):
    shape = (outputs, inputs, kernel, kernel)
    scale = (inputs * kernel**2) ** -0.5
    state[f"{conv}.weight"] = scale * rng.standard_normal(shape)
    state[f"{norm}.weight"] = rng.uniform(0.5, 1.5, outputs)
    state[f"{norm}.bias"] = 0.2 * rng.standard_normal(outputs)
    state[f"{norm}.running_mean"] = 0.2 * rng.standard_normal(outputs)
    state[f"{norm}.running_var"] = rng.uniform(0.5, 2, outputs)

  add("conv1", "bn1", 3, width, 7)
  inputs = width
  for stage, count in enumerate(blocks):
    inner = width * 2**stage
    for block in range(count):
      at = f"layer{stage + 1}.{block}."
      add(f"{at}conv1", f"{at}bn1", inputs, inner, 1)
      add(f"{at}conv2", f"{at}bn2", inner, inner, 3)
      add(f"{at}conv3", f"{at}bn3", inner, 4 * inner, 1)
      if not block:
        add(f"{at}downsample.0", f"{at}downsample.1", inputs, 4 * inner, 1)
      inputs = 4 * inner
  state = {name: value.astype(np.float32) for name, value in state.items()}
  state["bn1.num_batches_tracked"] = np.array(7)
  state["fc.weight"] = np.ones((3, inputs), np.float32)
  state["fc.bias"] = np.zeros(3, np.float32)
  return state


class Pickled:
  """A value as torch.save pickles it, opcode by opcode, and its storages."""

  def __init__(self, value):
    self.storages = []
    self.content = b"\x80\x02" + self.dump(value) + b"."

  def dump(self, value):
    if isinstance(value, dict):
      items = b"".join(map(self.dump, itertools.chain(*value.items())))
      attributes = b"}" + self.dump("_metadata") + b"}sb"
      return b"ccollections\nOrderedDict\n)R(" + items + b"u" + attributes
    if isinstance(value, str):
      return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, tuple):
      return b"(" + b"".join(map(self.dump, value)) + b"t"
    if isinstance(value, np.ndarray):
      value = value.copy("K")
      strides = tuple(s // value.itemsize for s in value.strides)
      self.storages.append(np.ravel(value, "K"))
      return self.tensor(len(self.storages) - 1, 0, value.shape, strides)
    return b"I%d\n" % value

  def tensor(self, key, offset, shape, strides):
    storage = self.storages[key]
    return (
      b"ctorch._utils\n_rebuild_tensor_v2\n(("
      + self.dump("storage")
      + b"ctorch\n%s\n" % STORAGES[storage.dtype.name]
      + self.dump(str(key))
      + self.dump("cpu")
      + self.dump(storage.size)
      + b"tQ"
      + b"".join(map(self.dump, (offset, tuple(shape), tuple(strides))))
      + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def write_zip(path, content, storages=(), compression=zipfile.ZIP_STORED):
  """Zips a pickle and its storages as torch.save does."""
  with zipfile.ZipFile(path, "w", compression) as archive:
    archive.writestr("archive/data.pkl", content)
    archive.writestr("archive/byteorder", "little")
    for key, storage in enumerate(storages):
      archive.writestr(f"archive/data/{key}", storage.tobytes())
  return path


@pytest.fixture
def state_dict():
  return random_state


@pytest.fixture
def pickled():
  return Pickled


@pytest.fixture
def write_checkpoint():
  return write_zip


@pytest.fixture
def save_pth():
  """Writes a value as torch.save does."""

  def save(path, value):
    pickled = Pickled(value)
    return write_zip(path, pickled.content, pickled.storages)

  return save


@pytest.fixture
def tiny(tmp_path):
  """The file of a small network, resnet1_2: regions of 8 x 8 pixels, 16 channels."""
  path = tmp_path / "tiny.safetensors"
  safetensors.numpy.save_file(random_state(), path)
  return path
