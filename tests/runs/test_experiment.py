import itertools
import json

import numpy as np
import pytest

from zsljax.errors import ZsljaxError
from zsljax.runs.config import read_config
from zsljax.runs.experiment import Experiment


def order(*fields):
  config = read_config(
    "msdn:digits", [f"--config.{field}" for field in ("mesh.data=1", *fields)]
  )
  rows = Experiment.build(config).training_data().rows()
  return np.stack(list(itertools.islice(rows, 3)))


def test_the_order_of_batches_can_have_a_seed_of_its_own():
  given = order("seed=1", "data.seed=7")
  np.testing.assert_array_equal(given, order("seed=2", "data.seed=7"))
  np.testing.assert_array_equal(given, order("seed=7"))
  assert (given != order("seed=1")).any()


def test_a_run_keeps_to_the_version_of_its_split(short_run, tmp_path):
  manifest = json.loads((short_run("semantic_softmax") / "manifest.json").read_text())
  manifest["dataset"]["split_version"] = "v1"
  (tmp_path / "manifest.json").write_text(json.dumps(manifest))
  message = "split_version: found .*, expected v1, as in the training run"
  with pytest.raises(ZsljaxError, match=message):
    Experiment.of_run(tmp_path)


@pytest.mark.parametrize(
  ("argument", "told"),
  [
    ("msdn:cub", ""),  # It looks at regions.
    ("baselines:cub,eszsl", " (--config.data.features may be 4x12_att)"),
  ],
)
def test_forms_that_a_system_can_use_are_offered(stand_in, tmp_path, argument, told):
  stand_in("cub", tmp_path, features_kind="12")
  stand_in("cub", tmp_path, shape=(4, 12), features_kind="4x12")
  fields = ["data.num_channels=12", "mesh.data=1", f"data.dir={tmp_path}"]
  config = read_config(argument, [f"--config.{field}" for field in fields])
  assert Experiment.build(config).other_forms(config) == told
