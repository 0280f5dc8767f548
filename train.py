"""Trains a system: config in, checkpoints and metrics out.

  python train.py --config=configs/semantic_softmax.py:digits --workdir=W

Run again with the same command, an interrupted run continues and ends
bit-identical to one that was not interrupted.
"""

import pathlib

from absl import app, flags
import jax
from ml_collections import config_flags

from zsljax import training
from zsljax.checkpoints import Checkpoints
from zsljax.data import TrainingData
from zsljax.errors import shown_to_user
from zsljax.experiment import Experiment
from zsljax.flags import parse_flags
from zsljax.reporting.metrics_log import MetricsLog

CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  "FILE:ARGUMENT, for example configs/semantic_softmax.py:awa1.",
  lock_config=True,
)
WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run; the same folder continues it."
)
flags.mark_flags_as_required(["config", "workdir"])


def main(argv) -> None:
  """One run, from its beginning or its latest checkpoint."""
  del argv
  config = CONFIG.value.to_dict()
  workdir = pathlib.Path(WORKDIR.value).expanduser().absolute()

  run = Experiment.build(config)
  batch_size, mesh = config["batch_size"], run.mesh
  training.check_divides(batch_size, mesh, "config.batch_size")
  data = TrainingData(
    run.dataset,
    config["data"]["train_split"],
    batch_size,
    config["seed"],
    config["data"]["cache"],
    host=jax.process_index(),
    num_hosts=jax.process_count(),
    multiple_of=mesh.shape["data"],
  )
  optimizer = training.make_optimizer(config["optimizer"], batch_size)
  training.open_workdir(workdir, run.config, run.dataset.metadata)

  print(
    f"{run.system.name} on {run.dataset.metadata['name']} "
    f"({run.dataset.metadata['features']}, "
    f"{run.dataset.metadata['class_embedding']}): "
    f"{data.num_examples} images of {int(run.classes.seen.sum())} classes, "
    f"{'held in memory' if data.in_memory else 'streamed'}; "
    f"{mesh.size} {jax.devices()[0].platform} device(s)"
  )
  per_epoch = data.steps_per_epoch
  state = training.train(
    run.system,
    optimizer,
    lambda: training.init_state(run.system, optimizer, run.spec, config["seed"]),
    data,
    run.classes,
    training.Schedule(
      total_steps=config["epochs"] * per_epoch,
      log_every=config["log_every"],
      save_every=config["checkpoint"]["every_epochs"] * per_epoch,
      tolerance=config["optimizer"]["tolerance"],
    ),
    Checkpoints(workdir, run.identity(), keep=config["checkpoint"]["keep"]),
    lambda start: MetricsLog(workdir, start),
    mesh,
  )
  print(
    f"step {int(state.step)}, in {workdir}; now: "
    f"python eval.py --workdir={WORKDIR.value}"
  )


if __name__ == "__main__":
  app.run(shown_to_user(main), flags_parser=parse_flags)
