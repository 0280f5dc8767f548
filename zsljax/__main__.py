"""The console command: parses, imports what the verb needs, calls it."""

import argparse
import pathlib

from zsljax.errors import shown_to_user


def _import_xlsa17(args: argparse.Namespace) -> None:
  from zsljax.data import read_xlsa17

  _store(
    args,
    read_xlsa17(args.source, args.features, args.splits, args.name, args.attributes),
  )


def _import_regions(args: argparse.Namespace) -> None:
  from zsljax.data import read_regions

  with read_regions(
    args.source, args.dest, args.name, args.attributes, args.word_vectors, args.pool
  ) as feature_set:
    _store(args, feature_set)


def _import_multilabel(args: argparse.Namespace) -> None:
  from zsljax.data import read_multilabel

  _store(
    args,
    read_multilabel(
      args.source,
      args.name,
      args.unseen,
      args.word_vectors,
      args.multiword,
      args.unknown,
    ),
  )


def _import_nus_wide(args: argparse.Namespace) -> None:
  from zsljax.data import read_nus_wide

  _store(args, read_nus_wide(args.source, *_features_and_vectors(args)))


def _import_coco(args: argparse.Namespace) -> None:
  from zsljax.data import read_coco

  _store(args, read_coco(args.train, args.test, *_features_and_vectors(args)))


def _import_open_images(args: argparse.Namespace) -> None:
  from zsljax.data import read_open_images

  _store(
    args,
    read_open_images(
      args.train_labels,
      args.test_labels,
      args.descriptions,
      args.seen,
      args.unseen,
      *_features_and_vectors(args),
    ),
  )


def _features_and_vectors(args: argparse.Namespace) -> tuple:
  return args.features, args.word_vectors, args.multiword, args.unknown, args.name


def _store(args: argparse.Namespace, feature_set) -> None:
  from zsljax.data import prepare
  from zsljax.data.describe import describe

  print(describe(prepare(feature_set, args.dest, args.storage, args.overwrite)))


def _benchmark(args: argparse.Namespace) -> None:
  from zsljax.benchmark import main

  main(args)


def _benchmark_loss(args: argparse.Namespace) -> None:
  from zsljax.benchmark_loss import main

  main(args)


def _sweep(args: argparse.Namespace) -> None:
  from zsljax.sweeps.commands import sweep_command

  sweep_command(args)


def _compare(args: argparse.Namespace) -> None:
  from zsljax.sweeps.commands import compare_command

  compare_command(args)


def _reproduce(args: argparse.Namespace) -> None:
  from zsljax.sweeps.reproduce import reproduce_command

  reproduce_command(args)


def _explain(args: argparse.Namespace) -> None:
  from zsljax.explain import explain_command

  explain_command(args)


