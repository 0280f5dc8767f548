"""Times decoding, network, and both, of images.

Example:
  zsljax benchmark-encode --images=photos --batch_size=32
"""

from zsljax.cli.common import add_network, add_number, add_path, encoder_of

GROUP = "measure"


def add_arguments(parser) -> None:
  add_path(parser, "--images", "folder of images, at any depth", "DIR")
  add_network(parser)
  add_number(parser, "--batch_size", 32, "images at a time")
  add_number(parser, "--number", 256, "of images; fewer are taken again")
  add_path(parser, "--json", "also write the figures", required=False)


def run(args) -> None:
  from zsljax.benchmark import encoding, show
  from zsljax.io.files import write_json

  figures = encoding.run(encoder_of(args), args.images, args.batch_size, args.number)
  print(show(figures))
  if args.json:
    write_json(args.json, figures)
