"""The commands as a user types them."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from zsljax import benchmark
from zsljax.benchmark import loss as benchmark_loss
from zsljax.data import prepare
from zsljax.data.builtin.digits import read_digits
from zsljax.data.builtin.multidigit import read_multidigit
from zsljax.errors import ZsljaxError
from zsljax.losses import pairwise_ranking

TRAIN = ("train.py", "--config=configs/semantic_softmax.py:digits")


def test_train_then_evaluate(command, tmp_path):
  work = f"--workdir={tmp_path / 'w'}"
  done = command(*TRAIN, work, "--config.epochs=3", "--config.optimizer.tolerance=0")
  assert "step 3; now: python eval.py" in done.stdout
  assert "3/3" in done.stderr
  done = command("eval.py", work)
  assert "protocol  selection  calibration" in done.stdout
  (row,) = map(json.loads, (tmp_path / "w" / "results.jsonl").read_text().splitlines())
  assert row["metrics"].keys() == {"t1", "u", "s", "h", "ausuc", "ausuc_micro"}
  assert row["provenance"]["data"]["sources"]
  for file in ("manifest.json", "metrics.jsonl", "tensorboard", "checkpoints"):
    assert (tmp_path / "w" / file).exists()
  again = command(*TRAIN, work, "--config.epochs=4", check=False)
  assert "config.epochs is 4, there 3" in " ".join(again.stderr.split())


@pytest.mark.slow
def test_multi_label_run_from_the_embedded_set(command, tmp_path):
  work = f"--workdir={tmp_path / 'w'}"
  config = "--config=configs/sdl.py:multidigit"
  done = command("train.py", config, work, "--config.epochs=1")
  assert "5000 images of 7 labels" in done.stdout
  done = command("eval.py", work, "--protocol=sdl", "--top_k=1,3")
  lines = done.stdout.splitlines()
  assert any("F1@1" in line and "F1@3" in line and "density" in line for line in lines)
  assert any("zsl: 3 unseen" in line and "dropped" in line for line in lines)
  done = command("eval.py", work, "--top_k=few", check=False)
  assert done.returncode == 2
  assert "expected numbers as in 3,5" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--config.sytem.preset=paper",), "field 'sytem'. Did you mean 'system'?"),
    (("--config.system.l2_weight=1",), "Did you mean 'l2_weights'?"),
    (("--config.epochs=0",), "config.epochs: found 0, expected 1 or more"),
    (("--config.log_every=0",), "config.log_every: found 0"),
    (("--config.seed=-1",), "config.seed: found -1"),
    (
      ("--config.evaluation.every_epochs=5",),
      "config.evaluation.every_epochs: found 5 with config.data.train_split=trainval",
    ),
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
  assert 0 < figures["fraction_of_copy_rate"] < 2
  assert figures["input"]["source"] in done.stdout
  assert "streaming          not timed" in done.stdout


@pytest.mark.parametrize("system", ["msdn", "attended_autoencoder"])
def test_benchmark_of_region_systems(system):
  figures = benchmark.run(system, "cub7", batch_size=2, seconds=0, small=True)
  assert figures["feature_shape"] == [49, 2048]
  assert figures["fraction_of_matmul_rate"] > 0


@pytest.mark.slow
def test_benchmark_of_split_prototypes(monkeypatch):
  monkeypatch.setitem(
    benchmark.PRESETS,
    "classes1m",
    dataclasses.replace(
      benchmark.PRESETS["classes1m"], num_classes=4000, num_seen=4000
    ),
  )
  whole, split = (
    benchmark.run(
      "cosine",
      "classes1m",
      variant=benchmark.Variant(model_devices=n),
      seconds=0,
      small=True,
    )["bytes_per_device"]
    for n in (1, 4)
  )
  # The prototypes and Adam's two moments of them.
  assert whole["arguments"] > 3 * 4000 * 512 * 4
  assert split["arguments"] < 1.1 * 3 * 1000 * 512 * 4 + 2**20
  assert split["temporaries"] < 0.4 * whole["temporaries"]


@pytest.mark.slow
def test_benchmark_of_a_stored_multi_label_set(tmp_path):
  prepare(read_multidigit(), tmp_path)
  figures = benchmark.run(
    "sdl", "nus", 500, tmp_path, "multidigit", seconds=0, small=True
  )
  assert figures["num_classes"] == 10 and figures["input"]["rows"] == 500 * 4 * 10
  with pytest.raises(ZsljaxError, match="several labels each, expected one label"):
    benchmark.run("semantic_softmax", "cub", 500, tmp_path, "multidigit")


def test_benchmark_of_a_multi_label_system():
  figures = benchmark.run("sdl", "nus", batch_size=4, seconds=0, small=True)
  assert figures["num_classes"] == 1006
  assert figures["fraction_of_matmul_rate"] > 0


def test_benchmark_of_the_ranking_loss(monkeypatch):
  small = dataclasses.replace(
    benchmark.PRESETS["nus"], num_classes=40, num_seen=30, batch_size=6
  )
  monkeypatch.setitem(benchmark.PRESETS, "nus", small)
  monkeypatch.setitem(benchmark_loss._FEW, "nus", 3)
  times = {"scores": 1.0, "loss": 2.0, "padded": 3.0, "all_pairs": 4.0}
  monkeypatch.setattr(
    benchmark_loss,
    "time_calls",
    lambda calls, seconds: {
      name: benchmark.Timing(times[name], 0.0, call()[0])
      for name, call in calls.items()
    },
  )
  figures = benchmark_loss.run("nus")
  assert figures["all_pairs_over_loss"] == 4  # Half of the images, in two times two.
  assert figures["loss_over_scores"] == 2 and figures["padded_over_loss"] == 1.5
  assert "the time multiplied by 2" in benchmark_loss.show(figures)
  with pytest.raises(ZsljaxError, match="no multi-label shapes 'cub'"):
    benchmark_loss.run("cub")


def test_all_forms_of_the_ranking_loss_agree(float64):
  rng = np.random.default_rng(0)
  scores = jnp.asarray(rng.standard_normal((5, 20)))
  positives = jnp.asarray(benchmark.random_labels(5, 20))
  negative = jnp.ones((5, 20), bool)
  for i, row in enumerate(positives):
    negative = negative.at[i, row[row >= 0]].set(False)
  found = pairwise_ranking(
    jnp.take_along_axis(scores, jnp.maximum(positives, 0), 1),
    positives >= 0,
    jnp.where(negative, scores, -jnp.inf),
  )
  for other in (benchmark_loss.padded_ranking, benchmark_loss.all_pairs_ranking):
    np.testing.assert_allclose(other(scores, positives), found, rtol=1e-12)


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


@pytest.mark.slow
def test_benchmark_times_the_input_of_a_stored_set(tmp_path):
  prepare(read_digits(), tmp_path)
  figures = benchmark.run(
    "semantic_softmax", "cub", 128, tmp_path, "digits", seconds=0, small=True
  )
  assert figures["feature_shape"] == [64] and figures["num_classes"] == 10
  rates = figures["input"]
  assert rates["rows"] == 128 * 4 * (1008 // 128)
  assert "together" in benchmark.show(figures)
