"""Comparisons of sweeps on the same test images, and damaged decisions."""

import json

import numpy as np
import pytest

from tests.stored_rows import stored_row
from zsljax.errors import ZsljaxError
from zsljax.evaluation.bootstrap import Hits
from zsljax.reporting.tables import render
from zsljax.runs.comparison import compared, read_hits


@pytest.fixture
def sweeps(tmp_path):
  """Folders of sweeps: two alike, one poor, one on other images."""
  rng = np.random.default_rng(0)
  labels = np.repeat(np.arange(9), 40)
  folders = []
  for name, chance, images in (
    ("eszsl", 0.8, labels),
    ("sae", 0.8, labels),
    ("msdn", 0.3, labels),
    ("cosine", 0.8, labels[:-1]),
  ):
    folder = tmp_path / name
    data = {"dataset": "birds", "split_version": "1"}
    row = stored_row(system=name, protocol="xian", **data)
    for seed in range(2):
      (folder / f"seed_{seed}").mkdir(parents=True)
      right = rng.random(len(images)) < chance
      np.savez(
        folder / f"seed_{seed}" / "hits_test.npz",
        **{"among_all": right, "among_unseen": right},
        **{"labels": images, "seen": images < 6},
      )
    (folder / "results.jsonl").write_text(json.dumps(row) + "\n")
    folders.append(folder)
  return folders


def test_systems_on_the_same_images_are_compared(sweeps):
  (block,) = compared(sweeps)
  marks = {line[0]: line[1] for line in block.lines}
  assert set(marks) == {"eszsl", "sae", "msdn"}  # The fourth has other images.
  assert sorted(marks.values()) == ["best", "like the best", "lower"]
  assert marks["msdn"] == "lower" and block.lines[-1][0] == "msdn"
  for line in block.lines:
    low, high = map(float, line[4].split(" to "))
    assert low < float(line[3]) < high
  assert "like the best: the difference" in render([block], "markdown")
  (block,) = compared([sweeps[0], sweeps[2]])
  assert "like the best" not in render([block], "markdown")


def test_damaged_decisions_are_refused(sweeps):
  path = sweeps[0] / "seed_1" / "hits_test.npz"
  path.write_bytes(path.read_bytes()[:60])
  with pytest.raises(ZsljaxError, match=r"seed_1/hits_test.npz: not readable"):
    read_hits(sweeps[0])
  np.savez(path, **dict.fromkeys(Hits.__dataclass_fields__, np.ones(3)))
  with pytest.raises(ZsljaxError, match=r"seed_1/hits_test.npz: found shapes"):
    read_hits(sweeps[0])
