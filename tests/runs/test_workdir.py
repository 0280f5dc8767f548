import json

import pytest

from zsljax.configs import base
from zsljax.errors import ZsljaxError
from zsljax.runs.workdir import open_workdir, read_manifest

CONFIG = json.loads(base.get_config().to_json()) | {
  "system": {"name": "eszsl"},
  "hidden": [1, 2],
}
CONFIG["data"] |= {"dir": "/a", "name": "toy"}
DATASET = {
  "name": "toy",
  "split_version": "v1",
  "validation_classes": [],
  "fingerprint": "1" * 64,
  "feature_shape": [3],
  "encoder": None,
}


def test_same_config_continues_wherever_the_data_lie(tmp_path):
  open_workdir(tmp_path, CONFIG, DATASET)
  open_workdir(tmp_path, CONFIG | {"data": CONFIG["data"] | {"dir": "/b"}}, DATASET)
  assert read_manifest(tmp_path)["versions"]["jax"]


@pytest.mark.parametrize(
  ("config", "dataset", "message"),
  [
    (CONFIG | {"seed": 1}, DATASET, "config.seed is 1, there 0"),
    (CONFIG | {"extra": 1}, DATASET, "config.extra is 1, there None"),
    (CONFIG, DATASET | {"fingerprint": "2" * 64}, "dataset: fingerprint: found 22.*11"),
    (
      CONFIG,
      DATASET | {"split_version": "v2"},
      "dataset: split_version: found v2, expected v1, with which the run was begun, or",
    ),
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
    ("[]", r"\[\] is not of type 'object', expected a manifest as train.py writes"),
    ("7", "7 is not of type 'object'"),
    (b"\xff", "not readable"),
    ("[" * 100_000, "not readable as JSON"),
    ('{"schema": 3}', "'config' is a required property"),
    ('{"schema": 3, "config": []}', r"config: \[\] is not of type 'object'"),
    ('{"schema": 2}', "schema 2, expected 3: another version of zsljax made the run"),
  ],
)
def test_unreadable_manifest_is_named(tmp_path, content, message):
  if content is not None:
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "manifest.json").write_bytes(content)
  with pytest.raises(ZsljaxError, match=message):
    read_manifest(tmp_path)


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("config.system", {}),
    ("config.system.name", 3),
    ("config.epochs", "many"),
    ("config.data.features", 1),
    ("config.evaluation.gamma", "x"),
    ("config.evaluation.top_k", [0.5]),
    ("dataset", None),
    ("dataset.feature_shape", "3"),
    ("versions", []),
  ],
)
def test_fields_of_another_type_are_named(tmp_path, field, value):
  open_workdir(tmp_path, CONFIG, DATASET)
  path = tmp_path / "manifest.json"
  manifest = json.loads(path.read_text())
  *parts, name = field.split(".")
  part = manifest
  for key in parts:
    part = part[key]
  part[name] = value
  path.write_text(json.dumps(manifest))
  with pytest.raises(ZsljaxError, match=f"manifest.json: {field}.*as train.py writes"):
    read_manifest(tmp_path)


def test_folders_that_cannot_be_used(tmp_path):
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(ZsljaxError, match="holds checkpoints but no manifest.json"):
    open_workdir(tmp_path, CONFIG, DATASET)
  (tmp_path / "file").write_text("")
  with pytest.raises(ZsljaxError, match="could not be written"):
    open_workdir(tmp_path / "file" / "w", CONFIG, DATASET)
