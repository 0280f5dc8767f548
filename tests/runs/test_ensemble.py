"""Runs that score as one are the average of their scores, in every command."""

import types

import numpy as np
import pytest

import zsljax
from zsljax.cli.main import main
from zsljax.configs import baselines, cosine, semantic_softmax
from zsljax.errors import ZsljaxError
from zsljax.reporting.rows import read_chosen, read_rows
from zsljax.runs import ensemble as module
from zsljax.runs.ensemble import EndedSweep, ensemble, gathered
from zsljax.runs.evaluate import evaluate
from zsljax.runs.sweep import sweep

pytestmark = pytest.mark.slow


def swept(folder, module, argument, seeds, folds="2", **fields):
  config = module.get_config(argument)
  config.mesh.data, config.grid = 1, {}
  config.update(fields)
  sweep(config.to_dict(), seeds, folder, folds)
  return folder


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
  root = tmp_path_factory.mktemp("sweeps")
  return {
    "softmax": swept(root / "a", semantic_softmax, "digits", 2, epochs=2),
    "mean": swept(root / "b", baselines, "digits,nearest_mean", 1),
    "closed": swept(root / "d", cosine, "digits,arcface", 2, epochs=1),
    "patches": swept(root / "c", baselines, "digits,nearest_mean", 2, folds="3"),
  }


def test_an_ensemble_is_the_average_of_its_runs(sweeps, tmp_path, capsys):
  workdir = tmp_path / "w"
  main(
    ["ensemble", str(sweeps["softmax"]), str(sweeps["mean"]), f"--workdir={workdir}"]
  )
  assert "ausuc on folds by what makes scores comparable" in capsys.readouterr().out
  chosen = read_chosen(workdir)
  rows = read_rows(workdir)
  assert [row["calibration"] for row in rows] == ["none", "additive"]
  again = evaluate(workdir, gamma=chosen["gamma"])
  for row, same in zip(rows, again, strict=True):
    assert row["metrics"] == same["metrics"]
  joined = zsljax.load(workdir)
  system, how = joined.system, chosen["point"]["system.normalization"]
  np.testing.assert_allclose(system.weights, [0.25, 0.25, 0.5])
  images = np.random.default_rng(0).random((5, *joined.spec.feature_shape), np.float32)
  seen, expected = np.asarray(joined.classes.seen), 0
  runs = [sweeps["softmax"] / "seed_0", sweeps["softmax"] / "seed_1"]
  for i, folder in enumerate([*runs, sweeps["mean"] / "seed_0"]):
    run = zsljax.load(folder)
    own = np.asarray(run.system.scores(run.params, images, run.classes), np.float64)
    if how == "standardized":
      among = own[:, seen]
      own = (own - among.mean(1, keepdims=True)) / among.std(1, keepdims=True)
    else:
      own /= system.margins[i]
    if how == "probabilities":
      own = np.exp(own / system.temperatures[i])
      own /= own[:, seen].sum(1, keepdims=True)
    expected += system.weights[i] * own
  found = system.scores(joined.params, images, joined.classes)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  assert joined.predict(images, seen=True, attributes=2).attributes[0]
  main(["eval", f"--workdir={workdir}"])
  assert "ensemble of 2 semantic softmax, 1 nearest mean" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("of", "message"),
  [
    (("mean",), "b: found one run, expected two or more, as of sweep --seeds=8"),
    (("softmax", "patches"), "c: folds: found 3, expected those of .*a"),
    (("softmax", None), "no sweep.json, expected the --workdir"),
    (("softmax", "softmax"), "a: found a run twice, expected each once"),
    (("closed",), "found learned class weights, expected scores of new classes"),
  ],
)
def test_runs_that_do_not_belong_together_are_refused(sweeps, tmp_path, of, message):
  folders = [sweeps.get(name, tmp_path / "none") for name in of]
  with pytest.raises(ZsljaxError, match=message):
    ensemble([EndedSweep.open(x) for x in folders], tmp_path / "w")
  assert not (tmp_path / "w").exists()


# What three folds reach, by the systems that are joined.
REACHED = {
  "a": (50, 50, 50),
  "ab": (51, 51, 51),
  "ac": (52, 53, 54),
  "ad": (51, 52, 53),
  "acb": (52, 53, 54),
  "acd": (53, 54, 55),
  "acdb": (60, 60, 60),
}


@pytest.mark.parametrize(
  ("changed", "most", "found"),
  [
    ({}, 3, "acd"),
    ({}, 2, "ac"),
    ({}, 4, "acdb"),
    ({"acd": (52, 53, 54)}, 4, "ac"),
    # A mean of 2 with a standard error of 2.
    ({"ac": (50, 50, 56), "acd": (0, 0, 0)}, 3, "a"),
    ({"ac": (51, 50, 56), "acd": (0, 0, 0)}, 3, "ac"),
    ({"ac": (49, 49, 49), "ad": (49, 49, 49), "ab": (50, 50, 50)}, 3, "a"),
  ],
)
def test_sweeps_are_added_while_the_folds_gain(monkeypatch, changed, most, found):
  def choices(members):
    of_folds = (REACHED | changed)["".join(members)]
    worse = types.SimpleNamespace(of_folds=(0, 0, 0))
    return {"margin": types.SimpleNamespace(of_folds=of_folds), "other": worse}

  monkeypatch.setattr(module, "_check", lambda members: None)
  monkeypatch.setattr(module, "_choices", choices)
  assert "".join(gathered("abcd", most)) == found


def test_sweeps_that_do_not_belong_are_not_added(sweeps, caplog):
  folders = (sweeps[name] for name in ("mean", "patches", "closed"))
  members = gathered([EndedSweep.open(folder) for folder in folders], 3)
  assert [member.folder for member in members] == [sweeps["mean"]]
  assert "c: folds: found 3" in caplog.text and "learned class weights" in caplog.text


def test_an_ensemble_is_a_new_folder(sweeps, tmp_path):
  with pytest.raises(ZsljaxError, match=r"--workdir=.*: found a folder, expected a"):
    ensemble([EndedSweep.open(sweeps["softmax"])], tmp_path)


def test_a_sweep_that_has_not_ended_is_refused(sweeps, tmp_path):
  folder = tmp_path / "s"
  folder.mkdir()
  (folder / "sweep.json").write_text((sweeps["softmax"] / "sweep.json").read_text())
  with pytest.raises(ZsljaxError, match="no run, expected a sweep that has ended"):
    EndedSweep.open(folder)
