"""A bar that stands still says so."""

import time

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
