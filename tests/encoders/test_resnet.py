import jax
import numpy as np
import pytest

from zsljax.data.files.images import IMAGENET
from zsljax.encoders import load_encoder
from zsljax.encoders.resnet import ResNet


def convolve(x, kernel, stride=1):
  """[N, C, H, W] and [O, C, k, k], padded by k // 2."""
  pad = kernel.shape[-1] // 2
  x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
  windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[2:], (2, 3))
  return np.einsum("nchwij,ocij->nohw", windows[:, :, ::stride, ::stride], kernel)


def forward(state, blocks, images):
  """The map [N, C, H, W] of images [N, 3, S, S], in float64."""
  state = {name: value.astype(np.float64) for name, value in state.items()}

  def norm(x, name):
    scale, bias, mean, var = (
      state[f"{name}.{part}"][:, None, None]
      for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

  def layer(x, conv, bn, stride=1):
    return norm(convolve(x, state[f"{conv}.weight"], stride), bn)

  x = np.maximum(layer(images.astype(np.float64), "conv1", "bn1", 2), 0)
  x = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=-np.inf)
  x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
  x = x[:, :, ::2, ::2].max((-2, -1))
  for stage, count in enumerate(blocks, 1):
    for block in range(count):
      at = f"layer{stage}.{block}."
      stride = 2 if stage > 1 and block == 0 else 1
      y = np.maximum(layer(x, f"{at}conv1", f"{at}bn1"), 0)
      y = np.maximum(layer(y, f"{at}conv2", f"{at}bn2", stride), 0)
      y = layer(y, f"{at}conv3", f"{at}bn3")
      if block == 0:
        x = layer(x, f"{at}downsample.0", f"{at}downsample.1", stride)
      x = np.maximum(x + y, 0)
  return x


def normal(images):
  return (images / 255 - np.array(IMAGENET["mean"])) / np.array(IMAGENET["deviation"])


@pytest.mark.parametrize("output", ["regions", "pooled"])
def test_features_are_those_of_a_plain_forward_pass(tiny, output, state_dict):
  images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
  expected = forward(state_dict(), (1, 2), normal(images).transpose(0, 3, 1, 2))
  assert expected.shape == (3, 16, 4, 4)
  expected = expected.reshape(3, 16, 16).transpose(0, 2, 1)  # Rows of the grid.
  if output == "pooled":
    expected = expected.mean(1)
  encoder = load_encoder(tiny, 32, output)
  found = encoder.encode(images)
  assert found.shape[1:] == encoder.feature_shape and found.dtype == np.float32
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "grid"), [(224, 7), (448, 14)])
@pytest.mark.parametrize("blocks", [(3, 4, 6, 3), (3, 4, 23, 3)])
def test_grids_of_the_real_networks(blocks, size, grid):
  images = jax.ShapeDtypeStruct((2, size, size, 3), np.float32)
  module = ResNet(blocks)
  found, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
  assert [part.shape for part in found] == [(2, 2048), (2, grid**2, 2048)]
  parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
  # torchvision's counts, less the classifier of 1000 classes.
  whole = {(3, 4, 6, 3): 25_557_032, (3, 4, 23, 3): 44_549_160}[blocks]
  assert parameters == whole - 2048 * 1000 - 1000
