"""Runs trained together are the runs trained apart; nothing is chosen on the test."""

import importlib
import json
from unittest import mock

import chex
import numpy as np
import pytest

import zsljax
from zsljax.configs import (
  attended_autoencoder,
  baselines,
  cosine,
  msdn,
  sdl,
  semantic_softmax,
)
from zsljax.errors import ZsljaxError
from zsljax.evaluation import make_evaluator
from zsljax.explain.report import _head
from zsljax.io.files import read_lines
from zsljax.reporting.rows import summarize
from zsljax.runs.experiment import Experiment
from zsljax.runs.selection import with_values
from zsljax.runs.sweep import sweep
from zsljax.runs.vmapped import RunSettings, VmappedRuns, one_of, vmappable_fields

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
  "generated prototypes, whitened": (
    lambda: zero_shot(
      batch_size=250,
      optimizer__weight_decay=1e-2,
      stage={"features": "whitened", "shrinkage": 0.1, "descriptors": "standardized"},
    ),
    {"system.scale": (10.0, 20.0)},
  ),
  "nearest mean, whitened": (
    lambda: shortened(baselines, "digits,nearest_mean", stage__features="whitened"),
    {"system.ridge": (0.1, 1e3)},
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


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_runs_trained_together_are_those_trained_apart(name, tmp_path):
  make, values = CONFIGS[name]
  config = make()
  run = Experiment.build(config)
  assert values.keys() <= vmappable_fields(run.system)
  total = run.training_data().total_steps(config["epochs"])
  points = [{field: both[i] for field, both in values.items()} for i in range(2)]
  variants = [RunSettings(seed, point) for point in points for seed in (0, 3)]
  runs = VmappedRuns(run, total)
  _, states, finite = list(runs.states(variants, [1, total]))[-1]
  assert finite.all()
  for i, variant in enumerate(variants):
    alone = with_values(config, {**variant.numbers, "seed": variant.seed})
    state = train.train(alone, tmp_path / str(i))
    together = one_of(states, i).params
    chex.assert_trees_all_close(together, state.params, rtol=1e-3, atol=2e-4)
  first, last = (one_of(states, i).params for i in (0, -1))
  with pytest.raises(AssertionError):
    chex.assert_trees_all_close(first, last, rtol=1e-3, atol=2e-4)


@pytest.mark.slow
def test_runs_over_several_devices_are_those_on_one():
  config = zero_shot(batch_size=248)
  states = []
  for devices in (1, 4):
    config["mesh"]["data"] = devices
    runs = VmappedRuns(Experiment.build(config), 8)
    ((_, state, _),) = runs.states([RunSettings(0), RunSettings(1)], [8])
    states.append(state.params)
  chex.assert_trees_all_close(*states, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_converged_runs_stand_still():
  config = shortened(semantic_softmax, "digits", optimizer__tolerance=1e-3)
  variants = [RunSettings(0, {"system.l2_weights": weight}) for weight in (1e-2, 10.0)]
  runs = VmappedRuns(Experiment.build(config), 500)
  states = runs.states(variants, [40, 500])
  found = [(stop, np.asarray(state.step)) for stop, state, _ in states]
  (_, early), (last, late) = found
  assert last == 500 and len(set(late.tolist())) == 2
  assert late.max() < 500 and (early <= late).all()


def test_numbers_of_several_runs_are_not_split_over_devices():
  config = zero_shot(mesh={"data": 2, "model": 2})
  with pytest.raises(ZsljaxError, match=r"config.mesh.model: found 2, expected 1"):
    VmappedRuns(Experiment.build(config), 8)


class Interrupted(Exception):
  pass


def small_sweep(**fields):
  config = zero_shot(epochs=3, batch_size=100, **fields)
  config["selection"] |= {"stops": 3, "seeds": 2, "together": 8}
  config["grid"] = {
    "system": {"scale": (5.0, 20.0), "embedding_size": [4, 8]},
    "optimizer": {"learning_rate": (1e-3, 1e-2)},
  }
  return config


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("sweep")
  return workdir, sweep(small_sweep(), 3, workdir, "2")


def lines_of(workdir):
  return read_lines(workdir / "search.jsonl")


def test_sweep_tries_all_points_and_keeps_the_best(swept):
  workdir, _ = swept
  lines = lines_of(workdir)
  assert len({json.dumps(line["point"]) for line in lines}) == 8
  assert len(lines) == 8 * 3 * 2 * 2 and {x["step"] for x in lines} == {10, 20, 30}
  chosen = json.loads((workdir / "chosen.json").read_text())
  own = [
    x for x in lines if (x["point"], x["step"]) == (chosen["point"], chosen["step"])
  ]
  assert chosen["value"] == pytest.approx(np.mean([x["value"] for x in own]))
  assert chosen["metric"] == "ausuc" and chosen["settings"] == 8


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
        own = json.loads((workdir / f"seed_{row['seed']}" / "chosen.json").read_text())
        assert row["provenance"]["gamma"] == own["gamma"]
        chances = row["provenance"]["probabilities"]
        assert chances["temperature"] == own["temperature"] > 0
        assert 0 <= chances["ece"] <= 100
      assert row["protocol"] == "xian" or "selections" not in row.get("spread", {})
      if row["protocol"] == "xian":
        low, high = row["spread"]["interval"]["h"]
        assert low < row["metrics"]["h"] < high
        assert row["spread"]["selections"]["h"] >= 0
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
    *found, oracle = eval_script.evaluate(workdir / f"seed_{seed}", test_oracle=True)
    assert oracle["selection"] == "test_oracle"
    assert oracle["metrics"]["h"] >= found[1]["metrics"]["h"]
    own = [
      row
      for row in rows
      if (row["seed"], row["protocol"]) == (seed, "xian")
      and row["selection"] == "val_selected"
    ]
    for one, other in zip(found, own, strict=True):  # Without and with the gamma.
      assert one["calibration"] == other["calibration"]
      assert one["metrics"] == pytest.approx(other["metrics"], abs=0.5)
      assert one["provenance"]["chosen"] == other["provenance"]["chosen"]
      assert one["provenance"]["config"]["seed"] == seed


def test_a_report_on_a_run_of_a_sweep_has_its_rows(swept):
  workdir, rows = swept
  own = workdir / "seed_1"
  scored = mock.Mock(names=[], unseen=np.zeros(0, bool))
  page = _head(Experiment.of_run(own), zsljax.load(own), scored, own)
  for row in rows:
    if row["selection"] == "val_selected" and row["protocol"] == "xian":
      shown = f"U {row['metrics']['u']:.2f}, S {row['metrics']['s']:.2f}" in page
      assert shown == (row["seed"] == 1)


@pytest.mark.slow
def test_a_fold_is_judged_as_eval_judges_a_run(tmp_path):
  config = shortened(semantic_softmax, "digits", epochs=4, selection__stops=1)
  sweep(config, 1, tmp_path / "sweep", "official")
  (line,) = lines_of(tmp_path / "sweep")
  config["data"]["train_split"] = "train"
  train.train(config, tmp_path / "run")
  row, lowered = eval_script.evaluate(tmp_path / "run", split="val")
  assert row["metrics"] == pytest.approx(line["metrics"], abs=0.01)
  assert max(line["h"]) == pytest.approx(lowered["metrics"]["h"], abs=0.01)
  chosen, run = (
    json.loads((tmp_path / "sweep" / "chosen.json").read_text()),
    lowered["provenance"],
  )
  assert chosen["share"] == run["share"]
  expected = run["temperature_share"]
  assert chosen["temperature_share"] == pytest.approx(expected, rel=0.01)


def test_a_shared_gamma_is_in_each_run_its_share_of_the_margin(swept, tmp_path):
  workdir, rows = swept
  (row,) = [
    r
    for r in rows
    if (r["seed"], r["selection"], r["calibration"]) == (1, "val_selected", "additive")
  ]
  run = Experiment.of_run(workdir / "seed_1")
  scored = eval_script.Scored(make_evaluator("xian"), workdir / "seed_1", run, "test")
  share = row["provenance"]["chosen"]["share"]
  expected = share * scored.mean_margin("additive")
  assert row["provenance"]["gamma"] == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_finished_sweep_is_read_and_further_seeds_are_added(swept, monkeypatch):
  workdir, rows = swept
  trained = []

  class Counted(VmappedRuns):
    def states(self, settings, *rest):
      trained.append([one.seed for one in settings])
      return super().states(settings, *rest)

  monkeypatch.setattr(sweep_module, "VmappedRuns", Counted)
  assert sweep(small_sweep(), 3, workdir, "2") == rows
  assert sweep(small_sweep(), 2, workdir, "2") == [r for r in rows if r["seed"] < 2]
  assert not trained
  more = sweep(small_sweep(), 4, workdir, "2")
  assert trained == [[3]] and {r["seed"] for r in more} == {0, 1, 2, 3}


@pytest.mark.slow
def test_interrupted_sweep_continues(swept, tmp_path, monkeypatch):
  workdir, rows = swept
  original, written = sweep_module.append_line, []

  def interrupted(*arguments):
    written.append(arguments)
    if len(written) == 60:
      raise Interrupted
    original(*arguments)

  with monkeypatch.context() as patch, pytest.raises(Interrupted):
    patch.setattr(sweep_module, "append_line", interrupted)
    sweep(small_sweep(), 3, tmp_path, "2")
  assert len(lines_of(tmp_path)) == 59
  again = sweep(small_sweep(), 3, tmp_path, "2")
  assert [r["metrics"] for r in again] == [r["metrics"] for r in rows if r["seed"] < 3]
  one, other = (
    json.loads((p / "chosen.json").read_text()) for p in (tmp_path, workdir)
  )
  assert one == other


@pytest.mark.slow
def test_parts_of_a_sweep_are_the_sweep(swept, tmp_path):
  whole, rows = swept
  for part in ((2, 3), (1, 3)):
    assert sweep(small_sweep(), 3, tmp_path, "2", part) == []
  assert not (tmp_path / "chosen.json").exists()
  tried = {path.name: read_lines(path) for path in tmp_path.glob("search*.jsonl")}
  assert sorted(tried) == ["search_1_of_3.jsonl", "search_2_of_3.jsonl"]
  assert all(tried.values())
  found = sweep(small_sweep(), 3, tmp_path, "2")
  assert 0 < len(lines_of(tmp_path)) < len(lines_of(whole))
  chosen, expected = (
    json.loads((folder / "chosen.json").read_text()) for folder in (tmp_path, whole)
  )
  assert chosen == expected
  assert [r["metrics"] for r in found] == [r["metrics"] for r in rows]
  for part in ((0, 3), (4, 3)):
    with pytest.raises(ZsljaxError, match="--part: found ./3, expected 1/N to N/N"):
      sweep(small_sweep(), 3, tmp_path, "2", part)


@pytest.mark.slow
def test_diverging_points_are_not_chosen(tmp_path):
  config = zero_shot(batch_size=250)
  config["selection"] |= {"stops": 1}
  config["grid"] = {"optimizer": {"learning_rate": (1e38, 1e-3)}}
  sweep(config, 1, tmp_path / "one", "2")
  chosen = json.loads((tmp_path / "one" / "chosen.json").read_text())
  assert chosen["point"] == {"optimizer.learning_rate": 1e-3}
  assert lines_of(tmp_path / "one")[0]["value"] is None
  config["grid"] = {"optimizer": {"learning_rate": (1e38,)}}
  with pytest.raises(ZsljaxError, match="loss of all 1 settings is not finite"):
    sweep(config, 1, tmp_path / "all", "2")


@pytest.mark.slow
def test_sweeps_of_other_protocols(tmp_path):
  config = shortened(cosine, "digits,so_softmax", batch_size=250, selection__stops=2)
  rows = sweep(config, 2, tmp_path / "closed")
  assert {r["selection"] for r in rows} == {"val_selected", "last", "test_oracle"}
  assert {r["protocol"] for r in rows} == {"embeddings"}
  spreads = [
    r["spread"]["selections"] for r in rows if "selections" in r.get("spread", {})
  ]
  assert len(spreads) == 2 and spreads[0]["recall@1"] >= 0
  config = shortened(sdl, "multidigit", batch_size=1250, selection__stops=2)
  rows = sweep(config, 2, tmp_path / "labels")
  assert all(r["conditions"]["top_k"] == [1, 2] for r in rows)
  assert "gzsl_map" in summarize(rows)[0].mean
  given = [row["selection"] for row in rows if "gzsl_f1@threshold" in row["metrics"]]
  assert given.count("val_selected") == 2 and "test_oracle" not in given
  (again,) = eval_script.evaluate(tmp_path / "labels/seed_0")
  (row,) = (r for r in rows if r["seed"] == 0 and r["selection"] == "val_selected")
  assert again["metrics"]["gzsl_f1@threshold"] == pytest.approx(
    row["metrics"]["gzsl_f1@threshold"]
  )
  predictor = zsljax.load(tmp_path / "labels/seed_0")
  found = predictor.predict(np.zeros((2, *predictor.spec.feature_shape)), seen=True)
  assert found.given.shape == found.scores.shape == (2, len(predictor.classes))


@pytest.mark.parametrize(
  ("grid", "message"),
  [
    ({"system": {"scal": (1.0,)}}, "config.grid.system.scal: no field of the stage"),
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
  assert "of 1 setting after 1 number of steps each" in done.stdout
  assert "test_oracle" in done.stdout
  done = command(
    *("-m", "zsljax", "compare", "--config=configs/cosine.py:digits"),
    *(f"--workdir={tmp_path / 'c'}", "--losses=normface,so_softmax", "--seeds=1"),
    *fields,
  )
  assert [line.split()[0] for line in done.stdout.splitlines() if "scale" in line] == [
    "normface",
    "so_softmax*",
  ]


@pytest.mark.slow
def test_closed_forms_at_the_sizes_of_cub_come_to_an_end(stand_in, command, tmp_path):
  """Two batched LAPACK calls in one program wait for each other for ever."""
  rng = np.random.default_rng(0)
  labels = np.arange(11788) % 200
  rows = np.arange(11788)
  seen = rows[labels < 150]
  stand_in(
    "cub",
    tmp_path / "data",
    features=rng.standard_normal((11788, 1280)).astype(np.float32),
    labels=labels,
    class_names=[f"class {i}" for i in range(200)],
    embeddings=rng.standard_normal((200, 312)),
    attribute_vectors=None,
    trainval=seen[seen // 200 % 5 != 0],
    test_seen=seen[seen // 200 % 5 == 0],
    test_unseen=rows[labels >= 150],
    validation_classes=range(50),
  )
  for system in ("eszsl", "sae", "nearest_mean"):
    done = command(
      *("-m", "zsljax", "sweep", f"--config=baselines:cub,{system}", "--seeds=1"),
      *(f"--config.data.dir={tmp_path / 'data'}", f"--workdir={tmp_path / system}"),
      timeout=400,
    )
    assert "chosen on 5 class folds" in done.stdout


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"batch_size": 1000}, "config.batch_size: found 1000, expected at most"),
    (
      {"batch_size": 6, "data__sampling": "class_balanced", "mesh__data": 3},
      "images of a batch on a fold: found 5, expected a multiple of 3",
    ),
  ],
)
def test_batches_that_a_fold_cannot_fill_are_refused(fields, message, tmp_path):
  config = zero_shot(**fields)
  with pytest.raises(ZsljaxError, match=message):
    sweep(config, 1, tmp_path, "2")
