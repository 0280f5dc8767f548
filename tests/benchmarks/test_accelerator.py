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

  cases = [("msdn", "cub14", size, benchmark.Variant()) for size in (None, 512, None)]
  monkeypatch.setattr(accelerator, "measure", measure)
  monkeypatch.setattr(accelerator, "cases", lambda: cases)
  accelerator.main([f"--out={file}"])
  errors = [row["error"] for row in json.loads(file.read_text())["rows"]]
  assert written == [1, 2]
  for error, size in zip(errors, (50, 512, 50), strict=True):
    assert f"RuntimeError: no memory for {size}" in error
