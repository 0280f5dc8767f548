import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax.data.files.images import list_images
from zsljax.encoders import encode_images, load_encoder
from zsljax.encoders.efficientnet import EfficientNetLite, _Depthwise, _Stem


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize(("side", "stride"), [(9, 1), (9, 2), (10, 2)])
def test_depthwise_convolution_is_xlas(kernel, side, stride):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((2, side, side, 6)), jnp.float32)
  module = _Depthwise(kernel, stride)
  found, variables = module.init_with_output(jax.random.key(0), x)
  expected = jax.lax.conv_general_dilated(
    x,
    variables["params"]["kernel"],
    (stride, stride),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=6,
  )
  np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("side", [9, 10])
def test_the_stem_is_xlas_convolution(side):
  x = jax.random.normal(jax.random.key(1), (2, side, side, 3))
  found, variables = _Stem(8).init_with_output(jax.random.key(0), x)
  kernel, layout = variables["params"]["kernel"], ("NHWC", "HWIO", "NHWC")
  expected = jax.lax.conv_general_dilated(
    x, kernel, (2, 2), "SAME", dimension_numbers=layout
  )
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_shapes_and_size_of_lite2():
  images = jax.ShapeDtypeStruct((2, 260, 260, 3), np.float32)
  module = EfficientNetLite()
  found, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
  assert [part.shape for part in found] == [(2, 1280), (2, 81, 1280)]
  # Of the 6,092,072 that the paper's repository counts, without the classifier.
  counts = (leaf.size for leaf in jax.tree.leaves(variables["params"]))
  assert sum(counts) == 6_092_072 - 1280 * 1000 - 1000


def test_lite2_of_the_package_against_its_reference(real_data):
  reference = np.load(real_data / "scene15" / "lite2_reference.npz")
  images = real_data / "scene15" / "images"
  names = reference["image_files"][:16].tolist()
  assert set(names) <= set(list_images(images))
  for output, field in (("pooled", "features"), ("regions", "feature_map_first16")):
    expected = reference[field][:16]
    if output == "regions":
      expected = expected.reshape(16, 1280, 81).transpose(0, 2, 1)
    encoder = load_encoder(output=output)
    found, _, _ = encode_images(encoder, images, names)
    np.testing.assert_allclose(found, expected, atol=1e-3 * expected.max())
