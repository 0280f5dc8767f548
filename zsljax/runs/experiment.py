"""An experiment: the system, the dataset and the devices that a config names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np

from zsljax.classes import ClassSpace
from zsljax.data import StoredDataset, TrainingData, evaluation_batches, open_dataset
from zsljax.data.pipeline import Columns, load
from zsljax.data.placement import CACHE_LIMIT, available_memory
from zsljax.data.store import require_same, variants
from zsljax.devices.mesh import free_memory, make_mesh, over_classes
from zsljax.devices.precision import nearest
from zsljax.errors import in_bytes, require
from zsljax.evaluation import Calibration, Report
from zsljax.io.versions import library_versions
from zsljax.models import (
  CLOSED_SET,
  MULTI_LABEL,
  AttendsToRegions,
  Spec,
  Staged,
  System,
  build_system,
)
from zsljax.models.registry import check_shapes, outside_module
from zsljax.reporting.rows import Row, make_row
from zsljax.runs.config import flat
from zsljax.runs.workdir import read_manifest, run_identity
from zsljax.training import DeviceImages, check_divides
from zsljax.training.checkpoints import abstract

# The lowest values of fields that are counts.
_LOWEST = {
  "seed": 0,
  "selection.seed": 0,
  "epochs": 1,
  "log_every": 1,
  "checkpoint.every_epochs": 1,
  "checkpoint.keep": 1,
  "evaluation.batch_size": 1,
  "evaluation.every_epochs": 0,
}


def configured_system(config: Mapping[str, Any]) -> System:
  """The system of a config whose counts and batch size are possible.

  Raises:
    ZsljaxError: a field does not fit.
  """
  fields = flat(config)
  for field, lowest in _LOWEST.items():
    found = fields[field]
    require(found >= lowest, f"config.{field}", found, f"{lowest} or more")
  system = build_system({**config["system"], "stage": config.get("stage")})
  require(
    not (system.full_batch and config["batch_size"]),
    "config.batch_size",
    config["batch_size"],
    f"0: {system.name} is solved from all training images at once",
  )
  return system


def spec_of(feature_shape: tuple[int, ...], classes: ClassSpace) -> Spec:
  """The spec of a dataset with these classes."""
  return Spec(
    tuple(feature_shape),
    classes.embeddings.shape[1],
    len(classes),
    classes.attribute_vectors,
  )


def check_labels(system: System, dataset: StoredDataset) -> None:
  """Raises unless the images have as many labels as the system is for."""
  several = {True: "several labels", False: "one label"}
  require(
    (system.task == MULTI_LABEL) == dataset.multi_label,
    f"{dataset.folder}: images",
    f"{several[dataset.multi_label]} each",
    f"{several[system.task == MULTI_LABEL]}, which {system.name} is for",
  )


def param_shapes(system: System, spec: Spec, mesh: jax.sharding.Mesh) -> Any:
  """Shapes of a system's parameters, and how they lie on the mesh."""
  shapes = jax.eval_shape(lambda: system.init(jax.random.key(0), spec))
  return abstract(shapes, over_classes(shapes, system.class_params, mesh))


