"""Runs trained together are the runs trained apart; nothing is chosen on the test."""

import importlib
import json

import chex
import jax
import numpy as np
import pytest

from zsljax.configs import attended_autoencoder, cosine, msdn, sdl, semantic_softmax
from zsljax.errors import ZsljaxError
from zsljax.io.files import read_lines
from zsljax.reporting.rows import summarize
from zsljax.runs.experiment import Experiment
from zsljax.runs.sweep import sweep
from zsljax.runs.vmapped import RunSettings, VmappedRuns, vmappable_fields

train = importlib.import_module("zsljax.runs.train")
eval_script = importlib.import_module("zsljax.runs.evaluate")
sweep_module = importlib.import_module("zsljax.runs.sweep")


def shortened(module, argument, **fields):
  config = module.get_config(argument)
  config.mesh.data = 1
  config.epochs = 2
  config = config.to_dict()
  config["grid"] = {}
  for field, value in fields.items():
    part, _, name = field.partition("__")
    if name:
      config[part][name] = value
    else:
      config[part] = value
  return config


def zero_shot(**fields):
  """Generated prototypes on the digits' pixels."""
  config = shortened(cosine, "digits", **fields)
  config["system"] |= {
    "preset": "zero_shot",
    "hidden": (16,),
    "embedding_size": 8,
    "generator_hidden": 16,
  }
  return config


CONFIGS = {
  "learned prototypes": (
    lambda: shortened(cosine, "digits,arcface", batch_size=250),
    {"system.margin": (0.1, 0.3), "optimizer.weight_decay": (0.0, 1e-2)},
  ),
  "generated prototypes": (
    lambda: zero_shot(batch_size=250, data__sampling="independent"),
    {"system.scale": (10.0, 20.0), "optimizer.learning_rate": (1e-3, 1e-2)},
  ),
  "semantic softmax, minibatches": (
    lambda: shortened(
      semantic_softmax,
      "digits",
      batch_size=250,
      optimizer__name="adam",
      optimizer__schedule="one_cycle",
    ),
    {"system.l2_weights": (1e-2, 1.0), "optimizer.learning_rate": (1e-3, 1e-2)},
  ),
  "semantic softmax, L-BFGS": (
    lambda: shortened(semantic_softmax, "digits", epochs=4),
    {"system.l2_weights": (1e-2, 1.0)},
  ),
  "msdn": (
    lambda: shortened(msdn, "digits", batch_size=250, epochs=1),
    {"system.weight_calibration": (0.1, 0.3), "optimizer.learning_rate": (1e-4, 1e-3)},
  ),
  "attended autoencoder": (
    lambda: shortened(attended_autoencoder, "digits", batch_size=250, epochs=1),
    {"system.scale": (2.0, 5.0), "system.weight_reconstruction": (0.0, 1.0)},
  ),
  "sdl": (
    lambda: shortened(sdl, "multidigit", batch_size=1250, epochs=1),
    {"system.variance_weight": (0.0, 0.3)},
  ),
}


# Those that run always; between them they have all ways of drawing batches.
QUICK = ("generated prototypes", "semantic softmax, minibatches", "msdn")


@pytest.mark.parametrize(
  "name",
  [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CONFIGS],
)
def test_runs_trained_together_are_those_trained_apart(name, tmp_path):
  make, values = CONFIGS[name]
  config = make()
  run = Experiment.build(config)
  assert values.keys() <= vmappable_fields(run.system)
  total = run.training_data().total_steps(config["epochs"])
  points = [{field: both[i] for field, both in values.items()} for i in range(2)]
  variants = [RunSettings(seed, point) for point in points for seed in (0, 3)]
  runs = VmappedRuns(run, variants, total)
  (_, states) = list(runs.states([1, total]))[-1]
  assert runs.finite.all()
  for i, variant in enumerate(variants):
    alone = sweep_module.with_values(config, {**variant.numbers, "seed": variant.seed})
    state = train.train(alone, tmp_path / str(i))
    together = jax.tree.map(lambda x, i=i: x[i], states.params)
    chex.assert_trees_all_close(together, state.params, rtol=1e-3, atol=2e-4)
  first, last = (jax.tree.map(lambda x, i=i: x[i], states.params) for i in (0, -1))
  with pytest.raises(AssertionError):
    chex.assert_trees_all_close(first, last, rtol=1e-3, atol=2e-4)


def test_runs_over_several_devices_are_those_on_one():
  config = zero_shot(batch_size=248)
  states = []
  for devices in (1, 4):
    config["mesh"]["data"] = devices
    runs = VmappedRuns(Experiment.build(config), [RunSettings(0), RunSettings(1)], 8)
    ((_, state),) = runs.states([8])
    states.append(state.params)
  chex.assert_trees_all_close(*states, rtol=1e-4, atol=1e-5)


