"""Times a system's step and its input pipeline.

Times a training step on random features of published shapes, in turns with
matrix products (a large square one and the step's own) and a copy of memory;
then the input alone, the step alone and both together. Needs no data and no
TensorFlow.

With --topology, the training and the scoring step are compiled for accelerators
that are not here, and nothing is timed: memory, traffic and collectives of the
compiled programs, and the time that they predict.

Examples:
  zsljax benchmark --system=msdn --preset=cub7 --json=cub7.json
  zsljax benchmark --system=msdn --preset=cub14 --batch_size=512 \\
      --topology=v5e:2x2 --precision=bfloat16
  zsljax benchmark --compare=before.json,after.json
"""

import pathlib

from zsljax.cli.common import (
  add_choice,
  add_data_dir,
  add_number,
  add_path,
  add_topology,
  names,
)

GROUP = "measure"


def add_arguments(parser) -> None:
  parser.add_argument(
    "--system", default="semantic_softmax", help="(default: %(default)s)"
  )
  parser.add_argument(
    "--preset",
    default="cub",
    help="shapes: cub or awa2 (pooled), cub7, cub14 or sun14 (regions), nus or "
    "openimages (several labels an image), classes1m (cosine: a million prototypes) "
    "(default: %(default)s)",
  )
  parser.add_argument(
    "--batch_size", type=int, metavar="N", help="(default: the preset's)"
  )
  add_data_dir(
    parser, "folder of --dataset, whose shapes are used and streaming is timed"
  )
  parser.add_argument(
    "--dataset", default="awa1", help="its name there (default: %(default)s)"
  )
  parser.add_argument(
    "--features",
    metavar="NAME",
    help="its features and class embedding there, where it has several",
  )
  add_number(parser, "--data_devices", 1, "devices over which a batch is split")
  add_number(
    parser,
    "--model_devices",
    1,
    "devices over which parameters with a row for each class are split",
  )
  add_choice(
    parser,
    "--precision",
    ["float32", "tensorfloat32", "bfloat16"],
    "of matrix products; sums and parameters are float32, features are bfloat16 with "
    "bfloat16",
  )
  add_number(parser, "--seeds", 1, "runs trained as one program, beside a run alone")
  add_topology(parser)
  add_path(parser, "--json", "also write the figures", required=False)
  parser.add_argument(
    "--compare",
    type=names,
    metavar="A.json,B.json",
    help="measure nothing: print two files of --json side by side",
  )


def run(args) -> None:
  from zsljax import benchmark
  from zsljax.errors import require
  from zsljax.io.files import write_json

  if args.compare:
    print(benchmark.compare([pathlib.Path(name) for name in args.compare]))
    return
  if args.topology is not None:
    from zsljax.benchmark import topology

    no_data = (("data_dir", None), ("dataset", "awa1"), ("features", None))
    for field, usual in (("data_devices", 1), ("seeds", 1), *no_data):
      found = getattr(args, field)
      require(found == usual, f"--{field}", found, "it to be left out with --topology")

    figures = topology.run(
      args.topology,
      args.system,
      args.preset,
      args.batch_size,
      args.precision,
      args.model_devices,
    )
  else:
    figures = benchmark.run(
      args.system,
      args.preset,
      args.batch_size,
      args.data_dir,
      args.dataset,
      args.features,
      benchmark.Variant(
        precision=args.precision,
        seeds=args.seeds,
        data_devices=args.data_devices,
        model_devices=args.model_devices,
      ),
    )
  print(benchmark.show(figures))
  if args.json:
    write_json(args.json, figures)
