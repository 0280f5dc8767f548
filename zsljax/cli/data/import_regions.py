"""Imports region features of DAZLE, TransZero and MSDN.

Checks region features in the HDF5 layout of DAZLE, TransZero and MSDN (CUB,
SUN, AWA2) and stores them as TFRecord shards, with bounded memory. Beside the
result it needs as much room as the unpacked features, for the time of the
import.

Example:
  zsljax data import-regions --source=feature_map_ResNet_101_CUB.hdf5 --dest=DATA
"""

from zsljax.cli.common import add_choice, add_path, add_storage, store

GROUP = "data"


def add_arguments(parser) -> None:
  add_path(parser, "--source", "HDF5 with feature_map [N, C, H, W], labels, att, *_loc")
  add_choice(
    parser, "--attributes", ["att", "original_att"], "field with the class descriptions"
  )
  add_path(
    parser,
    "--word_vectors",
    ".npy with a word vector for each attribute [A, V], instead of the file's w2v_att",
    required=False,
  )
  parser.add_argument(
    "--pool",
    action="store_true",
    help="store the mean over each image's regions, for systems on pooled features",
  )
  add_storage(parser, "what follows the last underscore of the file's name")


def run(args) -> None:
  from zsljax.data import read_regions

  store(
    args,
    read_regions(
      args.source, args.dest, args.name, args.attributes, args.word_vectors, args.pool
    ),
  )
