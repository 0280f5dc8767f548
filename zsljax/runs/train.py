"""Trains a run: config in, checkpoints and metrics out."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import optax

from zsljax import training
from zsljax.data import TrainingData
from zsljax.devices import processes as distributed
from zsljax.devices.precision import computed_in, note
from zsljax.errors import in_bytes, require
from zsljax.io.files import locked
from zsljax.io.versions import library_versions
from zsljax.models import MULTI_LABEL, to_fit
from zsljax.reporting.metrics_log import MetricsLog
from zsljax.reporting.tables import fitted
from zsljax.runs.config import flat
from zsljax.runs.evaluation_set import EvaluationSet
from zsljax.runs.experiment import Experiment
from zsljax.runs.workdir import open_workdir, read_manifest
from zsljax.training.checkpoints import Checkpoints

_PLACES = {
  "device": "held on every device ({})",
  "split": "held in parts on the devices ({})",
  "host": "held on the host ({})",
  "none": "streamed ({})",
}
# Steps in a compiled call, where an epoch is longer: a run is stopped between calls.
_AT_ONCE = 256


def train(config: dict[str, Any], workdir: pathlib.Path) -> training.TrainState:
  """Trains one run, from its beginning or its latest checkpoint.

  Args:
    config: all fields, nested, as plain values.
    workdir: the run's folder.

  Raises:
    ZsljaxError: a field does not fit, or a process has another config; another run's
      folder; the loss is not finite.
    Stopped: the run received SIGTERM or Ctrl-C, and is saved.
  """
  own = config | {"data": config["data"] | {"dir": None}}
  distributed.require_agreement(flat({"config": own, "version": library_versions()}))
  every = config["evaluation"]["every_epochs"]
  require(
    not every or config["data"]["train_split"] == "train",
    "config.evaluation.every_epochs",
    f"{every} with config.data.train_split={config['data']['train_split']}",
    "0, or train_split=train: the validation images are trained on here",
  )
  minutes = config["checkpoint"]["every_minutes"]
  require(minutes >= 0, "config.checkpoint.every_minutes", minutes, "0 or more")
  run = Experiment.build(config)
  data = run.training_data()
  optimizer = training.make_optimizer(
    config["optimizer"], config["batch_size"], data.total_steps(config["epochs"])
  )
  distributed.require_agreement({"fingerprint of the data": run.dataset.fingerprint})
  lock = contextlib.nullcontext()
  if distributed.is_writer():
    lock = locked(workdir / ".lock", f"{workdir}: another process is training there")
  with lock, computed_in(config["matmul_precision"]):
    if distributed.is_writer():
      meta, classes = run.dataset.metadata, run.dataset.classes
      open_workdir(workdir, run.config, meta, classes)
    multihost_utils.sync_global_devices("the run's folder")
    read_manifest(workdir)  # Or the processes do not share the folder.
    return _train(run, data, optimizer, workdir, run.other_forms(config))


def _train(
  run: Experiment,
  data: TrainingData,
  optimizer: optax.GradientTransformationExtraArgs,
  workdir: pathlib.Path,
  other_forms: str,
) -> training.TrainState:
  config, mesh = run.config, run.mesh
  meta = run.dataset.metadata
  of = "labels" if run.system.task == MULTI_LABEL else "classes"
  about = (
    f"{run.system.name} on {meta['name']} ({meta['features']}, "
    f"{meta['class_embedding']}){other_forms}: {data.num_examples} images of "
    f"{int(run.classes.seen.sum())} {of}, "
    f"{_PLACES[data.placement].format(in_bytes(data.size_bytes))}; "
    f"{mesh.size} {jax.devices()[0].platform} device(s)"
    + (f" of {jax.process_count()} processes" if jax.process_count() > 1 else "")
    + (f"; {products}" if (products := note(config["matmul_precision"])) else "")
  )
  print_on_writer(fitted(about))
  per_epoch = data.steps_per_epoch

  if data.placement in ("device", "split"):
    inputs = training.DeviceInputs(
      data.table,
      data.rows,
      mesh,
      data.num_examples,
      min(per_epoch, _AT_ONCE),
      data.host_rows if data.placement == "split" else None,
    )
  else:
    inputs = training.HostInputs(data.batches, mesh, data.num_examples)
  every = config["evaluation"]["every_epochs"]
  watch = _watch(run) if every else None
  checkpoints = Checkpoints(workdir, run.identity(), config["checkpoint"]["keep"])
  spec = run.spec
  stage = to_fit(run.system)
  if stage and checkpoints.latest_step() is None:
    numbers = stage.fitted(*map(jnp.asarray, data.moments()))
    spec = dataclasses.replace(spec, stage=numbers)
  state = training.train(
    run.system,
    optimizer,
    lambda: training.init_state(run.system, optimizer, spec, config["seed"]),
    inputs,
    run.classes,
    training.Schedule(
      total_steps=data.total_steps(config["epochs"]),
      log_every=config["log_every"],
      save_every=config["checkpoint"]["every_epochs"] * per_epoch,
      # The gradient of a minibatch does not vanish at the optimum.
      tolerance=0.0 if config["batch_size"] else config["optimizer"]["tolerance"],
      watch_every=every * per_epoch,
      save_seconds=60 * config["checkpoint"]["every_minutes"],
    ),
    checkpoints,
    lambda start: (
      MetricsLog(workdir, start, config) if distributed.is_writer() else None
    ),
    mesh,
    watch,
  )
  checkpoints.close()
  return state


def _watch(run: Experiment) -> training.PeriodicEval:
  """Evaluates the validation images as ``sweep`` does."""
  images = EvaluationSet.placed(run, "val")

  def outputs(params, inputs):
    return images.outputs(run.system, params, *inputs)

  def metrics(outputs):
    found = images.report(outputs).metrics
    return {f"val_{name}": value for name, value in found.items()}

  return training.PeriodicEval(images.inputs, outputs, metrics, f"val_{images.metric}")


def print_on_writer(line: str) -> None:
  """Prints on the process that talks to the user."""
  if distributed.is_writer():
    print(line, flush=True)