def _table(args: argparse.Namespace) -> None:
  from zsljax.reporting.tables import find_rows, make_blocks, render

  print(render(make_blocks(find_rows(args.workdirs)), args.format), end="")


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
  _add_file(xlsa17, "source", "folder of both .mat files", "DIR")
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
  _add_storage(xlsa17, "the folder's name")

  regions = kinds.add_parser(
    "import-regions",
    help="feature_map_*.hdf5 of DAZLE, TransZero and MSDN (CUB, SUN, AWA2)",
    description="Checks region features in the HDF5 layout of DAZLE, TransZero "
    "and MSDN and stores them as TFRecord shards, with bounded memory. Beside the "
    "result it needs as much room as the unpacked features, for the time of the "
    "import.",
  )
  regions.set_defaults(run=_import_regions)
  _add_file(regions, "source", "HDF5 with feature_map [N, C, H, W], labels, att, *_loc")
  regions.add_argument(
    "--attributes",
    default="att",
    choices=["att", "original_att"],
    help="field with the class descriptions (default: %(default)s)",
  )
  _add_file(
    regions,
    "word_vectors",
    ".npy with a word vector for each attribute [A, V], instead of the file's w2v_att",
    required=False,
  )
  regions.add_argument(
    "--pool",
    action="store_true",
    help="store the mean over each image's regions, for systems that use pooled "
    "features",
  )
  _add_storage(regions, "what follows the last underscore of the file's name")

  multilabel = kinds.add_parser(
    "import-multilabel",
    help="images with several labels each, from one .npz (Corel5k)",
    description="Checks a multi-label set in one .npz file (X_train, Y_train, X_test, "
    "Y_test, labels, and vectors of the labels) and stores it as TFRecord shards.",
  )
  multilabel.set_defaults(run=_import_multilabel)
  _add_file(multilabel, "source", ".npz file")
  _add_file(
    multilabel,
    "unseen",
    "text file, one unseen label a line (default: the file's field `unseen`, or every "
    "fifth label in alphabetical order)",
    required=False,
  )
  _add_word_vectors(multilabel, "the file's own")
  _add_storage(multilabel, "the file's name")

  nus_wide = kinds.add_parser(
    "import-nus-wide",
    help="NUS-WIDE: 925 Flickr tags seen, 81 annotated concepts unseen",
    description="Checks NUS-WIDE's official label files and features of its images "
    "and stores them as TFRecord shards.",
  )
  nus_wide.set_defaults(run=_import_nus_wide)
  _add_file(nus_wide, "source", "folder of the unpacked label files", "DIR")
  _add_features(nus_wide)
  _add_word_vectors(nus_wide)
  _add_storage(nus_wide, "nus_wide")

  coco = kinds.add_parser(
    "import-coco",
    help="COCO: 48 classes seen, 17 unseen",
    description="Checks COCO's annotated instances and features of its images and "
    "stores them as TFRecord shards. The split is that of zero-shot detection.",
  )
  coco.set_defaults(run=_import_coco)
  _add_file(coco, "train", "instances_train*.json")
  _add_file(coco, "test", "instances_val*.json")
  _add_features(coco)
  _add_word_vectors(coco)
  _add_storage(coco, "coco")

  open_images = kinds.add_parser(
    "import-open-images",
    help="Open Images: image-level labels, present and absent (7186 seen, 400 unseen)",
    description="Checks Open Images' label files and features of any of its images, "
    "and stores the images that have both as TFRecord shards.",
  )
  open_images.set_defaults(run=_import_open_images)
  csv = ".csv with ImageID,Source,LabelName,Confidence"
  _add_file(open_images, "train_labels", csv)
  _add_file(open_images, "test_labels", f"{csv} of the test images")
  _add_file(open_images, "descriptions", ".csv with LabelName,DisplayName")
  _add_file(open_images, "seen", "text file, one LabelName such as /m/01g317 a line")
  _add_file(open_images, "unseen", "the same of the unseen labels")
  _add_features(open_images)
  _add_word_vectors(open_images)
  _add_storage(open_images, "open_images")

  sweep = verbs.add_parser(
    "sweep",
    help="choose settings on validation classes, train several seeds, test",
    description="Tries all combinations of the config's grid (config.grid) without the "
    "validation classes, and judges them there after several numbers of steps; trains "
    "--seeds runs with the best on all training images, and tests them. Seeds are "
    "trained as one program. Fields of the config are set as for train.py, with "
    "--config.FIELD=VALUE. The same command again continues an interrupted sweep.",
  )
  sweep.set_defaults(run=_sweep)
  _add_sweep(sweep)

  compare = verbs.add_parser(
    "compare",
    help="sweep members of the generalized softmax family, and set them side by side",
    description="A sweep for each loss, in WORKDIR/<loss>, with the dataset of "
    "--config=configs/cosine.py:DATASET, and one table.",
  )
  compare.set_defaults(run=_compare)
  _add_sweep(compare)
  compare.add_argument(
    "--losses",
    type=lambda text: tuple(text.split(",")),
    metavar="LOSS,LOSS",
    help="members of the family (default: all)",
  )

  reproduce = verbs.add_parser(
    "reproduce",
    help="sweep systems on datasets and write a report",
    description="Sweeps every system on every dataset that it can use, and writes "
    "tables, curves and a manifest into DEST. Fields of all configs are set with "
    "--config.FIELD=VALUE. The same command again continues.",
  )
  reproduce.set_defaults(run=_reproduce, takes_fields=True)
  reproduce.add_argument("--systems", default="all", help="NAME,NAME or all")
  reproduce.add_argument(
    "--datasets",
    default="digits",
    help="NAME,NAME; digits stands for the embedded data (default: %(default)s)",
  )
  reproduce.add_argument(
    "--seeds", type=int, default=5, help="of each (default: %(default)s)"
  )
  _add_file(reproduce, "dest", "where the report goes", "DIR")
  _add_file(reproduce, "data_dir", "where datasets were imported to", "DIR", False)
  reproduce.add_argument(
    "--configs",
    type=pathlib.Path,
    default=pathlib.Path("configs"),
    metavar="DIR",
    help="folder of the config files (default: %(default)s)",
  )

  explain = verbs.add_parser(
    "explain",
    help="pictures of what a run looks at, decides by and confuses, in one report",
    description="Attention laid over photographs, attributes that decided, a map of "
    "the test images, the seen-unseen curve and a confusion matrix: as .png files and "
    "in DEST/report.html, which needs no other file.",
  )
  explain.set_defaults(run=_explain)
  _add_file(explain, "workdir", "of the run", "DIR")
  _add_file(explain, "dest", "where pictures and report go", "DIR")
  _add_file(
    explain,
    "images",
    "below it lie the photographs by the dataset's image names (default: none shown)",
    "DIR",
    required=False,
  )
  explain.add_argument(
    "--image",
    nargs="+",
    default=[],
    metavar="NAME",
    help="test images to explain, by their names in the dataset (default: --number are "
    "chosen, of unseen and seen classes, right and wrong ones)",
  )
  explain.add_argument(
    "--number", type=int, default=6, help="images to choose (default: %(default)s)"
  )
  explain.add_argument(
    "--attributes",
    type=int,
    default=4,
    help="attributes shown on an image (default: %(default)s)",
  )
  explain.add_argument(
    "--map",
    default="tsne",
    choices=["tsne", "pca"],
    help="how test images become points (default: %(default)s)",
  )
  explain.add_argument(
    "--data_dir", metavar="DIR", help="where the dataset is now, when it was moved"
  )

  table = verbs.add_parser(
    "table",
    help="results of several runs and sweeps, with published numbers",
    description="Means over seeds of the rows in each folder's results.jsonl, in "
    "blocks that compare: one dataset, features, class embedding, split and protocol. "
    "Published numbers of the dataset follow in blocks of their own.",
  )
  table.set_defaults(run=_table)
  table.add_argument("workdirs", type=pathlib.Path, nargs="+", metavar="WORKDIR")
  table.add_argument(
    "--format",
    default="terminal",
    choices=["terminal", "markdown", "latex", "csv"],
    help="(default: %(default)s)",
  )

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
    help="shapes: cub (pooled), cub7 or cub14 (regions), nus or openimages (several "
    "labels an image), classes1m (cosine: a million prototypes) (default: %(default)s)",
  )
  benchmark.add_argument("--batch_size", type=int, help="(default: the preset's)")
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
    "--model_devices",
    type=int,
    default=1,
    help="devices over which parameters with a row for each class are split (default: "
    "%(default)s)",
  )
  _add_file(benchmark, "json", "also write the figures", required=False)

  benchmark_loss = verbs.add_parser(
    "benchmark-loss",
    help="time SDL's ranking loss against other ways to compute it",
    description="Value and gradient of SDL's loss, beside the scores alone, positives "
    "padded to the batch's maximum, and all pairs of labels; with their memory.",
  )
  benchmark_loss.set_defaults(run=_benchmark_loss)
  benchmark_loss.add_argument(
    "--preset", default="nus", help="nus or openimages (default: %(default)s)"
  )
  _add_file(benchmark_loss, "json", "also write the figures", required=False)
  return parser


