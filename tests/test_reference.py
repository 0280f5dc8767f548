"""Real data with known results; `ZSLJAX_DATA` names the folder."""

import importlib
import json
import os
import pathlib

import pytest

from configs import semantic_softmax
from zsljax.data import prepare, read_xlsa17

train = importlib.import_module("train")
evaluate = importlib.import_module("eval").evaluate
DATA = pathlib.Path(os.environ.get("ZSLJAX_DATA", "")).absolute()

REGIONS = DATA / "scene15" / "feature_map_MobileNetV2_Scene15.hdf5"

pytestmark = pytest.mark.slow


def needs(path):
  return pytest.mark.skipif(
    not path.is_file(), reason=f"ZSLJAX_DATA names no folder with {path.name}"
  )


needs_awa1 = needs(DATA / "awa1" / "classic512.mat")
needs_scene15 = needs(REGIONS)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
  dest = tmp_path_factory.mktemp("data")
  prepare(read_xlsa17(DATA / "awa1", "classic512.mat"), dest)
  return dest


def run(stored, workdir, **system):
  config = semantic_softmax.get_config("awa1")
  config.data.dir = str(stored)
  config.system.update(system)
  train.train(config.to_dict(), workdir)
  last = (workdir / "metrics.jsonl").read_text().splitlines()[-1]
  (row,) = evaluate(workdir)
  return json.loads(last)["loss"], row["metrics"]


@needs_awa1
def test_awa1_reaches_the_convex_optimum(stored, tmp_path):
  objective, metrics = run(stored, tmp_path)
  assert objective == pytest.approx(1288.38, abs=0.05)
  assert metrics["t1"] == pytest.approx(28.69, abs=0.1)
  assert metrics["u"] == pytest.approx(11.59, abs=0.1)
  assert metrics["s"] == pytest.approx(29.90, abs=0.1)


@needs_awa1
@pytest.mark.parametrize(
  ("system", "optimum"),
  [
    # Found by SciPy's L-BFGS-B in float64 on an objective written apart.
    ({"l2_weights": 1.0}, 1703.5451),
    ({"preset": "official_code"}, 1014.7173),
    ({"l2_weights": 1e-4, "l2_prototypes": 1e-8}, 618.7153),
    ({"l2_weights": 5e-4, "l2_prototypes": 1e-2}, 1847.4736),
  ],
)
def test_awa1_optimum_for_other_weights(stored, tmp_path, system, optimum):
  objective, _ = run(stored, tmp_path, **system)
  assert objective == pytest.approx(optimum, abs=0.05)
