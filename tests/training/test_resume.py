"""A run ends with the same bits killed or not, its images on the devices or not."""

import importlib
import json
import pathlib
import random
import signal
import subprocess
import sys
import time

import chex
import numpy as np
import pytest

from zsljax.io.files import read_lines
from zsljax.runs.config import read_config
from zsljax.runs.experiment import Experiment
from zsljax.training.checkpoints import Checkpoints

train = importlib.import_module("zsljax.runs.train")
evaluate = importlib.import_module("zsljax.runs.evaluate")

ROOT = pathlib.Path(__file__).parents[2]
KILLS = 8


@pytest.mark.slow
@pytest.mark.parametrize(
  ("config", "overrides"),
  [
    ("semantic_softmax", ("optimizer.name=adam", "batch_size=64")),
    ("msdn", ()),
    ("cosine", ()),
  ],
)
def test_resident_epochs_have_the_bits_of_streamed_ones(tmp_path, config, overrides):
  states = {}
  for cache in ("device", "none"):
    fields = (
      *overrides, f"data.cache={cache}", f"data.dir={tmp_path / 'data'}", "epochs=3",
      "mesh.data=1", "checkpoint.every_epochs=2", "log_every=1",
    )  # fmt: skip
    config_dict = read_config(
      f"{ROOT}/configs/{config}.py:digits", [f"--config.{field}" for field in fields]
    )
    states[cache] = train.train(config_dict, tmp_path / cache)
  chex.assert_trees_all_equal(states["device"].params, states["none"].params)
  chex.assert_trees_all_equal(states["device"].opt_state, states["none"].opt_state)
  resident, streamed = (read_lines(tmp_path / c / "metrics.jsonl") for c in states)
  assert resident == streamed
  assert len(resident) == int(states["device"].step)


@pytest.mark.slow
def test_watched_metrics_are_those_of_an_evaluation(tmp_path):
  overrides = (
    f"data.dir={tmp_path / 'data'}", "epochs=2", "data.train_split=train",
    "evaluation.every_epochs=1", "evaluation.batch_size=100", "mesh.data=1",
    "optimizer.name=adam", "batch_size=256",
  )  # fmt: skip
  config = read_config(
    f"{ROOT}/configs/semantic_softmax.py:digits", [f"--config.{o}" for o in overrides]
  )
  train.train(config, tmp_path / "run")
  watched = [r for r in read_lines(tmp_path / "run" / "metrics.jsonl") if "val_h" in r]
  row, *_ = evaluate.evaluate(tmp_path / "run", "val")
  found = {name: watched[-1][f"val_{name}"] for name in row["metrics"]}
  assert found == pytest.approx(row["metrics"], abs=1e-6)  # Rows are rounded.
  assert len(watched) == 2


def start(workdir, data, cache):
  return subprocess.Popen(
    [
      sys.executable, "train.py", "--config=configs/semantic_softmax.py:digits",
      f"--workdir={workdir}", f"--config.data.dir={data}",
      "--config.optimizer.name=adam", "--config.batch_size=64", "--config.epochs=300",
      "--config.checkpoint.every_epochs=2", f"--config.data.cache={cache}",
    ],
    cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
  )  # fmt: skip


def final_params(workdir):
  import jax

  config = json.loads((workdir / "manifest.json").read_text())["config"]
  run = Experiment.build(config)
  checkpoints = Checkpoints(workdir, run.identity())
  params = checkpoints.restore_params(run.param_shapes())
  return checkpoints.latest_step(), jax.device_get(params)["prototypes"]["kernel"]


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["none", "device"])
def test_random_kills_change_no_bit(tmp_path, cache):
  whole = start(tmp_path / "whole", tmp_path / "data", "none")
  output, _ = whole.communicate(timeout=300)
  assert whole.returncode == 0, output
  last, expected = final_params(tmp_path / "whole")

  rng = random.Random(0)
  cut = tmp_path / "cut"

  def newest():
    names = [p.name for p in (cut / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=0)

  for kill in range(KILLS):
    run = start(cut, tmp_path / "data", cache)
    began, before = time.monotonic(), newest()
    if kill % 2:  # Near a checkpoint, while it is written or just after.
      goal = before + 30 * rng.randint(1, 3)
      while newest() < goal and time.monotonic() < began + 120:
        assert run.poll() is None, run.communicate()[0]
        time.sleep(0.002)
      time.sleep(rng.random() * 0.05)
      assert newest() >= goal
    else:  # At any moment: imports, preparing data, compiling, training.
      time.sleep(rng.uniform(0, 8))
    assert run.poll() is None, run.communicate()[0]
    run.send_signal(signal.SIGKILL)
    run.communicate()

  final = start(cut, tmp_path / "data", cache)
  output, _ = final.communicate(timeout=300)
  assert final.returncode == 0, output
  step, found = final_params(cut)
  assert step == last
  np.testing.assert_array_equal(found, expected)
  lines = [json.loads(s) for s in (cut / "metrics.jsonl").read_text().splitlines()]
  steps = [line["step"] for line in lines]
  assert steps == sorted(set(steps)) and steps[0] == 0
  whole_lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
  assert lines == [json.loads(s) for s in whole_lines]