def device_limit(mesh: jax.sharding.Mesh) -> int:
  """Bytes of a training set that each device has room for, beside all else."""
  free = free_memory(mesh)
  if free is None:  # Devices that share the host's memory, where the set is read first.
    return min(CACHE_LIMIT, available_memory() // 2) // len(mesh.local_devices)
  return free // 2


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A system, a dataset and devices.

  Attributes:
    config: all fields as JSON values; the system's as the preset resolved them, the
      data's as they were found.
    system: the system.
    dataset: the stored dataset.
    classes: the training class space.
    spec: sizes that the system's parameters depend on.
    mesh: the devices.
    trained_in: the precision of matrix products in training, more exact than the
      config asks for where the devices had nothing else.
  """

  config: dict[str, Any]
  system: System
  dataset: StoredDataset
  classes: ClassSpace
  spec: Spec
  mesh: jax.sharding.Mesh
  trained_in: str

  @classmethod
  def build(
    cls, config: Mapping[str, Any], devices: Sequence[jax.Device] | None = None
  ) -> Experiment:
    """Builds everything that ``config`` (nested, plain values) names.

    Args:
      config: the fields.
      devices: of the mesh; those of all processes when None.

    Raises:
      ZsljaxError: a field does not fit; the dataset is not there.
    """
    trained_in = nearest(config["matmul_precision"])
    system = configured_system(config)
    axes = 2 if isinstance(system, AttendsToRegions) else 1
    dataset = open_dataset(config["data"], axes)
    check_labels(system, dataset)
    channels = config["data"]["num_channels"]
    require(
      channels in (None, dataset.feature_shape[-1]),
      f"{dataset.folder}: features",
      f"{dataset.feature_shape[-1]} channels",
      f"{channels}, config.data.num_channels",
    )
    of_config = config["evaluation"]
    Calibration(of_config["calibration"], of_config["gamma"])  # Or it raises.
    classes = dataset.training_classes(config["data"]["train_split"])
    plain = system.system if isinstance(system, Staged) else system
    resolved = {
      "name": system.name,
      "preset": config["system"].get("preset", "paper"),
      **dataclasses.asdict(plain),
    }
    if isinstance(system, Staged):
      resolved["stage"] = dataclasses.asdict(system.stage)
    if module := config["system"].get("module") or outside_module(plain):
      check_shapes(system, spec_of(dataset.feature_shape, dataset.classes), classes)
      resolved["module"] = module
    data = {**config["data"], "features": dataset.variant}
    if data["dir"]:  # The run may be evaluated from another folder.
      data["dir"] = str(pathlib.Path(data["dir"]).expanduser().absolute())
    return cls(
      # As it reads back from a file, so that two starts compare equal.
      config=json.loads(json.dumps({**config, "system": resolved, "data": data})),
      system=system,
      dataset=dataset,
      classes=classes,
      spec=spec_of(dataset.feature_shape, dataset.classes),
      mesh=make_mesh(config["mesh"]["data"], config["mesh"]["model"], devices),
      trained_in=trained_in,
    )

  @classmethod
  def of_run(
    cls, workdir: pathlib.Path, data_dir: pathlib.Path | None = None
  ) -> Experiment:
    """The experiment of the run in ``workdir``, on the devices of this process.

    Args:
      workdir: the folder of a training run.
      data_dir: where the dataset is now, when it was moved.

    Raises:
      ZsljaxError: there is no run; its dataset is not there, or is another.
    """
    manifest = read_manifest(workdir)
    config = manifest["config"]
    if data_dir:
      config["data"]["dir"] = str(data_dir)
    config["mesh"] = {"data": -1, "model": 1}
    run = cls.build(config, jax.local_devices())
    where, own = str(run.dataset.folder), run.dataset.metadata
    require_same(where, own, manifest["dataset"], "as in the training run")
    return dataclasses.replace(run, trained_in=manifest["products"])

  def on(self, other: StoredDataset) -> Experiment:
    """The same run with the images and classes of another dataset, for evaluation.

    Classes with the name of one that was trained on are seen, all others unseen.

    Raises:
      ZsljaxError: its features or descriptions have other sizes, its images another
        number of labels, all of its classes are of one kind, or the system knows no
        class but those of training.
    """
    require(
      self.system.task != CLOSED_SET,
      "--on",
      f"{self.system.name} with prototypes that are learned for its own classes",
      "a run that scores classes by their descriptions",
    )
    check_labels(self.system, other)
    where = str(other.folder)
    spec = spec_of(other.feature_shape, other.classes)
    for field in ("feature_shape", "num_attributes"):
      found, own = getattr(spec, field), getattr(self.spec, field)
      require(found == own, f"{where}: {field}", found, f"{own}, as in training")
    known = self.dataset.classes
    trained = known.subset(np.asarray(known.seen)).names
    seen = np.isin(other.classes.names, trained)
    found = f"{seen.sum()} of {len(seen)} classes that were trained on"
    require(0 < seen.sum() < len(seen), f"{where}: classes", found, "some, not all")
    classes = dataclasses.replace(other.classes, seen=seen)
    dataset = dataclasses.replace(other, classes=classes)
    return dataclasses.replace(self, dataset=dataset)

  def other_forms(self, config: Mapping[str, Any]) -> str:
    """Other stored forms of the set that the system can use, as text.

    Empty where ``config`` names the form.
    """
    data = config["data"]
    if data["features"] or not data["dir"]:
      return ""
    root = pathlib.Path(data["dir"]).expanduser()
    axes = 2 if isinstance(self.system, AttendsToRegions) else 1
    forms = variants(root, data["name"])
    forms = [form.variant for form in forms if len(form.feature_shape) >= axes]
    others = [form for form in forms if form != self.dataset.variant]
    return f" (--config.data.features may be {' or '.join(others)})" if others else ""

  def with_seed(self, seed: int) -> Experiment:
    """The same with another seed."""
    return dataclasses.replace(self, config=self.config | {"seed": seed})

  @property
  def data_seed(self) -> int:
    """The seed of the order of batches."""
    seed = self.config["data"].get("seed")
    return self.config["seed"] if seed is None else seed

  def training_data(self) -> TrainingData:
    """The batches that the config describes.

    Raises:
      ZsljaxError: they do not fit the dataset or the devices.
    """
    config, data = self.config, self.config["data"]
    limit = device_limit(self.mesh)
    if config["evaluation"]["every_epochs"]:
      watched = self.dataset.size("val") * self.dataset.row_bytes
      limit = max(0, limit - watched // self.mesh.shape["data"])
    batches = TrainingData(
      self.dataset,
      data["train_split"],
      config["batch_size"],
      self.data_seed,
      data["cache"],
      data["sampling"],
      host=jax.process_index(),
      num_hosts=jax.process_count(),
      device_limit=limit,
      multiple_of=self.mesh.shape["data"],
    )
    if size := config["batch_size"]:
      rows = batches.rows_per_batch
      field = "config.batch_size"
      if rows < size:
        field += f"={size}, class_balanced: images of a batch"
      check_divides(rows, self.mesh, field)
    return batches

  def images(self, split: str) -> tuple[ClassSpace, tuple[str, ...], Iterator[Columns]]:
    """Classes and images of an evaluation on ``split``, ``test`` or ``val``.

    Returns:
      The classes, the stored splits, and batches of this process's share of their
      images, in stored order.
    """
    classes, splits = self._scored(split)
    host, hosts = jax.process_index(), jax.process_count()
    size = hosts * self.scored_at_once
    batches = evaluation_batches(self.dataset, splits, size, host, hosts)
    return classes, splits, batches

  def placed_images(self, split: str) -> tuple[ClassSpace, DeviceImages]:
    """Classes and images of ``images``, on the devices.

    Raises:
      ZsljaxError: the images do not fit there.
    """
    classes, splits = self._scored(split)
    host, hosts = jax.process_index(), jax.process_count()
    size = self.dataset.share(splits, host, hosts) * self.dataset.row_bytes
    free = available_memory()
    require(
      size <= free,
      f"{split} images to be scored",
      f"{in_bytes(size)} of features",
      f"at most {in_bytes(free)}, what is free in this host's memory",
    )
    images = DeviceImages.placed(
      load(self.dataset, splits, host, hosts),
      self.scored_at_once,
      self.mesh,
      max(self.dataset.share(splits, h, hosts) for h in range(hosts)),
    )
    return classes, images

  def row(
    self,
    protocol: str,
    report: Report,
    *,
    step: int,
    selection: str,
    gamma_from: str = "no calibration",
    selections: Mapping[str, float] | None = None,
    **provenance,
  ) -> Row:
    """A result row; the one place where a run's rows are made.

    Args:
      protocol: as rows name it.
      report: of the run.
      step: of the run's parameters.
      selection: how they were chosen.
      gamma_from: where the gamma of the report's calibration comes from.
      selections: deviation of each metric over reselections.
      provenance: further facts about the origin of the numbers.
    """
    config, meta = self.config, self.dataset.metadata
    return make_row(
      meta,
      report.on(meta["name"], meta["split_version"]),
      system=self.system.name,
      protocol=protocol,
      selection=selection,
      seed=config["seed"],
      step=step,
      selections=selections,
      provenance={
        "gamma_from": gamma_from,
        "preset": config["system"]["preset"],
        "config": config | {"data": config["data"] | {"dir": None}},
        "data": {k: meta[k] for k in ("fingerprint", "sources", "storage_dtype")},
        "versions": library_versions(),
        "device": jax.devices()[0].device_kind,
        "products": {
          "training": self.trained_in,
          "scoring": nearest(config["matmul_precision"]),
        },
        **provenance,
      },
    )

  def _scored(self, split: str) -> tuple[ClassSpace, tuple[str, ...]]:
    if split == "test":
      return self.dataset.classes, self.dataset.test_splits
    return self.classes, ("val",)

  @property
  def scored_at_once(self) -> int:
    """Images per step of an evaluation, a multiple of the devices."""
    devices = self.mesh.shape["data"]
    return -(-self.config["evaluation"]["batch_size"] // devices) * devices

  def param_shapes(self) -> Any:
    """Shapes and shardings for ``Checkpoints.restore_params``."""
    return param_shapes(self.system, self.spec, self.mesh)

  def identity(self) -> dict[str, Any]:
    """Fields that tell this experiment from others, kept in its checkpoints."""
    return run_identity({"config": self.config, "dataset": self.dataset.metadata})
