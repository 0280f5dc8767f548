"""The console command: parses, imports what the verb needs, calls it."""

import argparse
import pathlib

from zsljax.errors import shown_to_user


def _import_xlsa17(args: argparse.Namespace) -> None:
  from zsljax.data import prepare, read_xlsa17
  from zsljax.data.describe import describe

  feature_set = read_xlsa17(
    args.source, args.features, args.splits, args.name, args.attributes
  )
  stored = prepare(feature_set, args.dest, args.storage, args.overwrite)
  print(describe(stored))


def _import_regions(args: argparse.Namespace) -> None:
  from zsljax.data import prepare, read_regions
  from zsljax.data.describe import describe

  with read_regions(
    args.source, args.dest, args.name, args.attributes, args.word_vectors
  ) as feature_set:
    stored = prepare(feature_set, args.dest, args.storage, args.overwrite)
  print(describe(stored))


def _benchmark(args: argparse.Namespace) -> None:
  from zsljax.benchmark import main

  main(args)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    "zsljax",
    description="Zero-shot learning in JAX. Training and evaluation are "
    "train.py and eval.py; this command is for what surrounds them.",
  )
  verbs = parser.add_subparsers(required=True, metavar="VERB")

  data = verbs.add_parser("data", help="import datasets")
  kinds = data.add_subparsers(required=True, metavar="ACTION")
  xlsa17 = kinds.add_parser(
    "import-xlsa17",
    help="res101.mat + att_splits.mat (AWA1, AWA2, CUB, SUN, APY, FLO)",
    description="Checks a dataset in the xlsa17 layout and stores it as "
    "TFRecord shards. Names the published set by the folder's name.",
  )
  xlsa17.set_defaults(run=_import_xlsa17)
  xlsa17.add_argument(
    "--source",
    type=pathlib.Path,
    required=True,
    metavar="DIR",
    help="folder of both .mat files",
  )
  xlsa17.add_argument(
    "--dest",
    type=pathlib.Path,
    required=True,
    metavar="DIR",
    help="where the shards go: DEST/<name>/<features>_<class embedding>/",
  )
  xlsa17.add_argument(
    "--features",
    default="res101.mat",
    metavar="FILE",
    help="file with features and labels (default: %(default)s)",
  )
  xlsa17.add_argument(
    "--splits",
    default="att_splits.mat",
    metavar="FILE",
    help="file with class embeddings and splits; sent_splits.mat for CUB "
    "sentences (default: %(default)s)",
  )
  xlsa17.add_argument(
    "--attributes",
    default="att",
    choices=["att", "original_att"],
    help="att: scaled to length one, what published numbers use; original_att: "
    "as annotated (default: %(default)s)",
  )
  xlsa17.add_argument("--name", help="of the dataset (default: the folder's name)")
  _add_storage(xlsa17)

  regions = kinds.add_parser(
    "import-regions",
    help="feature_map_*.hdf5 of DAZLE, TransZero and MSDN (CUB, SUN, AWA2)",
    description="Checks region features in the HDF5 layout of DAZLE, TransZero "
    "and MSDN and stores them as TFRecord shards, with bounded memory. Beside the "
    "result it needs as much room as the unpacked features, for the time of the "
    "import.",
  )
  regions.set_defaults(run=_import_regions)
  regions.add_argument(
    "--source",
    type=pathlib.Path,
    required=True,
    metavar="FILE",
    help="HDF5 with feature_map [N, C, H, W], labels, att, *_loc",
  )
  regions.add_argument(
    "--dest",
    type=pathlib.Path,
    required=True,
    metavar="DIR",
    help="where the shards go: DEST/<name>/<features>_<H>x<W>_att/",
  )
  regions.add_argument(
    "--name",
    help="of the dataset (default: what follows the last underscore of the file's "
    "name)",
  )
  regions.add_argument(
    "--attributes",
    default="att",
    choices=["att", "original_att"],
    help="field with the class descriptions (default: %(default)s)",
  )
  regions.add_argument(
    "--word_vectors",
    type=pathlib.Path,
    metavar="FILE",
    help=".npy with a word vector for each attribute [A, V], instead of the file's "
    "w2v_att",
  )
  _add_storage(regions)

  benchmark = verbs.add_parser(
    "benchmark", help="time a system's step and its input pipeline"
  )
  benchmark.set_defaults(run=_benchmark)
  benchmark.add_argument(
    "--system", default="semantic_softmax", help="(default: %(default)s)"
  )
  benchmark.add_argument(
    "--preset",
    default="cub",
    help="shapes: cub (pooled), cub7 or cub14 (regions) (default: %(default)s)",
  )
  benchmark.add_argument(
    "--batch_size", type=int, help="(default: the preset's, 256 or 50)"
  )
  benchmark.add_argument(
    "--data_dir",
    type=pathlib.Path,
    metavar="DIR",
    help="an imported dataset: its shapes are used and its streaming is timed",
  )
  benchmark.add_argument(
    "--dataset", default="awa1", help="its name there (default: %(default)s)"
  )
  benchmark.add_argument(
    "--features",
    metavar="NAME",
    help="its features and class embedding there, where it has several",
  )
  benchmark.add_argument(
    "--json", type=pathlib.Path, metavar="FILE", help="also write the figures"
  )
  return parser


def _add_storage(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--storage",
    default="source",
    choices=["source", "float32", "float16", "bfloat16"],
    help="precision of the stored features (default: as in the source)",
  )
  parser.add_argument(
    "--overwrite",
    action="store_true",
    help="replace a stored dataset of the same name",
  )


@shown_to_user
def main(argv: list[str] | None = None) -> None:
  """Runs the verb that ``argv`` names."""
  args = _parser().parse_args(argv)
  args.run(args)


if __name__ == "__main__":
  main()
