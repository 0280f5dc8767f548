"""Trains a system: config in, checkpoints and metrics out.

  python train.py --config=configs/semantic_softmax.py:digits --workdir=W

Run again with the same command, an interrupted run continues and ends
bit-identical to one that was not interrupted.
"""

from typing import Any

from absl import app, flags
from ml_collections import config_flags

import zsljax.cli.flags
from zsljax.cli.flags import WORKDIR, parse_flags, workdir
from zsljax.devices import processes as distributed
from zsljax.errors import shown_to_user
from zsljax.runs.train import print_on_writer, train

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
flags.adopt_module_key_flags(zsljax.cli.flags)


def main(argv: list[str]) -> None:
  """Trains what the flags say."""
  del argv
  config = CONFIG.value.to_dict()
  with distributed.joined(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value):
    _train_andprint_on_writer(config)


def _train_andprint_on_writer(config: dict[str, Any]) -> None:
  step = int(train(config, workdir()).step)
  ending = f"step {step}"
  if not config["batch_size"] and config["optimizer"]["tolerance"]:
    converged = step < config["epochs"]
    ending = f"{'converged' if converged else 'not converged'} at {ending}"
  print_on_writer(f"{ending}; now: python eval.py --workdir={WORKDIR.value}")


if __name__ == "__main__":
  app.run(shown_to_user(main), flags_parser=parse_flags)
