import json

import pytest

from zsljax.errors import ZsljaxError
from zsljax.runs.workdir import open_workdir, read_manifest

CONFIG = {
  "seed": 0,
  "data": {"dir": "/a", "name": "toy"},
  "hidden": [1, 2],
  "matmul_precision": "float32",
}
DATASET = {"fingerprint": "1" * 64}


def test_same_config_continues_wherever_the_data_lie(tmp_path):
  open_workdir(tmp_path, CONFIG, DATASET)
  open_workdir(tmp_path, CONFIG | {"data": {"dir": "/b", "name": "toy"}}, DATASET)
  assert read_manifest(tmp_path)["versions"]["jax"]


@pytest.mark.parametrize(
  ("config", "dataset", "message"),
  [
    (CONFIG | {"seed": 1}, DATASET, "config.seed is 1, there 0"),
    (CONFIG | {"extra": 1}, DATASET, "config.extra is 1, there None"),
    (CONFIG, {"fingerprint": "2" * 64}, "other data"),
  ],
)
def test_other_config_or_data_is_refused(tmp_path, config, dataset, message):
  open_workdir(tmp_path, CONFIG, DATASET)
  with pytest.raises(ZsljaxError, match=message):
    open_workdir(tmp_path, config, dataset)


def test_other_circumstances_are_a_warning(tmp_path):
  open_workdir(tmp_path, CONFIG, DATASET)
  path = tmp_path / "manifest.json"
  manifest = json.loads(path.read_text())
  manifest["versions"]["jax"] = "0.1"
  manifest["processes"] = 2
  path.write_text(json.dumps(manifest))
  with pytest.warns(UserWarning, match="versions.jax 0.1 -> .*, processes 2 -> 1: the"):
    open_workdir(tmp_path, CONFIG, DATASET)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (None, "no manifest.json"),
    ('{"schema": 1, ', "not readable"),
    ("{}", "schema None"),
    ('{"schema": 2}', "schema 2, expected 3: another version of zsljax made the run"),
  ],
)
def test_unreadable_manifest_is_named(tmp_path, content, message):
  if content is not None:
    (tmp_path / "manifest.json").write_text(content)
  with pytest.raises(ZsljaxError, match=message):
    read_manifest(tmp_path)


def test_folders_that_cannot_be_used(tmp_path):
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(ZsljaxError, match="holds checkpoints but no manifest.json"):
    open_workdir(tmp_path, CONFIG, DATASET)
  (tmp_path / "file").write_text("")
  with pytest.raises(ZsljaxError, match="could not be written"):
    open_workdir(tmp_path / "file" / "w", CONFIG, DATASET)
