"""Evaluates a trained run: checkpoint in, results out.

--split=val chooses gamma of calibrated stacking on the validation classes;
--gamma_from takes that gamma to the test images of another run. The protocol
retrieval takes each unseen class's description for a query. Images with several
labels have protocols of their own: lesa, biam_openimages, sdl, ml_decoder and
dualcoop.
The protocol embeddings is classification among seen classes, verification of
pairs and retrieval; systems without unseen classes have no other. Several
processes share the images as in training.

Examples:
  zsljax eval --workdir=W                          # the test images
  zsljax eval --workdir=W --split=val              # of a run with train_split=train
  zsljax eval --workdir=W --protocol=embeddings --pairs=pairs.txt
"""

from zsljax.cli.common import add_choice, add_data_dir, add_path, add_processes, numbers

GROUP = "judge"


def add_arguments(parser) -> None:
  add_path(parser, "--workdir", "folder of the run", "DIR")
  add_choice(
    parser,
    "--split",
    ["test", "val"],
    "images to score; val needs a run with config.data.train_split=train",
  )
  add_data_dir(parser, "where the dataset is now, when it was moved")
  add_path(
    parser,
    "--on",
    "another stored dataset, of the same features and descriptions: its test images "
    "are scored among its classes, of which those that were trained on are seen",
    "DIR",
    required=False,
  )
  parser.add_argument(
    "--protocol",
    help="how to count. One label an image: xian (the default), retrieval or, for "
    "systems that have them, embeddings; several: lesa (the default), biam_openimages, "
    "sdl, ml_decoder or dualcoop",
  )
  calibrated = parser.add_mutually_exclusive_group()
  calibrated.add_argument(
    "--gamma",
    type=float,
    help="also report with this penalty on scores of seen classes, see --calibration "
    "(default: what a sweep chose for this run, or else the config's "
    "evaluation.gamma, for its own kind of calibration)",
  )
  add_path(
    calibrated,
    "--gamma_from",
    "as --gamma, with the value chosen by --split=val in this workdir",
    "DIR",
    required=False,
  )
  parser.add_argument(
    "--calibration",
    choices=["additive", "multiplicative"],
    help="gamma is subtracted from a seen class's score s, or s becomes "
    "s - (1 - gamma)|s| (default: the config's evaluation.calibration)",
  )
  parser.add_argument(
    "--test_oracle",
    action="store_true",
    help="also report with the gamma that is best on the test images: no result, but "
    "what many published tables show",
  )
  parser.add_argument(
    "--top_k",
    type=numbers,
    metavar="K,K",
    help="several labels an image: how many to predict for it, as in 10,20 (default: "
    "the config's evaluation.top_k, or the protocol's)",
  )
  add_path(
    parser,
    "--pairs",
    "with --protocol=embeddings, also verify these pairs: two images a line, each by "
    "its row in the imported features, counted from 0",
    required=False,
  )
  add_processes(parser)


def run(args) -> None:
  from zsljax.devices import processes
  from zsljax.runs.evaluate import described, evaluate

  written = args.workdir / "results.jsonl"
  args.workdir = args.workdir.absolute()
  own = [vars(args).pop(f) for f in ("coordinator", "num_processes", "process_id")]
  with processes.joined(*own):
    rows = evaluate(**vars(args))
    if processes.is_writer():
      print(described(rows, args.split))
      print(f"rows in {written}")
