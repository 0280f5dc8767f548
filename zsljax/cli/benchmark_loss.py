"""Times SDL's ranking loss against other forms.

Value and gradient of SDL's loss, beside the scores alone, positives padded to
the batch's maximum, and all pairs of labels; with their memory.

Example:
  zsljax benchmark-loss --preset=nus
"""

from zsljax.cli.common import add_path

GROUP = "measure"


def add_arguments(parser) -> None:
  parser.add_argument(
    "--preset", default="nus", help="nus or openimages (default: %(default)s)"
  )
  add_path(parser, "--json", "also write the figures", required=False)


def run(args) -> None:
  from zsljax.benchmark import loss, show
  from zsljax.io.files import write_json

  figures = loss.run(args.preset)
  print(show(figures))
  if args.json:
    write_json(args.json, figures)