def _add_sweep(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--config",
    required=True,
    metavar="FILE:ARGUMENT",
    help="for example configs/cosine.py:digits",
  )
  _add_file(parser, "workdir", "where results and runs go", "DIR")
  parser.add_argument(
    "--seeds", type=int, default=5, help="runs that are tested (default: %(default)s)"
  )
  parser.set_defaults(takes_fields=True)


def _add_file(
  parser: argparse.ArgumentParser,
  name: str,
  what: str,
  metavar: str = "FILE",
  required: bool = True,
) -> None:
  parser.add_argument(
    f"--{name}", type=pathlib.Path, required=required, metavar=metavar, help=what
  )


def _add_features(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--features",
    type=pathlib.Path,
    required=True,
    nargs="+",
    metavar="FILE",
    help=".npy, .npz or .h5 with features [N, D] or [N, R, D] and, in a field "
    "image_files (for FILE.npy in FILE.txt), the images' names; rows of several files "
    "follow one another",
  )


def _add_word_vectors(
  parser: argparse.ArgumentParser, default: str | None = None
) -> None:
  _add_file(
    parser,
    "word_vectors",
    "vectors of the labels: GloVe or fastText text, word2vec .bin, .npz, .json, .npy"
    f"{f' (default: {default})' if default else ''}",
    required=default is None,
  )
  parser.add_argument(
    "--multiword",
    default="mean",
    choices=["mean", "sum"],
    help="what the vectors of a label's words are made into (default: %(default)s)",
  )
  parser.add_argument(
    "--unknown",
    default="refuse",
    choices=["refuse", "drop", "known_words", "zeros"],
    help="labels with a word that has no vector: an error that lists them; left out; "
    "their known words alone, or left out without one; a vector of zeros (default: "
    "%(default)s)",
  )


def _add_storage(parser: argparse.ArgumentParser, name: str) -> None:
  """What every import has; ``name`` says what a set is called when none is given."""
  _add_file(
    parser,
    "dest",
    "where the shards go: DEST/<name>/<features>_<class embedding>/",
    "DIR",
  )
  parser.add_argument("--name", help=f"of the dataset (default: {name})")
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
  parser = _parser()
  args, args.fields = parser.parse_known_args(argv)
  strange = [
    field
    for field in args.fields
    if not (getattr(args, "takes_fields", False) and field.startswith("--config."))
  ]
  if strange:
    parser.error(f"unrecognized arguments: {' '.join(strange)}")
  args.run(args)


if __name__ == "__main__":
  main()
