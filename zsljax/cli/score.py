"""Evaluates scores that any system made.

The file of scores is of NumPy (.npz), HDF5 (.h5), PyTorch (.pt, a dict of
tensors) or .safetensors. It has `scores` [N, C], numbers, the higher the likelier;
`labels` [N], the column of each image's class, counted from 0, or for several
labels [N, C] of 1 (present), -1 (absent), 0 (unannotated); `seen` [C], true for
the classes of training; .npz and .h5 may have `names` [C] of the classes.
Metrics, calibration and intervals are those of `eval`; --dest adds them to a
folder's results.jsonl as rows for `zsljax table`, and the accuracy of each class.

Examples:
  zsljax score --scores=scores.npz --gamma=0.7 --system=tfvaegan --dest=W
  zsljax score --scores=logits.pt --system=clip --dest=W
"""

from zsljax.cli.common import add_choice, add_number, add_path, numbers

GROUP = "judge"


def add_arguments(parser) -> None:
  add_path(parser, "--scores", "file with scores, labels and seen")
  parser.add_argument(
    "--protocol",
    default="xian",
    help="how to count, see `zsljax eval --help` (default: %(default)s)",
  )
  parser.add_argument(
    "--gamma", type=float, help="also report with this penalty on seen classes' scores"
  )
  add_choice(
    parser, "--calibration", ["additive", "multiplicative"], "how gamma is applied"
  )
  parser.add_argument(
    "--top_k",
    type=numbers,
    default=(),
    metavar="K,K",
    help="several labels an image: how many to predict (default: the protocol's)",
  )
  parser.add_argument(
    "--system", default="given", help="name in rows (default: %(default)s)"
  )
  parser.add_argument(
    "--dataset", help="name in rows (default: the name of the scores' file)"
  )
  add_number(parser, "--seed", 0, "of the run that made the scores")
  add_path(parser, "--dest", "folder of rows that are kept", "DIR", required=False)


def run(args) -> None:
  from zsljax.reporting.rows import add_rows, terminal_table
  from zsljax.runs.score import score

  rows = score(
    args.scores,
    args.protocol,
    args.gamma,
    args.calibration,
    args.top_k,
    system=args.system,
    dataset=args.dataset or args.scores.stem,
    seed=args.seed,
    dest=args.dest,
  )
  print(terminal_table(rows))
  for row in rows:
    for name, (low, high) in row.get("spread", {}).get("interval", {}).items():
      print(f"{row['calibration']}: {name.upper()} 95 % {low:.1f} to {high:.1f}")
  if args.dest:
    print(f"rows in {add_rows(args.dest, rows)}")
