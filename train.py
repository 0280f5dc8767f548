"""Trains a system: config in, checkpoints and metrics out.

  python train.py --config=configs/semantic_softmax.py:digits --workdir=W

Run again with the same command, an interrupted run continues and ends
bit-identical to one that was not interrupted.
"""

import contextlib
import pathlib
from typing import Any

from absl import app, flags
import jax
from ml_collections import config_flags
import optax

from zsljax import distributed, training
from zsljax.checkpoints import Checkpoints
from zsljax.data import TrainingData
from zsljax.errors import in_bytes, require, shown_to_user
from zsljax.experiment import Experiment
import zsljax.flags
from zsljax.flags import WORKDIR, parse_flags, workdir
from zsljax.judging import Judge
from zsljax.precision import computed_in, note
from zsljax.reporting.files import locked
from zsljax.reporting.metrics_log import MetricsLog

CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  "FILE:ARGUMENT, for example configs/semantic_softmax.py:awa1.",
  lock_config=True,
)
flags.mark_flag_as_required("config")
COORDINATOR = flags.DEFINE_string(
  "coordinator",
  None,
  "HOST:PORT of process 0, for a run of several processes; auto lets JAX find out. "
  "SLURM and Open MPI need none of these flags.",
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator.")
PROCESS_ID = flags.DEFINE_integer(
  "process_id", None, "Of this process, counted from 0; with --coordinator."
)
flags.adopt_module_key_flags(zsljax.flags)

_PLACES = {
  "device": "held on every device ({})",
  "split": "held in parts by the devices ({})",
  "host": "held in memory ({})",
  "none": "streamed ({})",
}
# Steps in a compiled call, where an epoch is longer: a run is stopped between calls.
_AT_ONCE = 256
_AT_LEAST_ONE = (
  "epochs",
  "log_every",
  "checkpoint.every_epochs",
  "checkpoint.keep",
  "evaluation.batch_size",
)


def train(config: dict[str, Any], workdir: pathlib.Path) -> training.TrainState:
  """One run, from its beginning or its latest checkpoint.

  Args:
    config: all fields, nested, as plain values.
    workdir: the run's folder.
  """
  for field in _AT_LEAST_ONE:
    value = config
    for key in field.split("."):
      value = value[key]
    require(value >= 1, f"config.{field}", value, "1 or more")
  require(config["seed"] >= 0, "config.seed", config["seed"], "0 or more")
  every = config["evaluation"]["every_epochs"]
  require(every >= 0, "config.evaluation.every_epochs", every, "0 or more")
  require(
    not every or config["data"]["train_split"] == "train",
    "config.evaluation.every_epochs",
    f"{every} with config.data.train_split={config['data']['train_split']}",
    "0, or train_split=train: the validation images are trained on here",
  )
  run = Experiment.build(config)
  data = run.training_data()
  optimizer = training.make_optimizer(
    config["optimizer"], config["batch_size"], data.total_steps(config["epochs"])
  )
  distributed.require_agreement(
    {
      **training.flat(
        run.config | {"data": run.config["data"] | {"dir": None}}, "config."
      ),
      **training.flat(training.library_versions(), "version of "),
      "fingerprint of the data": run.dataset.fingerprint,
    }
  )
  lock = contextlib.nullcontext()
  if distributed.is_writer():
    lock = locked(workdir / ".lock", f"{workdir}: another process is training there")
  with lock, computed_in(config["matmul_precision"]):
    if distributed.is_writer():
      meta, classes = run.dataset.metadata, run.dataset.classes
      training.open_workdir(workdir, run.config, meta, classes)
    distributed.wait_for_all("the run's folder")
    training.read_manifest(workdir)  # Or the processes do not share the folder.
    return _train(run, data, optimizer, workdir)


def _train(
  run: Experiment,
  data: TrainingData,
  optimizer: optax.GradientTransformationExtraArgs,
  workdir: pathlib.Path,
) -> training.TrainState:
  config, mesh = run.config, run.mesh
  meta = run.dataset.metadata
  of = "labels" if run.system.multi_label else "classes"
  _print(
    f"{run.system.name} on {meta['name']} ({meta['features']}, "
    f"{meta['class_embedding']}): {data.num_examples} images of "
    f"{int(run.classes.seen.sum())} {of}, "
    f"{_PLACES[data.placement].format(in_bytes(data.size_bytes))}; "
    f"{mesh.size} {jax.devices()[0].platform} device(s)"
    + (f" of {jax.process_count()} processes" if jax.process_count() > 1 else "")
    + (f"; {about}" if (about := note(config["matmul_precision"])) else "")
  )
  per_epoch = data.steps_per_epoch

  if data.placement in ("device", "split"):
    inputs = training.Resident(
      data.table,
      data.rows,
      mesh,
      data.num_examples,
      min(per_epoch, _AT_ONCE),
      data.host_rows if data.placement == "split" else None,
    )
  else:
    inputs = training.Sent(data.batches, mesh, data.num_examples)
  every = config["evaluation"]["every_epochs"]
  watch = _watch(run) if every else None
  checkpoints = Checkpoints(workdir, run.identity(), config["checkpoint"]["keep"])
  state = training.train(
    run.system,
    optimizer,
    lambda: training.init_state(run.system, optimizer, run.spec, config["seed"]),
    inputs,
    run.classes,
    training.Schedule(
      total_steps=data.total_steps(config["epochs"]),
      log_every=config["log_every"],
      save_every=config["checkpoint"]["every_epochs"] * per_epoch,
      # The gradient of a minibatch does not vanish at the optimum.
      tolerance=0.0 if config["batch_size"] else config["optimizer"]["tolerance"],
      watch_every=every * per_epoch,
    ),
    checkpoints,
    lambda start: MetricsLog(workdir, start) if distributed.is_writer() else None,
    mesh,
    watch,
  )
  checkpoints.close()
  return state


def _watch(run: Experiment) -> training.Watch:
  """The validation images, judged as ``sweep`` judges them."""
  judge = Judge.of(run, "val")

  def outputs(params, inputs):
    return judge.outputs(run.system, params, *inputs)

  def metrics(outputs):
    found = judge.judgement(outputs).metrics
    return {f"val_{name}": value for name, value in found.items()}

  return training.Watch(judge.inputs, outputs, metrics, f"val_{judge.metric}")


def _print(line: str) -> None:
  if distributed.is_writer():
    print(line, flush=True)


def main(argv: list[str]) -> None:
  """Trains what the flags say."""
  del argv
  config = CONFIG.value.to_dict()
  with distributed.joined(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value):
    _train_and_print(config)


def _train_and_print(config: dict[str, Any]) -> None:
  step = int(train(config, workdir()).step)
  ending = f"step {step}"
  if not config["batch_size"] and config["optimizer"]["tolerance"]:
    converged = step < config["epochs"]
    ending = f"{'converged' if converged else 'not converged'} at {ending}"
  _print(f"{ending}; now: python eval.py --workdir={WORKDIR.value}")


if __name__ == "__main__":
  app.run(shown_to_user(main), flags_parser=parse_flags)
