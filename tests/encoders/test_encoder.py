import os
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from zsljax.encoders import encode_images, load_encoder
from zsljax.errors import ZsljaxError


@pytest.fixture
def folder(tmp_path):
  """Seven pictures in two folders."""
  rng = np.random.default_rng(0)
  folder = tmp_path / "images"
  for i in range(7):
    path = folder / f"{i % 2}" / f"{i}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(rng.integers(0, 256, (40, 44, 3), np.uint8)).save(path)
  return folder


def test_devices_share_a_batch_without_changing_it(tiny):
  images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
  one, four = (load_encoder(tiny, 32, "regions", devices=n) for n in (1, 4))
  assert four.mesh.size == 4
  np.testing.assert_allclose(four.encode(images), one.encode(images), rtol=1e-5)


@pytest.mark.parametrize(
  ("said", "devices"),
  [
    ({}, min(len(os.sched_getaffinity(0)), 8)),
    ({"JAX_NUM_CPU_DEVICES": "3"}, 3),
    ({"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 3),
  ],
)
def test_cores_are_devices_unless_the_user_says_how_many(said, devices):
  code = (
    "import jax; from zsljax.encoders.encoder import cores_as_devices;"
    "cores_as_devices(); print(jax.device_count()); cores_as_devices()"
  )
  unsaid = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
  environment = unsaid | {"JAX_PLATFORMS": "cpu"} | said
  command = [sys.executable, "-c", code]
  done = subprocess.run(command, env=environment, capture_output=True, check=True)
  assert int(done.stdout) == devices


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"output": "region"}, "output: found 'region', expected one of pooled, regions"),
    ({"precision": "int8"}, "found 'int8', expected one of float32, bfloat16"),
    ({"size": 0}, "size: found 0, expected a multiple of 8 pixels"),
    ({"size": 33}, "size: found 33"),
    ({"activation": "gelu"}, "activation: found gelu, expected none, which resnet"),
    ({"images": (2, 3, 32, 32)}, r"shape \(2, 3, 32, 32\), expected \[B, 32"),
  ],
)
def test_refusals(tiny, changed, message):
  def use(size=32, images=None, **options):
    load_encoder(tiny, size, **options).encode(np.zeros(images))

  with pytest.raises(ZsljaxError, match=message):
    use(**changed)


def test_images_in_memory(tiny, folder):
  encoder = load_encoder(tiny, 32)
  features, names, left_out = encode_images(encoder, folder, batch_size=4)
  assert features.shape == (7, 16) and not left_out
  assert names == ["0/0.png", "0/2.png", "0/4.png", "0/6.png", *names[4:]]
  some = ["1/5.png", "0/0.png", "1/5.png"]
  found, _, _ = encode_images(encoder, folder, some, batch_size=4)
  expected = [features[names.index(name)] for name in some]
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert encode_images(encoder, folder, [])[0].shape == (0, 16)


def test_weights_that_give_no_numbers_are_named(tiny, folder, state_dict, save_pth):
  state = state_dict()
  state["bn1.running_var"] = -state["bn1.running_var"]
  encoder = load_encoder(save_pth(tiny.with_suffix(".pth"), state), 32)
  with pytest.raises(ZsljaxError, match="tiny.pth: found weights that make features"):
    encode_images(encoder, folder)


def test_bfloat16_is_near(tiny):
  images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
  exact, near = (
    load_encoder(tiny, 32, precision=p).encode(images) for p in ("float32", "bfloat16")
  )
  assert near.dtype == np.float32
  np.testing.assert_allclose(near, exact, atol=0.03 * np.abs(exact).max())
  assert (near != exact).any()


def test_without_weights_there_is_a_sentence(monkeypatch):
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  with pytest.raises(ZsljaxError, match="weights: found none, .*zsljax.images."):
    load_encoder()
