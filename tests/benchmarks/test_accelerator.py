import json

import pytest

from zsljax.devices.precision import supported


@pytest.fixture
def accelerator(script):
  return script("accelerator")


def rows(folder, part):
  return json.loads((folder / f"{part}.json").read_text())["rows"]


def test_the_recipe_takes_all_its_steps(accelerator, tmp_path, capsys):
  accelerator.main([f"--out={tmp_path}", "--tiny", "--parts=recipe"])
  (row,) = rows(tmp_path, "recipe")
  # 20 images, 2 epochs, 4 to a batch; 12 test images.
  assert row["steps"] == 10 and row["evaluations"] == 2
  assert row["feature_bytes_on_device"] == (20 + 12) * 9 * 16 * 4
  assert row["first_and_last_loss"][0] > row["first_and_last_loss"][1] > 0
  assert "10 steps in" in capsys.readouterr().out


def test_the_whole_size_is_that_of_the_released_script(accelerator):
  sizes = accelerator.Sizes({})
  assert sizes.train_images * sizes.evaluations // 50 == 4234
  assert sizes.test_images == 1764 + 2967
  assert sizes.test_images % sizes.test_batches == 0


def test_a_row_that_fails_loses_no_other(accelerator, tmp_path, monkeypatch):
  written = []

  def part(sizes):
    yield lambda: {
      "system": "a", "preset": "b", "precision": "c", "attention": "d", "steps": 1,
      "seconds_after_compilation": 2.0,
    }  # fmt: skip
    written.append(rows(tmp_path, "part"))
    yield lambda: 1 / 0
    written.append(rows(tmp_path, "part"))
    monkeypatch.setattr(accelerator, "_BUDGET", -1)
    yield lambda: {"never": "begun"}

  monkeypatch.setattr(accelerator, "PARTS", {"part": part})
  accelerator.main([f"--out={tmp_path}", "--tiny"])
  assert [len(found) for found in written] == [1, 2]
  first, failed, late = rows(tmp_path, "part")
  assert first["steps"] == 1
  assert "ZeroDivisionError" in failed["error"]
  assert late["error"].startswith("not begun")


@pytest.mark.slow
def test_everything_runs_to_its_end_on_a_cpu(command, tmp_path):
  command("benchmarks/accelerator.py", f"--out={tmp_path}", "--tiny")
  for part, count in (
    ("msdn", 2), ("recipe", 1), ("systems", 5), ("attention", 4), ("seeds", 3),
  ):  # fmt: skip
    found = rows(tmp_path, part)
    assert len(found) == count * len(supported()) or part == "seeds"
    assert not [row["error"] for row in found if "error" in row]
