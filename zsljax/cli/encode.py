"""Makes features of a folder of images.

Encodes them by a pretrained network into an HDF5 file with `features` and
`image_files`, their names relative to the folder, for the importers'
--features. The network is told by its weights, a local file; without --weights
it is EfficientNet-Lite2, of the extra zsljax[images]. The same command again
continues an interrupted one.

Examples:
  zsljax encode --images=photos --dest=photos.h5
  zsljax encode --images=photos --weights=resnet101.pth --output=regions \\
      --dest=photos.h5
"""

from zsljax.cli.common import (
  add_network,
  add_number,
  add_path,
  add_skip_bad,
  encoder_of,
)

GROUP = "data"


def add_arguments(parser) -> None:
  add_path(parser, "--images", "folder of images, at any depth", "DIR")
  add_network(parser)
  add_path(parser, "--dest", "file that is written, .h5 or .hdf5")
  add_number(parser, "--batch_size", 32, "images at a time")
  add_skip_bad(parser, "images that cannot be decoded")


def run(args) -> None:
  from zsljax.encoders.feature_store import described, encode_folder

  encoder = encoder_of(args)
  written = encode_folder(
    encoder, args.images, args.dest, args.batch_size, args.skip_bad
  )
  print(described(encoder, args.dest, written))
