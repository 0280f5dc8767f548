"""The report of many sweeps."""

import json
import re

import pytest

from tests.stored_rows import stored_row
from zsljax.errors import ZsljaxError
from zsljax.io.files import read_lines
from zsljax.runs import reproduce


@pytest.mark.slow
def test_report_of_embedded_data(command, tmp_path):
  done = command(
    *("-m", "zsljax", "reproduce", "--systems=eszsl,so_softmax,sdl", "--seeds=2"),
    *("--datasets=digits", f"--dest={tmp_path / 'r'}", "--config.epochs=1"),
    "--config.selection.stops=1",
  )
  assert "report in" in done.stdout
  report = (tmp_path / "r" / "README.md").read_text()
  for line in ("| digits | eszsl | H |", "| multidigit | sdl | zsl_map | - |"):
    assert line in report
  assert "| digits | so_softmax |" in report
  assert "![digits_eszsl](curves/digits_eszsl.png)" in report
  for file in re.findall(r"\((curves/.*?)\)", report):
    assert (tmp_path / "r" / file).exists()
  manifest = json.loads((tmp_path / "r" / "manifest.json").read_text())
  assert manifest["hardware"].keys() >= {"devices", "cpu_cores", "machine"}
  assert [run["name"] for run in manifest["runs"]] == [
    "digits_eszsl",
    "digits_so_softmax",
    "multidigit_sdl",
  ]
  for run in manifest["runs"]:
    assert run["data"]["fingerprint"] and run["seconds"] > 0 and run["config"]
  rows = read_lines(tmp_path / "r" / "results.jsonl")
  assert {row["seed"] for row in rows} == {0, 1}
  manifest["runs"] = manifest["runs"][:1]
  of_eszsl = [("eszsl", row) for row in rows if row["system"] == "eszsl"]
  without = reproduce._report(tmp_path / "r", of_eszsl, manifest)
  assert "SO-softmax" in report and "SO-softmax" not in without
  assert "; 2 seeds each." in report
  assert str(tmp_path) not in json.dumps(manifest["runs"]) + json.dumps(rows)


def test_recipes_of_one_system_stand_apart():
  def rows(recipe, h):
    of_both = {"protocol": "xian", "calibration": "additive"}
    of_both["metrics"] = {"t1": h, "h": h}
    selections = "val_selected", "test_oracle"
    return [(recipe, stored_row(**of_both, selection=one)) for one in selections]

  block = reproduce._gaps([*rows("sae", 40.0), *rows("new", 60.0)])
  assert [(line[1], line[4]) for line in block.lines] == [
    ("sae", "40.0"),
    ("new", "60.0"),
  ]


def test_systems_get_the_features_that_they_want(stand_in, tmp_path, capsys):
  systems = ["eszsl", "msdn", "sdl"]

  def store(kind, shape):
    stand_in("cub", tmp_path, shape=shape, features_kind=kind, attribute_vectors=None)

  store("12", (12,))
  usable = reproduce._usable(systems, ["cub"], tmp_path)
  assert [(system, dataset) for system, dataset, _ in usable] == [("eszsl", "cub")]
  assert "left out: msdn on cub (no region features of it)" in capsys.readouterr().out
  store("4x12", (4, 12))
  usable = reproduce._usable(systems, ["cub"], tmp_path)
  found = {system: stored.feature_shape for system, _, stored in usable}
  assert found == {"eszsl": (12,), "msdn": (4, 12)}
  store("13", (13,))
  with pytest.raises(ZsljaxError, match="expected one form of it with regions and one"):
    reproduce._usable(systems, ["cub"], tmp_path)


def test_missing_data_are_described(tmp_path):
  with pytest.raises(ZsljaxError, match="no flo that .* expected an import of it, see"):
    reproduce._usable(["eszsl"], ["flo"], tmp_path)
  commands = "import-xlsa17 --source=xlsa17/data/CUB.* import-regions .*ResNet_101_CUB"
  with pytest.raises(ZsljaxError, match=f"no cub that .* by `.*{commands}"):
    reproduce._usable(["eszsl", "msdn"], ["digits", "cub"], tmp_path)
