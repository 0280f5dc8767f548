"""A run's folder and its manifest: the config, the data and the versions of a run."""

from __future__ import annotations

from collections.abc import Mapping
import pathlib
from typing import Any
import warnings

import jax

from zsljax.classes import ClassSpace
from zsljax.data.store import require_same
from zsljax.devices.precision import nearest
from zsljax.errors import ZsljaxError
from zsljax.io.files import explained, write_json
from zsljax.io.json_files import (
  COUNT,
  NUMBER,
  OBJECT,
  TEXT,
  check_json,
  list_of,
  object_of,
  or_none,
  read_json,
)
from zsljax.io.versions import library_versions
from zsljax.runs.config import flat

SCHEMA = 3
CLASSES = "classes.npz"
_FILE, _SWEEP_FILE = "manifest.json", "sweep.json"
_MANIFEST = object_of(
  config=object_of(
    system=object_of(name=TEXT),
    optimizer=object_of(name=TEXT),
    data=object_of(
      name=TEXT,
      dir=or_none(TEXT),
      features=or_none(TEXT),
      train_split=or_none(TEXT),
      cache=TEXT,
      sampling=TEXT,
      num_channels=or_none(COUNT),
    ),
    evaluation=object_of(
      every_epochs=COUNT,
      batch_size=COUNT,
      gamma=or_none(NUMBER),
      calibration=TEXT,
      top_k=list_of(COUNT),
    ),
    checkpoint=object_of(every_epochs=COUNT, keep=COUNT),
    mesh=OBJECT,
    matmul_precision=TEXT,
    **dict.fromkeys(("seed", "epochs", "batch_size", "log_every"), COUNT),
  ),
  dataset=object_of(
    **dict.fromkeys(("name", "split_version", "fingerprint"), TEXT),
    validation_classes=list_of(COUNT),
    feature_shape=list_of(COUNT),
    encoder=or_none(OBJECT),
  ),
  versions=OBJECT,
  products=TEXT,
)
_AS_WRITTEN = "a manifest as train.py writes it"
# Fields that may change between two starts: places, and what happens on the way.
_FREE_FIELDS = (
  "data.dir",
  "data.cache",
  "evaluation.every_epochs",
  "checkpoint.every_minutes",
)
# Fields that change no run, but a sweep.
_FREE_PARTS = ("grid.", "selection.")


def open_workdir(
  workdir: pathlib.Path,
  config: Mapping[str, Any],
  dataset: Mapping[str, Any],
  classes: ClassSpace | None = None,
  sweep: bool = False,
) -> None:
  """Writes the manifest of a new run, or checks that of an interrupted one.

  Args:
    workdir: the run's folder, made when absent.
    config: all fields, nested, JSON values.
    dataset: the stored dataset's metadata.
    classes: of the dataset, kept for prediction.
    sweep: the folder is that of a sweep, whose manifest has another name.

  Raises:
    ZsljaxError: another config or other data made the folder.
  """
  with explained(workdir):
    workdir.mkdir(parents=True, exist_ok=True)
  manifest = {
    "schema": SCHEMA,
    "config": dict(config),
    "dataset": dict(dataset),
    "versions": library_versions(),
    "processes": jax.process_count(),
    "products": nearest(config["matmul_precision"]),
  }
  path = workdir / (_SWEEP_FILE if sweep else _FILE)
  if not path.exists():
    if (workdir / "checkpoints").exists():
      raise ZsljaxError(
        f"{workdir}: holds checkpoints but no {path.name}, expected an empty folder "
        "or that of an interrupted run"
      )
    if classes is not None:
      classes.save(workdir / CLASSES)
    write_json(path, manifest)
    return
  before = {"processes": 1} | read_manifest(workdir, sweep)
  differing = [
    f"config.{field} is {now!r}, there {old!r}"
    for field, old, now in changes(before["config"], manifest["config"])
    if field not in _FREE_FIELDS and (sweep or not field.startswith(_FREE_PARTS))
  ]
  if differing:
    raise ZsljaxError(
      f"{workdir}: made by another config ({'; '.join(differing)}), expected the "
      "same config to continue the run, or another --workdir"
    )
  hint = "with which the run was begun, or another --workdir"
  require_same(f"{workdir}: dataset", dataset, before["dataset"], hint)
  changed = [
    f"{field} {old} -> {now}"
    for part in ("versions", "processes", "products")
    for field, old, now in changes({part: before[part]}, {part: manifest[part]})
  ]
  if changed:
    warnings.warn(
      f"{workdir} was begun with other {', '.join(changed)}: the run continues; other "
      "versions and products change numbers, other processes change the batches",
      stacklevel=2,
    )


def changes(
  before: Mapping[str, Any], now: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
  """Dotted names of the fields that differ, with both values."""
  old, new = flat(before), flat(now)
  fields = sorted(old.keys() | new.keys())
  both = [(field, old.get(field), new.get(field)) for field in fields]
  return [(field, a, b) for field, a, b in both if a != b]


def run_identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
  """Fields that tell a manifest's run from others, kept in its checkpoints."""
  config = manifest["config"]
  return {
    "system": config["system"],
    "data": manifest["dataset"]["fingerprint"],
    "train_split": config["data"]["train_split"],
  }


def read_manifest(workdir: pathlib.Path, sweep: bool = False) -> dict[str, Any]:
  """The manifest that ``open_workdir`` wrote: ``config``, ``dataset``, ``versions``.

  Raises:
    ZsljaxError: the folder holds no run, one of another schema, or a damaged manifest.
  """
  path = workdir / (_SWEEP_FILE if sweep else _FILE)
  if not path.is_file():
    there = " (it is a sweep; its runs are in its subfolders seed_0, seed_1, ...)"
    raise ZsljaxError(
      f"{workdir}: no {path.name}{there if (workdir / _SWEEP_FILE).exists() else ''}, "
      "expected the --workdir of a training run"
    )
  manifest = read_json(path, OBJECT, _AS_WRITTEN)
  if manifest.get("schema") != SCHEMA:
    raise ZsljaxError(
      f"{path}: found schema {manifest.get('schema')}, expected {SCHEMA}: another "
      "version of zsljax made the run, train it again"
    )
  check_json(manifest, _MANIFEST, str(path), _AS_WRITTEN)
  return manifest
