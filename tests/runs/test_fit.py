import os
import time

import pytest

from zsljax.errors import ZsljaxError
from zsljax.reporting.rows import read_chosen, read_rows
from zsljax.runs import fit as module
from zsljax.runs.config import read_config
from zsljax.runs.fit import _usable, _with_small_batches, fit


@pytest.mark.slow
def test_the_best_on_the_folds_is_named(tmp_path):
  fields = ["--config.selection.stops=1", "--config.mesh.data=1"]
  text = fit("digits", tmp_path, None, 1e-6, "2", fields)
  assert "nearest_mean" in text.splitlines()[1] and "AUSUC of folds" in text
  assert "Take nearest_mean" in text
  assert "eszsl: not begun, as --minutes=1e-06 were over" in text
  assert (tmp_path / "nearest_mean" / "seed_0" / "chosen.json").exists()


@pytest.mark.slow
def test_the_best_are_joined(tmp_path, monkeypatch):
  few = {name: module.SYSTEMS[name] for name in ("nearest_mean", "eszsl")}
  monkeypatch.setattr(module, "SYSTEMS", few)
  options = "digits", tmp_path, None, 10, "2", ["--config.mesh.data=1"]
  folder = tmp_path / "joined"
  folder.mkdir()  # An interrupted command leaves it without rows.
  (folder / "chosen.json").write_text("{}")
  text = fit(*options)
  said = "Joined are eszsl and nearest_mean: their scores are averaged."
  assert said in " ".join(text.split())
  (line,) = (line for line in text.splitlines() if line.startswith("joined  "))
  row = next(row for row in read_rows(folder) if row["calibration"] != "none")
  assert f"{row['metrics']['h']:.1f}" in line.split()
  chosen = [read_chosen(tmp_path / one) for one in ("nearest_mean", "eszsl", "joined")]
  most = max(one["value"] for one in chosen)
  assert f"{most:.1f}" in text.splitlines()[1]
  with monkeypatch.context() as once:
    once.setattr(module, "gathered", None)  # It is not joined again,
    assert fit(*options) == text
  later = time.time() + 60
  os.utime(tmp_path / "eszsl" / "results.jsonl", (later, later))  # but after a sweep.
  monkeypatch.setattr(module, "gathered", lambda sweeps, most: sweeps[:1])
  text = fit(*options)
  assert "joined: nothing, as the folds gain no more" in text
  assert "Joined are" not in text and not folder.exists()


def test_a_system_that_cannot_be_trained_is_left_out(tmp_path, monkeypatch):
  def refuse(*_):
    raise ZsljaxError("no word vectors")

  monkeypatch.setattr("zsljax.runs.fit.sweep", refuse)
  with pytest.raises(ZsljaxError, match="no system.*; eszsl: no word vectors;"):
    fit("digits", tmp_path, None, 1)


@pytest.mark.parametrize(
  ("argument", "size", "most"),
  [
    # A fold holds out 2 of 6 classes of 8 images, and one image of each other class.
    ("cosine:cub,normface", 64, 28),
    ("cosine:cub,normface", 20, 20),
    ("baselines:cub,eszsl", 0, 0),
  ],
)
def test_batches_are_no_larger_than_folds(
  stand_in, tmp_path, capsys, argument, size, most
):
  stand_in("cub", tmp_path)
  fields = [f"--config.data.dir={tmp_path}", f"--config.batch_size={size}"]
  config = read_config(argument, fields)
  assert _with_small_batches(config, "5") == config | {"batch_size": most}
  said = f"config.batch_size={most}, not {size}: " in capsys.readouterr().out
  assert said == (most < size)


def test_systems_that_fit_a_set_that_needs_no_folder(tmp_path):
  found = _usable("multidigit", tmp_path)
  assert [system for system, _ in found] == ["sdl", "recommended_sdl"]


def test_systems_that_fit_the_stored_forms(stand_in, tmp_path):
  stand_in("cub", tmp_path, shape=(12,), features_kind="12")
  pooled = [
    "nearest_mean",
    "recommended",
    "eszsl",
    "sae",
    "recommended_sae",
    "recommended_cosine",
    "semantic_softmax",
    "normface",
    "so_softmax",
  ]
  assert [system for system, _ in _usable("cub", tmp_path)] == pooled
  stand_in("cub", tmp_path, shape=(4, 12), features_kind="4x12")
  both = [system for system, _ in _usable("cub", tmp_path)]
  assert both == [*pooled, "attended_autoencoder", "recommended_regions", "msdn"]
  stand_in("cub", tmp_path, shape=(13,), features_kind="13")
  with pytest.raises(ZsljaxError, match="expected one form of it with regions and one"):
    _usable("cub", tmp_path)


@pytest.mark.parametrize(
  ("dataset", "minutes", "message"),
  [
    ("birds", 1, "--data_dir: found nothing, expected the folder that has birds"),
    ("digits", 0, "--minutes: found 0, expected more than 0"),
  ],
)
def test_refusals(tmp_path, dataset, minutes, message):
  with pytest.raises(ZsljaxError, match=message):
    fit(dataset, tmp_path, None, minutes)


def test_a_set_that_is_not_there(stand_in, tmp_path):
  stand_in("cub", tmp_path)
  with pytest.raises(ZsljaxError, match=r"cub"):
    fit("cup", tmp_path / "w", tmp_path, 1)
