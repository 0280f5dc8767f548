"""Real data with known results; `ZSLJAX_DATA` names the folder."""

import importlib
import json
import os
import pathlib

import numpy as np
import pytest

from zsljax.configs import attended_autoencoder, baselines, msdn, sdl, semantic_softmax
from zsljax.data import prepare, read_multilabel, read_regions, read_xlsa17
from zsljax.runs.sweep import sweep

train = importlib.import_module("zsljax.runs.train")
evaluate = importlib.import_module("zsljax.runs.evaluate").evaluate
DATA = pathlib.Path(os.environ.get("ZSLJAX_DATA", "")).absolute()

REGIONS = DATA / "scene15" / "feature_map_MobileNetV2_Scene15.hdf5"

pytestmark = pytest.mark.slow


def needs(path):
  return pytest.mark.skipif(
    not path.is_file(), reason=f"ZSLJAX_DATA names no folder with {path.name}"
  )


needs_awa1 = needs(DATA / "awa1" / "classic512.mat")
needs_scene15 = needs(REGIONS)
COREL5K = DATA / "corel5k" / "corel5k.npz"


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


@needs_awa1
@needs_scene15
@pytest.mark.parametrize(
  ("dataset", "negative", "gamma", "lambda_", "expected"),
  [
    ("awa1", -1.0, 10.0, 0.1, (32.32, 5.73, 34.01, 9.81)),
    ("awa1", 0.0, 10.0, 1.0, (33.68, 4.57, 31.40, 7.98)),
    ("scene15", -1.0, 0.1, 1.0, (42.19, 16.56, 80.38, 27.46)),
    ("scene15", 0.0, 10.0, 0.1, (62.56, 5.61, 91.88, 10.58)),
  ],
)
def test_eszsl_is_chosen_and_scores_as_known(
  stored, dataset, negative, gamma, lambda_, expected, tmp_path
):
  if dataset == "scene15" and not (stored / dataset).exists():
    prepare(read_regions(REGIONS, stored, pool=True), stored)
  config = baselines.get_config(f"{dataset},eszsl")
  config.data.dir = str(stored)
  config.mesh.data = 1
  config.grid.system.negative = (negative,)
  config.selection.metric = "t1"
  rows = sweep(config.to_dict(), 1, tmp_path, "official")
  chosen = json.loads((tmp_path / "chosen.json").read_text())["point"]
  assert chosen == {
    "system.gamma": gamma,
    "system.lambda_": lambda_,
    "system.negative": negative,
  }
  (row,) = [r for r in rows if (r["selection"], r["calibration"]) == ("last", "none")]
  for name, value in zip(("t1", "u", "s", "h"), expected, strict=True):
    assert row["metrics"][name] == pytest.approx(value, abs=0.05)


@pytest.fixture(scope="module")
def stored_regions(tmp_path_factory):
  dest = tmp_path_factory.mktemp("regions")
  prepare(read_regions(REGIONS, dest), dest)
  return dest


def mean_of_seeds(module, stored, workdir, seeds, dataset="scene15"):
  """Metrics of each kind of row, averaged over the seeds."""
  runs = []
  for seed in range(seeds):
    config = module.get_config(dataset)
    config.data.dir = str(stored)
    config.seed = seed
    config.mesh.data = 1
    train.train(config.to_dict(), workdir / str(seed))
    runs.append([row["metrics"] for row in evaluate(workdir / str(seed))])
  return [
    {name: np.mean([m[name] for m in metrics]) for name in metrics[0]}
    for metrics in zip(*runs, strict=True)
  ]


@needs_scene15
def test_msdn_on_scene15_is_like_the_authors_code(stored_regions, tmp_path):
  """Means of 3 and of 7 seeds differ by at most two and a half standard errors."""
  (metrics,) = mean_of_seeds(msdn, stored_regions, tmp_path, 3)
  for name, mean, deviation in (
    ("t1", 54.9, 2.2),
    ("u", 41.4, 3.3),
    ("s", 80.6, 1.6),
    ("h", 54.7, 2.8),
  ):
    error = deviation * (1 / 3 + 1 / 7) ** 0.5
    assert metrics[name] == pytest.approx(mean, abs=2.5 * error), name


@needs_scene15
def test_attended_autoencoder_on_scene15(stored_regions, tmp_path):
  plain, calibrated = mean_of_seeds(attended_autoencoder, stored_regions, tmp_path, 5)
  assert plain["t1"] >= 60
  assert calibrated["t1"] == plain["t1"]
  assert calibrated["h"] == pytest.approx(53.6, abs=1)
  assert calibrated["h"] > plain["h"] + 10


@needs(COREL5K)
def test_sdl_on_corel5k_is_like_the_reference(tmp_path):
  """An independent computation: means of 27.5, 7.5 and 3.1 over 4 seeds."""
  prepare(read_multilabel(COREL5K), tmp_path / "data")
  (metrics,) = mean_of_seeds(sdl, tmp_path / "data", tmp_path, 5, "corel5k")
  for name, low, high in (
    ("gzsl_f1@3", 27.0, 28.5),
    ("gzsl_map", 7.3, 7.8),
    ("zsl_map", 2.8, 3.5),
  ):
    assert low <= metrics[name] <= high, name
