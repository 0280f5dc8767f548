import subprocess
import sys

import numpy as np
import pytest

import zsljax
from zsljax.__main__ import main
from zsljax.errors import ZsljaxError
from zsljax.evaluation import make_evaluator
from zsljax.reporting.rows import read_rows
from zsljax.runs.config import read_config
from zsljax.runs.evaluate import _Scored, evaluate
from zsljax.runs.experiment import Experiment
from zsljax.runs.train import train


@pytest.mark.parametrize(
  ("config", "protocol"),
  [
    ("semantic_softmax:digits", "xian"),
    ("semantic_softmax:digits", "retrieval"),
    ("sdl:multidigit", "lesa"),
  ],
)
def test_same_numbers_as_eval(config, protocol, tmp_path, capsys):
  """Scores of a run, brought as a file, give the row of its own evaluation."""
  config, workdir = read_config(config, ["--config.epochs=2"]), tmp_path / "w"
  train(config, workdir)
  evaluate(workdir, protocol=protocol)
  (row,) = read_rows(workdir)
  # The evaluators of these give all scores as they are.
  everything = make_evaluator("lesa" if protocol == "lesa" else "retrieval")
  scored = _Scored(everything, workdir, Experiment.of_run(workdir, None), "test")
  arrays = {"scores": scored.outputs, "labels": scored.labels, "seen": scored.seen}
  np.savez(tmp_path / "s.npz", **arrays)
  typed = ["score", f"--scores={tmp_path}/s.npz", f"--protocol={protocol}"]
  top_k = config["evaluation"]["top_k"]
  typed += [f"--top_k={','.join(map(str, top_k))}"] if top_k else []
  main([*typed, f"--dest={tmp_path}/rows"])
  (found,) = read_rows(tmp_path / "rows")
  assert found["metrics"] == row["metrics"]
  assert found.get("conditions") == row.get("conditions")
  numbers = zsljax.evaluate(**arrays, protocol=protocol, top_k=top_k)
  assert numbers.keys() == row["metrics"].keys()
  assert protocol in capsys.readouterr().out
  main(["table", str(tmp_path / "rows")])
  assert "given" in capsys.readouterr().out


def test_a_gamma_and_intervals(given, tmp_path, capsys):
  np.savez(tmp_path / "s.npz", **given())
  main(["score", f"--scores={tmp_path}/s.npz", "--gamma=9", f"--dest={tmp_path}/w"])
  plain, lowered = read_rows(tmp_path / "w")
  assert plain["calibration"] == "none" and lowered["metrics"]["s"] == 0
  assert lowered["provenance"]["gamma"] == 9
  low, high = plain["spread"]["interval"]["u"]
  assert low <= plain["metrics"]["u"] <= high
  assert "none: U 95 %" in capsys.readouterr().out


@pytest.fixture
def given():
  def make(**changed):
    rng = np.random.default_rng(0)
    fields = {
      "scores": rng.standard_normal((20, 5)),
      "labels": np.arange(20) % 5,
      "seen": np.array([True, False, True, False, True]),
    }
    return fields | changed

  return make


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"scores": np.full((20, 5), np.nan)}, "scores: found NaN for 20 of 20 images"),
    ({"scores": np.ones(20)}, r"scores: found float64 of shape \(20,\)"),
    ({"labels": np.full(20, 5)}, r"labels: found \[5\] at \(0,\).* \(20 such\)"),
    ({"labels": np.full(20, -1)}, r"labels: found \[-1\] at"),
    ({"labels": np.zeros(19, int)}, r"labels: found int64 of shape \(19,\)"),
    ({"labels": np.zeros(20)}, "labels: found float64"),
    ({"seen": np.ones(4, bool)}, r"seen: found bool of shape \(4,\), expected bool"),
    ({"seen": np.ones(5, bool)}, "seen: found seen classes alone"),
    ({"seen": np.ones(5)}, "seen: found float64 of shape"),
    ({"protocol": "xain"}, "protocol: found 'xain', expected Did you mean 'xian'"),
    ({"labels": np.full(20, 1)}, "labels: found images of one kind"),
    ({"labels": np.ones(20, bool)}, "labels: found bool"),
    ({"gamma": np.nan}, "gamma: found nan, expected a finite number"),
    ({"protocol": "retrieval", "gamma": 1.0}, "expected no calibration with retrieval"),
    ({"top_k": (3,)}, "top_k: found .*expected none with xian"),
    ({"protocol": "lesa", "labels": np.ones((20, 5), int)}, "labels: found no -1"),
    ({"protocol": "lesa"}, r"expected whole numbers \[20, 5\]"),
  ],
)
def test_refusals(given, changed, message):
  with pytest.raises(ZsljaxError, match=message):
    zsljax.evaluate(**given(**changed))


def test_needs_no_tensorflow():
  code = (
    "import sys, numpy as np, zsljax\n"
    "zsljax.evaluate(np.eye(3), np.arange(3), np.array([True, False, False]))\n"
    "print('tensorflow' in sys.modules)"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert done.stdout == "False\n", done.stderr
