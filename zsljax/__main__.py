"""The console command: parses, imports what the verb needs, calls it."""

import argparse
from collections.abc import Callable, Sequence
import importlib
import pathlib

from zsljax.errors import ZsljaxError, shown_to_user


def _import_xlsa17(args: argparse.Namespace) -> None:
  from zsljax.data import read_xlsa17

  _store(
    args,
    read_xlsa17(args.source, args.features, args.splits, args.name, args.attributes),
  )


def _import_regions(args: argparse.Namespace) -> None:
  from zsljax.data import read_regions

  _store(
    args,
    read_regions(
      args.source, args.dest, args.name, args.attributes, args.word_vectors, args.pool
    ),
  )


def _import_multilabel(args: argparse.Namespace) -> None:
  from zsljax.data import read_multilabel

  _store(
    args,
    read_multilabel(
      args.source,
      args.name,
      args.unseen,
      args.word_vectors,
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
  return args.features, args.word_vectors, args.unknown, args.name


def _store(args: argparse.Namespace, feature_set) -> None:
  from zsljax.data import prepare
  from zsljax.data.describe import describe

  stored = prepare(
    feature_set, args.dest, args.storage, args.overwrite, args.beam_pipeline_options
  )
  print(describe(stored))


def _build(args: argparse.Namespace) -> None:
  from zsljax.data import build_set, images_in, read_labels

  if not (args.images or args.labels):
    raise ZsljaxError("data build: found neither --images nor --labels, expected one")
  if args.labels:
    images = read_labels(args.labels, args.skip_bad)
  else:
    images = images_in(args.images)
  features, undecodable = args.features, []
  if features is None:
    features, undecodable = _encoded_for(args, images.names)
    bad = set(undecodable)
    images = images.take(i for i, n in enumerate(images.names) if n not in bad)
  elif args.weights:
    raise ZsljaxError(
      f"--weights: found {args.weights} beside --features, expected one of both"
    )
  feature_set, left_out = build_set(
    images,
    features,
    args.classes,
    args.name,
    unseen=args.unseen,
    validation=args.validation,
    word_vectors=args.word_vectors,
    unknown=args.unknown,
    seed=args.seed,
    skip_bad=args.skip_bad,
  )
  _store(args, feature_set)
  for line in (*(f"{name}: cannot be decoded" for name in undecodable), *left_out):
    print(f"left out: {line}")


def _encoded_for(
  args: argparse.Namespace, names: Sequence[str]
) -> tuple[list[pathlib.Path], list[str]]:
  """Features that ``data build`` makes when it is given none, and who has none."""
  from zsljax.data.files.class_table import read_class_table
  from zsljax.data.files.text import read_names
  from zsljax.encoders import encode_folder, load_encoder

  for flag in ("images", "weights"):
    if getattr(args, flag) is None:
      raise ZsljaxError(
        f"data build: found neither --features nor --{flag}, expected features, or "
        "--images, --network and --weights to make them with"
      )
  # What can be refused is, before hours of work.
  read_class_table(args.classes, args.skip_bad)
  for path in filter(None, (args.unseen, args.validation)):
    read_names(path)
  encoder = load_encoder(args.network, args.weights, args.size, args.output)
  path = args.dest / f"{args.name}_{args.network}_{args.output}_{args.size}.h5"
  args.dest.expanduser().mkdir(parents=True, exist_ok=True)
  if args.overwrite:
    path.expanduser().unlink(missing_ok=True)
  written = encode_folder(
    encoder, args.images, path, skip_bad=args.skip_bad, names=names
  )
  return [path], written.left_out


def _describe(args: argparse.Namespace) -> None:
  from zsljax.data.data_warnings import data_warnings
  from zsljax.data.describe import describe
  from zsljax.data.store import all_below

  pages = (
    describe(dataset, data_warnings(dataset)) for dataset in all_below(args.folder)
  )
  print("\n\n".join(pages))


def _export_xlsa17(args: argparse.Namespace) -> None:
  from zsljax.data.export import export_xlsa17
  from zsljax.data.store import all_below

  sets = all_below(args.folder)
  if len(sets) > 1:
    raise ZsljaxError(
      f"{args.folder}: found {len(sets)} datasets, expected the folder of one: "
      f"{', '.join(str(dataset.folder) for dataset in sets)}"
    )
  files = export_xlsa17(sets[0], args.dest)
  print(f"wrote {' and '.join(str(path) for path in files)}")


def _of(path: str) -> Callable[[argparse.Namespace], None]:
  """``module:function``, imported when it is called."""

  def run(args: argparse.Namespace) -> None:
    module, function = path.split(":")
    getattr(importlib.import_module(module), function)(args)

  return run


def _table(args: argparse.Namespace) -> None:
  from zsljax.reporting.tables import find_rows, make_blocks, render

  print(render(make_blocks(find_rows(args.workdirs)), args.format), end="")


class _Help(argparse.HelpFormatter):
  """Wraps paragraphs, and leaves the lines of examples as they stand."""

  def _fill_text(self, text: str, width: int, indent: str) -> str:
    if "\n" not in text:
      return super()._fill_text(text, width, indent)
    return "".join(indent + line for line in text.splitlines(keepends=True))


class _Parser(argparse.ArgumentParser):
  """Its parsers of verbs are of this kind too."""

  def __init__(self, *args, **kwargs):
    super().__init__(*args, formatter_class=_Help, **kwargs)


_STEPS = """from data to predictions:
  zsljax data build --name=birds --images=photos --features=photos.h5 \\
      --classes=birds.csv --dest=DATA
  zsljax data describe DATA/birds
  python train.py --config=configs/semantic_softmax.py:own \\
      --config.data.name=birds --config.data.dir=DATA --workdir=W
  python eval.py --workdir=W
  zsljax predict --workdir=W --features=new.h5 --classes=new.csv
VERB --help says more of each, with examples.
"""


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(
    "zsljax",
    description="Zero-shot learning in JAX. Training and evaluation are "
    "train.py and eval.py; this command is for what surrounds them.",
    epilog=_STEPS,
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

  build = kinds.add_parser(
    "build",
    help="a dataset of your own: images or their features, and described classes",
    description="Puts together images (a folder for each class, or a CSV), features of "
    "them, and descriptions of the classes; proposes a split or takes yours; checks, "
    "and stores TFRecord shards. CLASSES.csv has the header class,<attribute>,... and "
    "a number for each attribute.",
    epilog="examples:\n"
    "  zsljax data build --name=birds --images=photos --features=photos.h5 \\\n"
    "      --classes=birds.csv --dest=DATA\n"
    "  zsljax data build --name=birds --labels=labels.csv --features=clip.npy \\\n"
    "      --classes=birds.csv --unseen=unseen.txt --dest=DATA\n"
    "  zsljax data build --name=birds --images=photos --network=resnet101 \\\n"
    "      --weights=resnet101.pth --output=regions --classes=birds.csv --dest=DATA\n",
  )
  build.set_defaults(run=_build)
  _add_file(
    build,
    "images",
    "images, in folders that are called like their classes if there is no --labels",
    "DIR",
    required=False,
  )
  _add_file(
    build,
    "labels",
    ".csv with image,class and perhaps split (trainval, test_seen, test_unseen)",
    required=False,
  )
  _add_features(build, required=False)
  _add_network(build)
  _add_file(build, "classes", ".csv with class,<attribute>,<attribute>,...")
  _add_file(
    build,
    "unseen",
    "text file, one unseen class a line (default: a fifth of the classes is drawn)",
    required=False,
  )
  _add_file(
    build,
    "validation",
    "text file, one validation class a line (default: a fifth of the seen is drawn)",
    required=False,
  )
  build.add_argument(
    "--seed", type=int, default=0, help="of what is drawn (default: %(default)s)"
  )
  _add_skip_bad(build, "classes and images that cannot be used")
  _add_word_vectors(build, "none; msdn needs them", of="attributes' names")
  _add_storage(build, None)

  described = kinds.add_parser(
    "describe",
    help="what a stored dataset holds, and everything odd about it",
    description="Prints sizes, splits, classes and sources of each set in DIR or "
    "below, and what is odd: doubled images, classes that nothing tells apart, few or "
    "uneven images, attributes and dimensions that say nothing. Reads all features.",
  )
  described.set_defaults(run=_describe)
  described.add_argument("folder", type=pathlib.Path, metavar="DIR")

  export = kinds.add_parser(
    "export-xlsa17",
    help="write a stored dataset as res101.mat and att_splits.mat",
    description="Writes the files of the xlsa17 layout, which other code reads.",
  )
  export.set_defaults(run=_export_xlsa17)
  export.add_argument("folder", type=pathlib.Path, metavar="DIR")
  _add_file(export, "dest", "where the files go", "DIR")

  semantics = verbs.add_parser(
    "semantics",
    help="describe classes by vectors of their names",
    description="Looks names up in a file of word vectors, or takes the rows of a "
    "matrix from any text encoder, and writes them as CLASSES.csv, which `data build` "
    "and `predict` take. A name is looked up as it stands, with _ for spaces, in lower "
    "case, and then word by word.",
    epilog="examples:\n"
    "  zsljax semantics --names=classes.txt --word_vectors=glove.6B.300d.txt \\\n"
    "      --dest=classes.csv\n"
    "  zsljax semantics --names=classes.txt --word_vectors=clip_text.npy \\\n"
    "      --dest=classes.csv\n",
  )
  semantics.set_defaults(run=_of("zsljax.data.semantics:semantics_command"))
  _add_file(semantics, "names", "text file, one class name a line")
  _add_word_vectors(semantics, of="names")
  _add_file(semantics, "dest", "CSV file that is written")

  predict = verbs.add_parser(
    "predict",
    help="classify images, also among classes that were never trained on",
    description="Scores images with a trained run among the classes of CLASSES.csv, "
    "described by the attributes of the dataset, or among the dataset's unseen "
    "classes; with --seen also among those of training, whose scores are lowered by "
    "gamma.",
    epilog="example:\n"
    "  zsljax predict --workdir=W --features=x.npy --classes=new.csv --top_k=5\n",
  )
  predict.set_defaults(run=_of("zsljax.predict:predict_command"))
  _add_file(predict, "workdir", "folder of the trained run", "DIR")
  source = predict.add_mutually_exclusive_group(required=True)
  source.add_argument(
    "--features",
    type=pathlib.Path,
    metavar="FILE",
    help=".npy, .npz or .h5 with features of the images",
  )
  source.add_argument(
    "--images",
    type=pathlib.Path,
    metavar="DIR",
    help="images, which are encoded first, by the network that the dataset records",
  )
  _add_file(predict, "weights", "with --images: of that network", required=False)
  _add_file(
    predict,
    "classes",
    ".csv with class,<attribute>,... (default: the dataset's unseen classes)",
    required=False,
  )
  predict.add_argument(
    "--seen", action="store_true", help="the classes of training are candidates too"
  )
  predict.add_argument(
    "--gamma",
    type=float,
    help="taken from the scores of seen classes (default: what the run's sweep or "
    "config has)",
  )
  predict.add_argument(
    "--top_k", type=int, default=5, help="classes an image (default: %(default)s)"
  )
  predict.add_argument(
    "--attributes",
    type=int,
    default=3,
    help="how many attributes that decided are named (default: %(default)s)",
  )
  _add_skip_bad(predict, "classes and images that cannot be used")
  _add_file(predict, "dest", "CSV file, instead of the terminal", required=False)
  encode = verbs.add_parser(
    "encode",
    help="features of a folder of images, by a ResNet with local weights",
    description="Writes an HDF5 file with `features` and `image_files`, the images' "
    "names relative to the folder, for the importers' --features. The same command "
    "again continues an interrupted one.",
  )
  encode.set_defaults(run=_of("zsljax.encoders.feature_store:encode_command"))
  _add_file(encode, "images", "folder of images, at any depth", "DIR")
  _add_network(encode, required=True)
  _add_file(encode, "dest", "what is written, .h5 or .hdf5")
  encode.add_argument(
    "--batch_size", type=int, default=32, help="images at a time (default: %(default)s)"
  )
  encode.add_argument(
    "--storage",
    default="float32",
    choices=["float32", "float16"],
    help="precision of the stored features (default: %(default)s)",
  )
  _add_skip_bad(encode, "images that cannot be decoded")

  sweep = verbs.add_parser(
    "sweep",
    help="choose settings on validation classes, train several seeds, test",
    description="Tries all combinations of the config's grid (config.grid) without the "
    "validation classes, and judges them there after several numbers of steps; trains "
    "--seeds runs with the best on all training images, and tests them. Seeds are "
    "trained as one program. Fields of the config are set as for train.py, with "
    "--config.FIELD=VALUE. The same command again continues an interrupted sweep.",
  )
  sweep.set_defaults(run=_of("zsljax.runs.commands:sweep_command"))
  _add_sweep(sweep)

  compare = verbs.add_parser(
    "compare",
    help="sweep members of the generalized softmax family, and set them side by side",
    description="A sweep for each loss, in WORKDIR/<loss>, with the dataset of "
    "--config=configs/cosine.py:DATASET, and one table.",
  )
  compare.set_defaults(run=_of("zsljax.runs.commands:compare_command"))
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
  reproduce.set_defaults(
    run=_of("zsljax.runs.reproduce:reproduce_command"), takes_fields=True
  )
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
  explain.set_defaults(run=_of("zsljax.explain:explain_command"))
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
    "benchmark",
    help="time a system's step and its input pipeline",
    description="Times a training step on random features of published shapes, in "
    "turns with matrix products (a large square one and the step's own) and a copy of "
    "memory; then the input alone, the step alone and both together. Needs no data and "
    "no TensorFlow.",
  )
  benchmark.set_defaults(run=_of("zsljax.benchmark:main"))
  benchmark.add_argument(
    "--system", default="semantic_softmax", help="(default: %(default)s)"
  )
  benchmark.add_argument(
    "--preset",
    default="cub",
    help="shapes: cub or awa2 (pooled), cub7, cub14 or sun14 (regions), nus or "
    "openimages (several labels an image), classes1m (cosine: a million prototypes) "
    "(default: %(default)s)",
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
    "--data_devices",
    type=int,
    default=1,
    help="devices over which a batch is split (default: %(default)s)",
  )
  benchmark.add_argument(
    "--model_devices",
    type=int,
    default=1,
    help="devices over which parameters with a row for each class are split (default: "
    "%(default)s)",
  )
  benchmark.add_argument(
    "--precision",
    default="float32",
    choices=["float32", "tensorfloat32", "bfloat16"],
    help="of matrix products; sums and parameters are float32, features are bfloat16 "
    "with bfloat16 (default: %(default)s)",
  )
  benchmark.add_argument(
    "--attention",
    default="xla",
    choices=["xla", "pallas"],
    help="over regions: as the systems have it, or a kernel (default: %(default)s)",
  )
  benchmark.add_argument(
    "--seeds",
    type=int,
    default=1,
    help="runs trained as one program, beside a run alone (default: %(default)s)",
  )
  _add_file(benchmark, "json", "also write the figures", required=False)
  benchmark.add_argument(
    "--compare",
    type=lambda text: [pathlib.Path(name) for name in text.split(",")],
    metavar="A.json,B.json",
    help="measure nothing: print what --json wrote twice, side by side",
  )

  benchmark_loss = verbs.add_parser(
    "benchmark-loss",
    help="time SDL's ranking loss against other ways to compute it",
    description="Value and gradient of SDL's loss, beside the scores alone, positives "
    "padded to the batch's maximum, and all pairs of labels; with their memory.",
  )
  benchmark_loss.set_defaults(run=_of("zsljax.benchmark.loss:main"))
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


def _add_network(parser: argparse.ArgumentParser, required: bool = False) -> None:
  parser.add_argument(
    "--network",
    default="resnet101",
    choices=["resnet50", "resnet101"],
    help="what makes the features (default: %(default)s)",
  )
  _add_file(
    parser,
    "weights",
    "its weights, of torchvision or timm: .safetensors, or a state dict in .pth or .pt",
    required=required,
  )
  parser.add_argument(
    "--size",
    type=int,
    default=224,
    help="side of the square that is cut out of an image, in pixels, a multiple of 32 "
    "(default: %(default)s)",
  )
  parser.add_argument(
    "--output",
    default="pooled",
    choices=["pooled", "regions"],
    help="one vector an image, or one for each of the (size/32)^2 regions (default: "
    "%(default)s)",
  )


def _add_features(parser: argparse.ArgumentParser, required: bool = True) -> None:
  parser.add_argument(
    "--features",
    type=pathlib.Path,
    required=required,
    nargs="+",
    metavar="FILE",
    help=".npy, .npz or .h5 with features [N, D] or [N, R, D] and, in a field "
    "image_files (for FILE.npy in FILE.txt), the images' names; rows of several files "
    "follow one another",
  )


def _add_skip_bad(parser: argparse.ArgumentParser, what: str) -> None:
  parser.add_argument(
    "--skip_bad",
    "--skip-bad",
    action="store_true",
    help=f"leave out {what}, and list them; else they are an error",
  )


def _add_word_vectors(
  parser: argparse.ArgumentParser, default: str | None = None, of: str = "labels"
) -> None:
  _add_file(
    parser,
    "word_vectors",
    f"vectors of the {of}: GloVe, fastText or word2vec text, .npz, .npy"
    f"{f' (default: {default})' if default else ''}",
    required=default is None,
  )
  parser.add_argument(
    "--unknown",
    default="refuse",
    choices=["refuse", "known_words"],
    help="names with a word that has no vector: an error that lists them; or the mean "
    "of their known words, left out without one (default: %(default)s)",
  )


def _add_storage(parser: argparse.ArgumentParser, name: str | None) -> None:
  """What every import has; ``name`` says what a set is called when none is given."""
  _add_file(
    parser,
    "dest",
    "where the shards go: DEST/<name>/<features>_<class embedding>/",
    "DIR",
  )
  usual = f" (default: {name})" if name else ""
  parser.add_argument("--name", required=not name, help=f"of the dataset{usual}")
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
  parser.add_argument(
    "--beam_pipeline_options",
    metavar="NAME=VALUE,...",
    help="write the records through Apache Beam (the extra `beam`) with these of its "
    "options, as in runner=DirectRunner,direct_running_mode=multi_processing,"
    "direct_num_workers=8 (default: without Beam)",
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
  if getattr(args, "beam_pipeline_options", None) is not None:
    from zsljax.data.beam import pipeline_options

    # What can be refused is, before hours of reading.
    args.beam_pipeline_options = pipeline_options(args.beam_pipeline_options)
  args.run(args)


if __name__ == "__main__":
  main()
