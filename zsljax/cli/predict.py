"""Classifies images, also among classes never seen.

Scores images with a trained run among the classes of CLASSES.csv, described by
the attributes of the dataset, or among the dataset's unseen classes; with
--seen also among those of training, whose scores are lowered by gamma.

Example:
  zsljax predict --workdir=W --features=x.npy --classes=new.csv --top_k=5
"""

from zsljax.cli.common import add_number, add_path, add_skip_bad

GROUP = "use"


def add_arguments(parser) -> None:
  add_path(parser, "--workdir", "folder of the trained run", "DIR")
  source = parser.add_mutually_exclusive_group(required=True)
  add_path(
    source,
    "--features",
    ".npy, .npz or .h5 with features of the images",
    required=False,
  )
  add_path(
    source,
    "--images",
    "image or folder of images, which are encoded first, by the network that the "
    "dataset records",
    "PATH",
    required=False,
  )
  add_path(
    parser,
    "--weights",
    "with --images: of that network (default: as in encode)",
    required=False,
  )
  add_path(
    parser,
    "--classes",
    ".csv with class,<attribute>,... (default: the dataset's unseen classes)",
    required=False,
  )
  parser.add_argument(
    "--seen", action="store_true", help="the classes of training are candidates too"
  )
  parser.add_argument(
    "--gamma",
    type=float,
    help="taken from the scores of seen classes (default: the run's, of its sweep or "
    "config)",
  )
  parser.add_argument(
    "--top_k",
    type=int,
    metavar="N",
    help="classes an image (default: 5, or with several labels those whose scores "
    "reach the thresholds that a sweep has chosen)",
  )
  add_number(parser, "--attributes", 3, "named attributes that decided")
  add_skip_bad(parser, "classes and images that cannot be used")
  add_path(parser, "--dest", "CSV file, instead of the terminal", required=False)


def run(args) -> None:
  from zsljax.predict import predict_files

  print(predict_files(**vars(args)))
