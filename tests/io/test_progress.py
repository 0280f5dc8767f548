"""A bar says when it stands still, and is lines where there is no terminal."""

import time

import jax

from zsljax.io import progress


def test_a_run_without_progress_says_so(monkeypatch, capsys):
  monkeypatch.setattr(progress, "_SILENT", 0.05)
  with progress.step_bar(3, "training"):
    time.sleep(0.5)
  assert "training: no step in 0.05 s" in capsys.readouterr().err
  time.sleep(0.2)
  capsys.readouterr()
  time.sleep(0.2)
  assert not capsys.readouterr().err


def test_a_log_file_tells_that_a_task_has_ended(monkeypatch, capsys):
  monkeypatch.setattr(progress, "_DELAY", 0.01)
  with progress.task_bar(2, "drawing", "images") as bar:
    time.sleep(0.02)
    bar.mininterval = 0
    bar.update(1)
    bar.mininterval = 10
    bar.update(1)
  assert "2/2" in capsys.readouterr().err.splitlines()[-1]


def test_time_left_is_estimated_without_compiling():
  with progress.step_bar(4, "training") as bar:
    jax.jit(lambda x: time.sleep(1) or x + 1)(1.0)
    assert bar.format_dict["elapsed"] < 0.5


def test_a_log_file_gets_lines(capsys):
  with progress.step_bar(4, "training") as bar:
    bar.set_postfix_str("compiling")
    bar.update(4)
  lines = capsys.readouterr().err
  assert "\r" not in lines and lines.endswith("\n")
  assert "compiling" in lines and "100%" in lines.splitlines()[-1]
  assert all(len(line) <= 80 for line in lines.splitlines())
