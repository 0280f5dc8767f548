"""The commands as a user types them."""

import json

import pytest

from zsljax import benchmark
from zsljax.data import prepare
from zsljax.data.digits import read_digits

TRAIN = ("train.py", "--config=configs/semantic_softmax.py:digits")


def test_train_then_evaluate(command, tmp_path):
  work = f"--workdir={tmp_path / 'w'}"
  done = command(*TRAIN, work, "--config.epochs=3", "--config.optimizer.tolerance=0")
  assert "step 3; now: python eval.py" in done.stdout
  assert "3/3" in done.stderr
  done = command("eval.py", work)
  assert "protocol  selection  calibration" in done.stdout
  (row,) = map(json.loads, (tmp_path / "w" / "results.jsonl").read_text().splitlines())
  assert row["metrics"].keys() == {"t1", "u", "s", "h", "ausuc"}
  assert row["provenance"]["data"]["sources"]
  for file in ("manifest.json", "metrics.jsonl", "tensorboard", "checkpoints"):
    assert (tmp_path / "w" / file).exists()
  again = command(*TRAIN, work, "--config.epochs=4", check=False)
  assert "config.epochs is 4, there 3" in " ".join(again.stderr.split())


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--config.sytem.preset=paper",), "field 'sytem'. Did you mean 'system'?"),
    (("--config.system.l2_weight=1",), "Did you mean 'l2_weights'?"),
    (("--config.epochs=0",), "config.epochs: found 0, expected 1 or more"),
    (("--config.log_every=0",), "config.log_every: found 0"),
    (("--config.seed=-1",), "config.seed: found -1"),
    (("--config.system.preset=papr",), "Did you mean 'paper'"),
    (("--config.epochs=many",), "--config.epochs=many"),
    (("--config.l2_weights=1",), "unknown config field 'l2_weights'. The fields are"),
    (("--l2_weights=1",), "unknown config field 'l2_weights'. The fields are in"),
    (("--config.data.name=cubs",), "config.data.dir: found nothing"),
    (("--config.data.dir=/dev/null/x",), "could not be written"),
  ],
)
def test_wrong_flag_is_one_paragraph(command, tmp_path, arguments, message):
  done = command(*TRAIN, f"--workdir={tmp_path / 'w'}", *arguments, check=False)
  assert done.returncode == 2
  assert done.stderr.startswith("error: ")
  assert "Traceback" not in done.stderr
  assert message in " ".join(done.stderr.split())
  assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
  ("config", "message"),
  [
    ("configs/semantic_sotfmax.py", "Did you mean 'configs/semantic_softmax.py'"),
    ("configs/semantic_softmax.py:digit", "Did you mean 'digits'"),
  ],
)
def test_wrong_config_is_one_paragraph(command, tmp_path, config, message):
  done = command("train.py", f"--config={config}", f"--workdir={tmp_path}", check=False)
  assert done.returncode == 2
  assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr
  assert message in " ".join(done.stderr.split())


def test_import_of_a_missing_file_is_one_paragraph(command, tmp_path):
  done = command(
    "-m", "zsljax", "data", "import-xlsa17", f"--source={tmp_path}",
    f"--dest={tmp_path / 'd'}", check=False,
  )  # fmt: skip
  assert done.returncode == 2
  assert "res101.mat: no such file" in " ".join(done.stderr.split())
  assert not (tmp_path / "d").exists()


def test_benchmark_prints_and_writes_figures(command, tmp_path):
  file = tmp_path / "b.json"
  done = command("-m", "zsljax", "benchmark", "--batch_size=64", f"--json={file}")
  assert "fraction of it" in done.stdout
  figures = json.loads(file.read_text())
  assert 0 < figures["fraction_of_matmul_rate"] < 2
  assert "input" not in figures and "not timed" in done.stdout


@pytest.mark.parametrize("system", ["msdn", "attended_autoencoder"])
def test_benchmark_of_region_systems(system):
  figures = benchmark.run(system, "cub7", batch_size=2)
  assert figures["feature_shape"] == [49, 2048]
  assert figures["fraction_of_matmul_rate"] > 0


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--preset=cub9",), "Did you mean 'cub'"),
    (("--system=msdn",), "features: found shape (2048,), expected regions"),
  ],
)
def test_benchmark_says_what_is_wrong(command, arguments, message):
  done = command("-m", "zsljax", "benchmark", *arguments, check=False)
  assert done.returncode == 2
  assert message in " ".join(done.stderr.split())


def test_benchmark_times_the_input_of_a_stored_set(tmp_path):
  prepare(read_digits(), tmp_path)
  figures = benchmark.run("semantic_softmax", "cub", 128, tmp_path, "digits")
  assert figures["feature_shape"] == [64] and figures["num_classes"] == 10
  rates = figures["input"]
  assert rates["rows"] == 128 * 4 * (1008 // 128)
  assert "together" in benchmark.show(figures)