def test_converged_runs_stand_still():
  config = shortened(semantic_softmax, "digits", optimizer__tolerance=1e-3)
  variants = [RunSettings(0, {"system.l2_weights": weight}) for weight in (1e-2, 10.0)]
  runs = VmappedRuns(Experiment.build(config), variants, 500)
  found = [(stop, np.asarray(state.step)) for stop, state in runs.states([40, 500])]
  (_, early), (last, late) = found
  assert last == 500 and len(set(late.tolist())) == 2
  assert late.max() < 500 and (early <= late).all()


def test_numbers_of_several_runs_are_not_split_over_devices():
  config = zero_shot(mesh={"data": 2, "model": 2})
  with pytest.raises(ZsljaxError, match=r"config.mesh.model: found 2, expected 1"):
    VmappedRuns(Experiment.build(config), [RunSettings(0)], 8)


class Interrupted(Exception):
  pass


def small_sweep(**fields):
  config = zero_shot(epochs=3, batch_size=100, **fields)
  config["selection"] |= {"stops": 3, "seeds": 2, "together": 4}
  config["grid"] = {
    "system": {"scale": (5.0, 20.0), "embedding_size": [4, 8]},
    "optimizer": {"learning_rate": (1e-3, 1e-2)},
  }
  return config


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("sweep")
  return workdir, sweep(small_sweep(), 3, workdir)


def lines_of(workdir):
  return read_lines(workdir / "search.jsonl")


def test_sweep_tries_all_points_and_keeps_the_best(swept):
  workdir, _ = swept
  lines = lines_of(workdir)
  assert len({json.dumps(line["point"]) for line in lines}) == 8
  assert len(lines) == 8 * 3 and {line["step"] for line in lines} == {10, 20, 30}
  chosen = json.loads((workdir / "chosen.json").read_text())
  assert chosen["value"] == max(line["value"] for line in lines)
  assert chosen["metric"] == "h" and chosen["settings"] == 8


def test_rows_of_a_sweep_say_what_was_chosen_where(swept):
  workdir, rows = swept
  chosen = json.loads((workdir / "chosen.json").read_text())
  kinds = [(r["protocol"], r["selection"], r["calibration"]) for r in rows]
  assert sorted(set(kinds)) == [
    ("embeddings", "val_selected", "none"),
    ("xian", "last", "none"),
    ("xian", "test_oracle", "additive"),
    ("xian", "val_selected", "additive"),
    ("xian", "val_selected", "none"),
  ]
  assert len(rows) == 5 * 3
  for row, (_, selection, calibration) in zip(rows, kinds, strict=True):
    assert row["provenance"]["chosen"]["point"] == chosen["point"]
    assert row["provenance"]["config"]["data"]["train_split"] == "trainval"
    if selection == "val_selected":
      assert row["step"] == chosen["step"]
      if calibration == "additive":
        assert row["provenance"]["gamma"] == chosen["gamma"]
    if selection == "last":
      assert row["step"] == 30
  for seed in range(3):
    h = {
      row["selection"]: row["metrics"]["h"]
      for row in rows
      if (row["seed"], row["calibration"]) == (seed, "additive")
    }
    assert h["test_oracle"] >= h["val_selected"]


def test_runs_of_a_sweep_are_runs(swept):
  workdir, rows = swept
  for seed in range(3):
    row, oracle = eval_script.evaluate(workdir / f"seed_{seed}", test_oracle=True)
    assert (row["selection"], oracle["selection"]) == ("val_selected", "test_oracle")
    assert oracle["metrics"]["h"] >= row["metrics"]["h"]
    (own,) = [
      r["metrics"]
      for r in rows
      if (r["seed"], r["protocol"]) == (seed, "xian")
      and (r["selection"], r["calibration"]) == ("val_selected", "none")
    ]
    assert row["metrics"] == pytest.approx(own, abs=0.5)
    assert row["provenance"]["config"]["seed"] == seed


def test_a_point_is_judged_as_eval_judges_a_run(swept, tmp_path):
  workdir, _ = swept
  line = [line for line in lines_of(workdir) if line["step"] == 30][3]
  point = {**line["point"], "data.train_split": "train", "epochs": 1}
  config = sweep_module.with_values(small_sweep(), point)
  run = Experiment.build(config)
  # As many steps as on trainval, of which an epoch has more.
  steps = run.training_data().steps_per_epoch
  config["epochs"] = 30 // steps
  assert config["epochs"] * steps == 30
  for seed in range(2):
    config["seed"] = seed
    train.train(config, tmp_path / str(seed))
    row, _ = eval_script.evaluate(tmp_path / str(seed), split="val")
    assert row["metrics"] == pytest.approx(line["metrics"][seed], abs=0.5)


