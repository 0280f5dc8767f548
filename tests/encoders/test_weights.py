import jax
import numpy as np
import pytest
import safetensors.numpy

from zsljax.encoders.resnet import NETWORKS, ResNet
from zsljax.encoders.weights import read_weights
from zsljax.errors import ZsljaxError


def test_every_weight_has_its_place(tiny, state_dict):
  state = state_dict()
  variables = read_weights(tiny, "tiny")
  block = variables["params"]["layer2.1"]
  np.testing.assert_array_equal(
    block["conv2"]["kernel"].transpose(3, 2, 0, 1), state["layer2.1.conv2.weight"]
  )
  np.testing.assert_array_equal(block["bn3"]["scale"], state["layer2.1.bn3.weight"])
  statistics = variables["batch_stats"]["layer1.0"]["downsample.1"]
  expected = state["layer1.0.downsample.1.running_var"]
  np.testing.assert_array_equal(statistics["var"], expected)
  assert len(jax.tree.leaves(variables)) == len(state) - 3  # fc, and the count.


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_precisions_become_float32(tiny, dtype, state_dict, save_pth):
  state = {name: value.astype(dtype) for name, value in state_dict().items()}
  variables = read_weights(save_pth(tiny.with_suffix(".pth"), state), "tiny")
  assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}


@pytest.mark.parametrize(
  ("blocks", "message"),
  [
    ((3, 4, 6, 3), "found what looks like a ResNet-50, with 255 tensors missing"),
    (
      (3, 4, 23, 4),
      "a residual network with 3, 4, 23, 4 blocks, with 15 tensors too",
    ),
  ],
)
def test_names_another_network(monkeypatch, tmp_path, blocks, message, state_dict):
  monkeypatch.setitem(NETWORKS, "resnet101", ResNet((3, 4, 23, 3), width=1))
  path = tmp_path / "w.safetensors"
  safetensors.numpy.save_file(state_dict(blocks, 1), path)
  with pytest.raises(ZsljaxError, match=message):
    read_weights(path, "resnet101")


def test_names_weights_that_do_not_fit(tiny, state_dict, save_pth):
  state = state_dict()
  state["conv1.weight"] = state["conv1.weight"][:, :1]
  state["stem.weight"] = state.pop("bn1.weight")
  with pytest.raises(
    ZsljaxError,
    match=r"with 1 tensors missing \(bn1.weight\), 1 tensors too many "
    r"\(stem.weight\), 1 tensors differing \(conv1.weight of shape \[2, 1, 7, 7\] "
    r"instead of \[2, 3, 7, 7\]\); expected the weights of tiny",
  ):
    read_weights(save_pth(tiny.with_suffix(".pth"), state), "tiny")


def test_names_a_network_of_another_kind(tiny, save_pth):
  path = save_pth(tiny.with_suffix(".pth"), {"blocks.0.attn": np.ones(3)})
  with pytest.raises(ZsljaxError, match="which begins with blocks.0.attn, with 60 ten"):
    read_weights(path, "tiny")
