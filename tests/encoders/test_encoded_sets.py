"""From images to a stored set and to predictions, by one network."""

import csv

import jax
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from zsljax.data import build_set, images_in, prepare
from zsljax.data.files.features import read_features
from zsljax.encoders import (
  encode_folder,
  encode_images,
  load_encoder,
  require_same,
)
from zsljax.errors import ZsljaxError
from zsljax.models import build_system
from zsljax.predict import Predictor, _encoded
from zsljax.runs.experiment import spec_of


@pytest.fixture
def photos(tmp_path):
  rng = np.random.default_rng(0)
  for name in ("ape", "bat", "cow", "dog"):
    (tmp_path / "photos" / name).mkdir(parents=True)
    for i in range(4):
      image = rng.integers(0, 255, (20, 24, 3), np.uint8)
      path = tmp_path / "photos" / name / f"{i}.png"
      path.write_bytes(tf.io.encode_png(image).numpy())
  with (tmp_path / "classes.csv").open("w") as file:
    rows = [["class", "big", "wild"], ["ape", 1, 1], ["bat", 0, 1], ["cow", 1, 0]]
    csv.writer(file).writerows([*rows, ["dog", 0.5, 0.2]])
  return tmp_path / "photos"


def test_a_set_records_what_made_its_features(tiny, photos, tmp_path, monkeypatch):
  encoder = load_encoder(tiny, 32, "regions", devices=1)
  encode_folder(encoder, photos, tmp_path / "f.h5", batch_size=4)
  feature_set, _ = build_set(
    images_in(photos), [tmp_path / "f.h5"], tmp_path / "classes.csv", "pets"
  )
  stored = prepare(feature_set, tmp_path / "data")
  assert stored.metadata["encoder"] == encoder.description
  assert stored.metadata["features"] == "resnet1_2_regions_32"

  system = build_system({"name": "semantic_softmax"})
  spec = spec_of(stored.feature_shape, stored.classes)
  params = system.init(jax.random.key(0), spec)
  predictor = Predictor(
    system, params, stored.classes, spec, encoder=stored.metadata["encoder"]
  )
  features, names, bad = _encoded(predictor, photos, tiny, skip_bad=False)
  np.testing.assert_allclose(features, encode_images(encoder, photos)[0], 1e-5, 1e-5)
  assert names[0] == "ape/0.png" and bad == []
  alone, names, _ = _encoded(predictor, photos / "cow" / "2.png", tiny, skip_bad=False)
  np.testing.assert_allclose(alone, features[10:11], 1e-5, 1e-5)
  assert names.tolist() == ["2.png"]

  described = read_features([tmp_path / "f.h5"]).encoder
  require_same(described, predictor.encoder, "f.h5", "")
  with pytest.raises(ZsljaxError, match="f.h5: encoder, size: found 64, expected 32"):
    require_same(described | {"size": 64}, predictor.encoder, "f.h5", "")

  other = dict(safetensors.numpy.load_file(tiny))
  other["conv1.weight"] = other["conv1.weight"] + 1
  safetensors.numpy.save_file(other, tmp_path / "other.safetensors")
  with pytest.raises(ZsljaxError, match="weights_sha256: found"):
    _encoded(predictor, photos, tmp_path / "other.safetensors", skip_bad=False)
  unknown = Predictor(system, params, stored.classes, spec)
  with pytest.raises(ZsljaxError, match="does not record what made its features"):
    _encoded(unknown, photos, tiny, skip_bad=False)
