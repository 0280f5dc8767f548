import jax
import numpy as np
import pytest

from zsljax.encoders.weights import read_network
from zsljax.errors import ZsljaxError


def test_every_weight_has_its_place(tiny, state_dict):
  state = state_dict()
  variables = read_network(tiny).variables
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
  variables = read_network(save_pth(tiny.with_suffix(".pth"), state)).variables
  assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {"float32"}


def test_names_weights_that_do_not_fit(tiny, state_dict, save_pth):
  state = state_dict()
  state["conv1.weight"] = state["conv1.weight"][:, :1]
  state["stem.weight"] = state.pop("bn1.weight")
  message = r"tiny.pth: found 3 .*\(bn1.weight, conv1.weight, stem.weight\), expected"
  with pytest.raises(ZsljaxError, match=message):
    read_network(save_pth(tiny.with_suffix(".pth"), state))


def test_names_the_tensors_that_it_looked_for(tiny, save_pth):
  state = {"trunk.weight": np.ones(3, np.float32)}
  message = "found tensors trunk.weight, expected those of ResNet, .*CLIP, .*by names"
  with pytest.raises(ZsljaxError, match=message):
    read_network(save_pth(tiny.with_suffix(".pth"), state))
