import hashlib
import json

import numpy as np
import PIL.Image
import pytest

from zsljax.encoders import check, encode_images, load_encoder
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
  images = np.random.default_rng(0).standard_normal((6, 32, 32, 3)).astype(np.float32)
  one, four = (load_encoder("tiny", tiny, 32, "regions", n) for n in (1, 4))
  assert four.mesh.size == 4
  np.testing.assert_allclose(four.encode(images), one.encode(images), rtol=1e-5)


def test_description(tiny):
  description = load_encoder("tiny", tiny, 64, "regions").description
  assert description == {
    "network": "tiny",
    "weights": "tiny.safetensors",
    "weights_sha256": hashlib.sha256(tiny.read_bytes()).hexdigest(),
    "size": 64,
    "output": "regions",
    "preprocessing": "torchvision-evaluation-1",
  }
  assert json.loads(json.dumps(description)) == description
  check(description, tiny)


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"weights_sha256": 64 * "0"}, r"found SHA-256 \w{16}\.\.\., expected 0{16}"),
    ({"preprocessing": "other-2"}, "found features by other-2, expected torchvision"),
    ({"file": "away.pth"}, "away.pth: found no file"),
    ({"network": "tyni"}, "unknown 'tyni'. Known: resnet101, resnet50, tiny"),
    ({"output": "region"}, "output: unknown 'region'. Did you mean 'regions'"),
    ({"size": 0}, "size: found 0, expected a multiple of 8 pixels"),
    ({"size": 33}, "size: found 33"),
    ({"images": (2, 3, 32, 32)}, r"shape \(2, 3, 32, 32\), expected \[B, 32"),
  ],
)
def test_refusals(tiny, changed, message):
  def use(
    network="tiny", size=32, output="pooled", file=tiny.name, images=None, **told
  ):
    encoder = load_encoder(network, tiny, size, output)
    check({**encoder.description, **told}, tiny.with_name(file or tiny.name))
    encoder.encode(np.zeros(images))

  with pytest.raises(ZsljaxError, match=message):
    use(**changed)


def test_images_in_memory(tiny, folder):
  encoder = load_encoder("tiny", tiny, 32)
  features, names, left_out = encode_images(encoder, folder, batch_size=4)
  assert features.shape == (7, 16) and not left_out
  assert names == ["0/0.png", "0/2.png", "0/4.png", "0/6.png", *names[4:]]
  some = ["1/5.png", "0/0.png", "1/5.png"]
  found, _, _ = encode_images(encoder, folder, some, batch_size=4)
  expected = [features[names.index(name)] for name in some]
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert encode_images(encoder, folder, [])[0].shape == (0, 16)


def test_bad_images_in_memory(tiny, folder):
  for name in ("0/4.png", "1/5.png"):
    (folder / name).write_text("no image")
  encoder = load_encoder("tiny", tiny, 32)
  with pytest.raises(ZsljaxError, match="be decoded: 2, the first is 0/4.png"):
    encode_images(encoder, folder, batch_size=2)
  features, names, left_out = encode_images(
    encoder, folder, skip_bad=True, batch_size=2
  )
  assert left_out == ["0/4.png", "1/5.png"] and len(features) == len(names) == 5
  again, _, _ = encode_images(encoder, folder, names, batch_size=2)
  np.testing.assert_allclose(features, again, rtol=1e-5)


def test_weights_that_give_no_numbers_are_named(tiny, folder, state_dict, save_pth):
  state = state_dict()
  state["bn1.running_var"] = -state["bn1.running_var"]
  encoder = load_encoder("tiny", save_pth(tiny.with_suffix(".pth"), state), 32)
  with pytest.raises(ZsljaxError, match="tiny.pth: found weights that make features"):
    encode_images(encoder, folder)
