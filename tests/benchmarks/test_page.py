import pytest

from zsljax.errors import ZsljaxError

MARKS = ("machine", "systems", "input", "seeds")


@pytest.fixture
def page(script):
  return script("page")


def row(system="msdn", preset="cub7", milliseconds=2.0, **fields):
  seconds = milliseconds / 1e3
  rates = {f"{part}_rows_per_second": 10.0 for part in ("input", "step", "together")}
  return {
    "system": system,
    "preset": preset,
    "batch_size": 5,
    "precision": "float32",
    "seeds": 1,
    "cpu_load_average": 1.5,
    "step_seconds": {"median": seconds, "low": seconds / 2, "high": 2 * seconds},
    "floor_seconds": seconds / 4,
    "examples_per_second": 5 / seconds,
    "flops_per_second": 1e9,
    "fraction_of_matmul_rate": 0.25,
    "fraction_of_copy_rate": 0.125,
    "examples_per_second_of_one_seed": 5.0,
    "gain_of_seeds_together": 500.0,
    "input": {**rates, "source": "from memory", "together_over_sum": 0.75},
  } | fields


def figures(page, **fields):
  return {
    "cores": 2,
    "jax": "1.2.3",
    "systems": [row(), row("sdl", "nus", 30.0, **fields)],
    "input": [row()],
    "seeds": [row()],
    "growth": [
      row(system, preset, value, grows=what, value=value)
      for what, curves in page.GROWTH.items()
      for system, preset, values in curves
      for value in values
    ],
  }


def test_tables_and_plots_take_the_place_of_the_old(page, tmp_path):
  (tmp_path / "performance").mkdir()
  old = "".join(f"text\n<!-- {name} -->\nold\n<!-- end -->\n" for name in MARKS)
  (tmp_path / "performance.md").write_text(old)
  for _ in range(2):  # A second time changes nothing.
    page.write_page(figures(page), tmp_path)
    text = (tmp_path / "performance.md").read_text()
    assert text.count("text\n") == len(MARKS) and "old" not in text
    assert "2 cores, JAX 1.2.3, load average 1.5 to 1.5 while measuring.\n" in text
    assert "| sdl | nus | 5 | float32 | 30 | 15-60 | 7.5 | 167 | 1.0 | 25.0 % |" in text
  for name in ("systems.png", "growth.png"):
    assert (tmp_path / "performance" / name).read_bytes().startswith(b"\x89PNG")


def test_a_busy_machine_is_said(page):
  marks = "".join(f"<!-- {name} -->\n\n<!-- end -->\n" for name in MARKS)
  text = page.written(marks, figures(page, cpu_load_average=7.0))
  assert "load average 1.5 to 7.0" in text and "to be measured again" in text


def test_a_page_without_its_marks_is_refused(page):
  with pytest.raises(ZsljaxError, match="found 0 marks machine, expected 1"):
    page.written("", figures(page))


def test_the_page_of_the_project_has_its_marks(page):
  text = (page.DOCS / "performance.md").read_text()
  assert "| sdl | nus | 5 |" in page.written(text, figures(page))


@pytest.mark.slow
def test_measures_to_its_end(page):
  figures = page.measured(0.0, tiny=True)
  assert {row["grows"] for row in figures["growth"]} == page.GROWTH.keys()
  marks = "".join(f"<!-- {name} -->\n\n<!-- end -->\n" for name in MARKS)
  assert "| semantic_softmax | cub | 8 |" in page.written(marks, figures)
