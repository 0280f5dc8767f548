"""Trains a system: config in, checkpoints out.

The same command again continues an interrupted run, which ends bit-identical to
one that was not interrupted. NAME is one of the configs that come with zsljax,
ARGUMENT mostly a dataset. Several processes train one run where SLURM or Open
MPI starts them, or with the three flags for that.

Examples:
  zsljax train --config=semantic_softmax:digits --workdir=W
  zsljax train --config=msdn:cub --config.data.dir=DATA --workdir=W
  zsljax train --config=msdn:digits --config.seed=1 --workdir=W
"""

from zsljax.cli.common import add_config, add_path, add_processes

GROUP = "train"


def add_arguments(parser) -> None:
  add_config(parser, "semantic_softmax:awa1")
  add_path(
    parser, "--workdir", "folder of the run; training there again continues it", "DIR"
  )
  add_processes(parser)


def run(args) -> None:
  from zsljax.devices import processes
  from zsljax.runs.config import read_config
  from zsljax.runs.train import print_on_writer, train

  config = read_config(args.config, args.fields)
  with processes.joined(args.coordinator, args.num_processes, args.process_id):
    step = int(train(config, args.workdir.absolute()).step)
    ending = f"step {step}"
    if not config["batch_size"] and config["optimizer"]["tolerance"]:
      converged = step < config["epochs"]
      ending = f"{'converged' if converged else 'not converged'} at {ending}"
    print_on_writer(f"{ending}; now: zsljax eval --workdir={args.workdir}")
