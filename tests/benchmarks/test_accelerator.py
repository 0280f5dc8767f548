import json

import pytest

from zsljax import benchmark


@pytest.mark.slow
def test_all_rows_are_measured_on_a_cpu(script, tmp_path, capsys):
  file = tmp_path / "rows.json"
  script("accelerator").main([f"--out={file}", "--tiny"])
  rows = json.loads(file.read_text())["rows"]
  assert len(rows) == 9 and not [row["error"] for row in rows if "error" in row]
  assert "| msdn | cub14 | 4 | float32 |" in capsys.readouterr().out


def test_a_row_that_fails_loses_no_other(script, tmp_path, monkeypatch):
  accelerator, file, written = script("accelerator"), tmp_path / "rows.json", []

  def measure(system, shapes, variant, seconds, small):
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
  script, tmp_path, monkeypatch, capsys
):
  accelerator, file = script("accelerator"), tmp_path / "rows.json"
  case = {"system": "msdn", "preset": "cub14", "batch_size": 50}
  case |= {"precision": "float32", "seeds": 1, "training": {"predicted_seconds": 0.25}}
  predicted = tmp_path / "predicted.json"
  predicted.write_text(json.dumps({"rows": [case, case | {"batch_size": 51}]}))
  cases = [("msdn", "cub14", 50, benchmark.Variant())]
  monkeypatch.setattr(accelerator, "cases", lambda platform: cases)
  accelerator.main([f"--out={file}", f"--predicted={predicted}", "--tiny"])
  (row,) = json.loads(file.read_text())["rows"]
  assert row["predicted_seconds"] == 0.25
  head, _, line = capsys.readouterr().out.splitlines()[-3:]
  assert head.endswith("| predicted |") and line.endswith("| 250 |")
