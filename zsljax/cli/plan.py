"""Says whether a run fits accelerators, without them.

Compiles the run's training step for them with the real compiler, and sets its
memory beside that of the training features: whole on every device, a part on each,
or streamed from the host. Nothing runs.

Example:
  zsljax plan --config=msdn:digits --topology=v5e:2x2
"""

from zsljax.cli.common import add_config, add_path, add_topology

GROUP = "measure"


def add_arguments(parser) -> None:
  add_config(parser, "msdn:cub")
  add_topology(parser, required=True)
  add_path(parser, "--json", "also write the figures", required=False)


def run(args) -> None:
  from zsljax.benchmark.plan import plan, shown
  from zsljax.io.files import write_json
  from zsljax.runs.config import read_config

  figures = plan(read_config(args.config, args.fields), args.topology)
  print(shown(figures))
  if args.json:
    write_json(args.json, figures)
