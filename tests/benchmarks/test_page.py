import json
import shutil

import pytest

from zsljax.errors import ZsljaxError


@pytest.fixture
def page(script):
  return script("page")


@pytest.fixture
def figures(page):
  """The figures that the project's page shows."""
  return json.loads((page.DOCS / "performance/cpu.json").read_text())


def test_tables_and_plots_take_the_place_of_the_old(page, figures, tmp_path):
  text = (page.DOCS / "performance.md").read_text()
  assert page.written(text, figures) == text
  (tmp_path / "performance").mkdir()
  shutil.copy(page.DOCS / "performance.md", tmp_path)
  seconds = figures["systems"][0]["step_seconds"]
  old, seconds["median"] = f"| {1e3 * seconds['median']:.4g} |", 12.3456
  for _ in range(2):  # A second time changes nothing.
    page.write_page(figures, tmp_path)
    new = (tmp_path / "performance.md").read_text()
    assert new == text.replace(old, "| 1.235e+04 |", 1)
  for name in ("systems.png", "growth.png"):
    assert (tmp_path / "performance" / name).read_bytes().startswith(b"\x89PNG")


def test_a_busy_machine_is_said(page, figures):
  for row in (*figures["systems"], *figures["growth"]):
    row["cpu_load_average"] = 1.5
  text = page.written((page.DOCS / "performance.md").read_text(), figures)
  assert "load average 1.5 to 1.5" in text and "to be measured again" not in text
  figures["systems"][1]["cpu_load_average"] = 7.0
  text = page.written(text, figures)
  assert "load average 1.5 to 7.0" in text and "to be measured again" in text


def test_a_page_without_its_marks_is_refused(page, figures):
  with pytest.raises(ZsljaxError, match="found 0 marks machine, expected 1"):
    page.written("", figures)


@pytest.mark.slow
def test_measures_to_its_end(page, small_ceilings, monkeypatch):
  monkeypatch.setattr(page, "SYSTEMS", page.SYSTEMS[:2])
  curves = {what: ((s, p, v[:1]),) for what, ((s, p, v), *_) in page.GROWTH.items()}
  monkeypatch.setattr(page, "GROWTH", curves)
  figures = page.measured(0.0)
  assert {row["grows"] for row in figures["growth"]} == page.GROWTH.keys()
  text = page.written((page.DOCS / "performance.md").read_text(), figures)
  assert "| semantic_softmax | cub | 256 |" in text
