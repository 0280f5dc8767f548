import dataclasses
import json

import pytest

from zsljax import benchmark


@pytest.fixture
def accelerator(script, monkeypatch, small_ceilings):
  """The script, with shapes for a CPU."""
  accelerator = script("accelerator")
  monkeypatch.setattr(accelerator, "SECONDS", 0.0)
  monkeypatch.setattr(accelerator, "LARGE_BATCH", 5)
  for name, shapes in benchmark.PRESETS.items():
    small = dataclasses.replace(
      shapes,
      feature_shape=(*(9 for _ in shapes.feature_shape[1:]), 16),
      num_attributes=min(shapes.num_attributes, 6),
      num_classes=12,
      num_seen=9,
      batch_size=4,
    )
    monkeypatch.setitem(benchmark.PRESETS, name, small)
  return accelerator


@pytest.mark.slow
def test_all_rows_are_measured_on_a_cpu(accelerator, tmp_path, capsys):
  file = tmp_path / "rows.json"
  accelerator.main([f"--out={file}"])
  rows = json.loads(file.read_text())["rows"]
  assert len(rows) == 9 and not [row["error"] for row in rows if "error" in row]
  assert "| msdn | cub14 | 4 | float32 |" in capsys.readouterr().out


def test_a_row_that_fails_loses_no_other(accelerator, tmp_path, monkeypatch):
  file, written = tmp_path / "rows.json", []

  def measure(system, shapes, variant, seconds):
    if file.exists():
      written.append(len(json.loads(file.read_text())["rows"]))
    raise RuntimeError(f"no memory for {shapes.batch_size}")

  cases = [("msdn", "cub14", size, benchmark.Variant()) for size in (50, 512, 50)]
  monkeypatch.setattr(accelerator, "measure", measure)
  monkeypatch.setattr(accelerator, "cases", lambda platform: cases)
  accelerator.main([f"--out={file}"])
  errors = [row["error"] for row in json.loads(file.read_text())["rows"]]
  assert written == [1, 2]
  for error, size in zip(errors, (50, 512, 50), strict=True):
    assert f"RuntimeError: no memory for {size}" in error


def test_predictions_stand_beside_what_is_measured(
  accelerator, tmp_path, monkeypatch, capsys
):
  file = tmp_path / "rows.json"
  case = {"system": "msdn", "preset": "cub14", "batch_size": 4}
  case |= {"precision": "float32", "seeds": 1, "training": {"predicted_seconds": 0.25}}
  predicted = tmp_path / "predicted.json"
  predicted.write_text(json.dumps({"rows": [case, case | {"batch_size": 51}]}))
  cases = [("msdn", "cub14", 4, benchmark.Variant())]
  monkeypatch.setattr(accelerator, "cases", lambda platform: cases)
  accelerator.main([f"--out={file}", f"--predicted={predicted}"])
  (row,) = json.loads(file.read_text())["rows"]
  assert row["predicted_seconds"] == 0.25
  head, _, line = capsys.readouterr().out.splitlines()[-3:]
  assert head.endswith("| predicted ms |") and line.endswith("| 250 |")
