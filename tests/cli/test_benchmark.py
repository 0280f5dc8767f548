"""The verb ``benchmark``, and figures of systems and stored sets."""

import dataclasses
import functools
import json

import pytest

from zsljax import benchmark
from zsljax.cli.main import main
from zsljax.data import prepare
from zsljax.data.builtin.multidigit import read_multidigit
from zsljax.errors import ZsljaxError

pytestmark = pytest.mark.usefixtures("small_ceilings")
quick = functools.partial(benchmark.run, seconds=0)


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
