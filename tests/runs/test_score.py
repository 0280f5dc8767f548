import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import zsljax
from zsljax.__main__ import main
from zsljax.errors import ZsljaxError
from zsljax.evaluation import make_evaluator
from zsljax.reporting.rows import read_rows
from zsljax.runs.config import read_config
from zsljax.runs.evaluate import Scored, evaluate
from zsljax.runs.experiment import Experiment
from zsljax.runs.score import score
from zsljax.runs.train import train


@pytest.mark.parametrize(
  ("config", "protocol"),
  [
    ("semantic_softmax:digits", "xian"),
    ("semantic_softmax:digits", "retrieval"),
    ("sdl:multidigit", "lesa"),
    *(
      pytest.param(name, "xian", marks=pytest.mark.slow)
      for name in (
        "attended_autoencoder:digits",
        "baselines:digits,eszsl",
        "baselines:digits,nearest_mean",
        "baselines:digits,sae",
        "msdn:digits",
      )
    ),
  ],
)
def test_same_numbers_as_eval(config, protocol, tmp_path, capsys):
  """Scores of a run, brought as a file, give the row of its own evaluation."""
  config, workdir = (
    read_config(config, ["--config.epochs=1", "--config.mesh.data=1"]),
    tmp_path / "w",
  )
  train(config, workdir)
  evaluate(workdir, protocol=protocol)
  (row,) = read_rows(workdir)
  # The evaluators of these give all scores as they are.
  everything = make_evaluator("lesa" if protocol == "lesa" else "retrieval")
  scored = Scored(everything, workdir, Experiment.of_run(workdir, None), "test")
  scores, labels, _ = scored.everything
  arrays = {"scores": scores, "labels": labels, "seen": scored.seen}
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


@pytest.mark.parametrize("ending", [".h5", ".safetensors"])
def test_other_files(given, tmp_path, ending, capsys):
  arrays, path = given(), tmp_path / f"logits{ending}"
  if ending == ".h5":
    with h5py.File(path, "w") as file:
      file.update(arrays | {"names": ["ant", "bee", "cat", "dog", "elk"]})
  else:
    safetensors.numpy.save_file(arrays, path)
  main(["score", f"--scores={path}", f"--dest={tmp_path}"])
  (row,) = read_rows(tmp_path)
  assert row["metrics"] == pytest.approx(zsljax.evaluate(**arrays), abs=1e-6)
  name = "bee" if ending == ".h5" else "1"
  assert f"\n{name},unseen,4," in (tmp_path / "classes_logits_given_0.csv").read_text()
  assert (tmp_path / "classes_logits_given_0.png").stat().st_size


def test_half_precision_of_accelerators(given):
  arrays = given()
  half = arrays["scores"].astype(ml_dtypes.bfloat16)
  exact = zsljax.evaluate(**arrays | {"scores": half.astype(np.float32)})
  assert zsljax.evaluate(**arrays | {"scores": half}) == exact


@pytest.mark.parametrize(
  ("name", "changed", "message"),
  [
    (
      "s.csv",
      {},
      r"ending '\.csv', expected \.npz \.h5 \.hdf5 \.safetensors \.pth \.pt",
    ),
    ("s.npz", {"names": np.array(["a"])}, r"names: found <U1 of shape \(1,\)"),
  ],
)
def test_refused_files(given, tmp_path, name, changed, message):
  with open(path := tmp_path / name, "wb") as file:
    np.savez(file, **given(**changed))
  with pytest.raises(ZsljaxError, match=message):
    score(path, "xian", dest=tmp_path)


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