def test_finished_sweep_is_read_and_further_seeds_are_added(
  swept, tmp_path, monkeypatch
):
  workdir, rows = swept
  trained = []

  class Counted(VmappedRuns):
    def __init__(self, run, variants, total_steps):
      trained.append([v.seed for v in variants])
      super().__init__(run, variants, total_steps)

  monkeypatch.setattr(sweep_module, "VmappedRuns", Counted)
  assert sweep(small_sweep(), 3, workdir) == rows
  assert sweep(small_sweep(), 2, workdir) == [r for r in rows if r["seed"] < 2]
  assert not trained
  more = sweep(small_sweep(), 4, workdir)
  assert trained == [[3]] and {r["seed"] for r in more} == {0, 1, 2, 3}


@pytest.mark.slow
def test_interrupted_sweep_continues(swept, tmp_path, monkeypatch):
  workdir, rows = swept
  original, begun = sweep_module._try, []

  def interrupted(*arguments):
    begun.append(arguments)
    if len(begun) == 3:
      raise Interrupted
    original(*arguments)

  monkeypatch.setattr(sweep_module, "_try", interrupted)
  with pytest.raises(Interrupted):
    sweep(small_sweep(), 3, tmp_path)
  assert 0 < len(lines_of(tmp_path)) < len(lines_of(workdir))
  again = sweep(small_sweep(), 3, tmp_path)
  assert [r["metrics"] for r in again] == [r["metrics"] for r in rows if r["seed"] < 3]
  assert lines_of(tmp_path) == lines_of(workdir)


@pytest.mark.slow
def test_diverging_points_are_not_chosen(tmp_path):
  config = zero_shot(batch_size=250)
  config["selection"] |= {"stops": 1}
  config["grid"] = {"optimizer": {"learning_rate": (1e38, 1e-3)}}
  sweep(config, 1, tmp_path / "one")
  chosen = json.loads((tmp_path / "one" / "chosen.json").read_text())
  assert chosen["point"] == {"optimizer.learning_rate": 1e-3}
  assert lines_of(tmp_path / "one")[0]["value"] is None
  config["grid"] = {"optimizer": {"learning_rate": (1e38,)}}
  with pytest.raises(ZsljaxError, match="loss of all 1 settings is not finite"):
    sweep(config, 1, tmp_path / "all")


@pytest.mark.slow
def test_sweeps_of_other_protocols(tmp_path):
  config = shortened(cosine, "digits,so_softmax", batch_size=250, selection__stops=2)
  rows = sweep(config, 2, tmp_path / "closed")
  assert {r["selection"] for r in rows} == {"val_selected", "last", "test_oracle"}
  assert {r["protocol"] for r in rows} == {"embeddings"}
  config = shortened(sdl, "multidigit", batch_size=1250, selection__stops=2)
  rows = sweep(config, 2, tmp_path / "labels")
  assert all(r["conditions"]["top_k"] == [1, 2] for r in rows)
  assert "gzsl_map" in summarize(rows)[0].mean


@pytest.mark.parametrize(
  ("grid", "message"),
  [
    ({"system": {"scal": (1.0,)}}, "config.grid.system.scal: no field of the system"),
    ({"data": {"train_split": ("train",)}}, "config.grid.data.train_split: no field"),
    ({"system": {"scale": ()}}, "config.grid.system.scale: found"),
    ({"system": {"scale": 3.0}}, "expected values to try"),
    ({"system": {"scale": (3.0, -1.0)}}, "config.system.scale: found -1.0, expected"),
  ],
)
def test_spoilt_grids_are_refused(grid, message, tmp_path):
  config = zero_shot()
  config["grid"] = grid
  with pytest.raises(ZsljaxError, match=message):
    sweep(config, 1, tmp_path)


def test_sweep_folder_is_no_run(swept):
  workdir, _ = swept
  with pytest.raises(ZsljaxError, match="its runs are in its subfolders seed_0"):
    eval_script.evaluate(workdir)


@pytest.mark.slow
def test_commands(command, tmp_path):
  fields = [
    "--config.epochs=1",
    "--config.batch_size=500",
    "--config.selection.stops=1",
  ]
  done = command(
    *("-m", "zsljax", "sweep", "--config=configs/cosine.py:digits,softmax"),
    *(f"--workdir={tmp_path / 's'}", "--seeds=2", *fields),
  )
  assert "of 1 settings" in done.stdout and "test_oracle" in done.stdout
  done = command(
    *("-m", "zsljax", "compare", "--config=configs/cosine.py:digits"),
    *(f"--workdir={tmp_path / 'c'}", "--losses=normface,so_softmax", "--seeds=1"),
    *fields,
  )
  assert [line.split()[0] for line in done.stdout.splitlines() if "scale" in line] == [
    "normface",
    "so_softmax*",
  ]
