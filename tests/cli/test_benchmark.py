"""The verb ``benchmark``, and figures of systems, stored sets and the ranking loss."""

import dataclasses
import functools
import json

import jax.numpy as jnp
import numpy as np
import pytest

from zsljax import benchmark
from zsljax.benchmark import loss as benchmark_loss
from zsljax.cli.main import main
from zsljax.data import prepare
from zsljax.data.builtin.multidigit import read_multidigit
from zsljax.errors import ZsljaxError
from zsljax.losses import pairwise_ranking

quick = functools.partial(benchmark.run, seconds=0, small=True)


def test_benchmark_prints_and_writes_figures(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(benchmark, "run", quick)
  file = tmp_path / "b.json"
  main(["benchmark", "--batch_size=64", f"--json={file}"])
  page = capsys.readouterr().out
  assert "fraction_of_matmul_rate " in page
  figures = json.loads(file.read_text())
  assert 0 < figures["fraction_of_matmul_rate"] and 0 < figures["fraction_of_copy_rate"]
  assert figures["input"]["source"] in page
  main(["benchmark", f"--compare={file},{file}"])
  assert "1.000" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
  ("system", "preset", "classes", "shape"),
  [
    pytest.param("msdn", "cub7", 200, [49, 2048], marks=pytest.mark.slow),
    ("sdl", "nus", 1006, [2048]),
  ],
)
def test_benchmark_of_a_system(system, preset, classes, shape):
  figures = quick(system, preset, batch_size=2)
  assert (figures["num_classes"], figures["feature_shape"]) == (classes, shape)
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
    quick("cosine", "classes1m", variant=benchmark.Variant(model_devices=n))[
      "bytes_per_device"
    ]
    for n in (1, 4)
  )
  # The prototypes and Adam's two moments of them.
  assert whole["arguments"] > 3 * 4000 * 512 * 4
  assert split["arguments"] < 1.1 * 3 * 1000 * 512 * 4 + 2**20
  assert split["temporaries"] < 0.4 * whole["temporaries"]


@pytest.mark.slow
def test_benchmark_of_a_stored_multi_label_set(tmp_path):
  prepare(read_multidigit(), tmp_path)
  figures = quick("sdl", "nus", 500, tmp_path, "multidigit")
  assert figures["num_classes"] == 10 and figures["input"]["rows"] == 500 * 4 * 10
  with pytest.raises(ZsljaxError, match="several labels each, expected one label"):
    benchmark.run("semantic_softmax", "cub", 500, tmp_path, "multidigit")


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
      name: {"median": times[name], "loss": float(call()[0])}
      for name, call in calls.items()
    },
  )
  figures = benchmark_loss.run("nus")
  assert figures["all_pairs_over_loss"] == 4  # Half of the images, in two times two.
  assert figures["loss_over_scores"] == 2 and figures["padded_over_loss"] == 1.5
  assert "seconds.padded" in benchmark.show(figures)
  with pytest.raises(ZsljaxError, match="no multi-label shapes 'cub'"):
    benchmark_loss.run("cub")


@pytest.mark.slow
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
