"""Builds a dataset of your own: images or features.

Puts together images (a folder for each class, or a CSV), features of them, and
descriptions of the classes; proposes a split or takes yours; checks, and stores
TFRecord shards. CLASSES.csv has the header class,<attribute>,... and a number
for each attribute.

Examples:
  zsljax data build --name=birds --images=photos --features=photos.h5 \\
      --classes=birds.csv --dest=DATA
  zsljax data build --name=birds --labels=labels.csv --features=clip.npy \\
      --classes=birds.csv --unseen=unseen.txt --dest=DATA
  zsljax data build --name=birds --images=photos --classes=birds.csv --dest=DATA
"""

from zsljax.cli.common import (
  add_features,
  add_network,
  add_number,
  add_path,
  add_skip_bad,
  add_storage,
  add_word_vectors,
  encoder_of,
  store,
)
from zsljax.errors import ZsljaxError

GROUP = "data"


def add_arguments(parser) -> None:
  add_path(
    parser,
    "--images",
    "images, in folders that are called like their classes if there is no --labels",
    "DIR",
    required=False,
  )
  add_path(
    parser,
    "--labels",
    ".csv with image,class and perhaps split (trainval, test_seen, test_unseen)",
    required=False,
  )
  add_features(parser, required=False)
  add_network(parser)
  add_path(parser, "--classes", ".csv with class,<attribute>,<attribute>,...")
  drawn = "text file, one {} class a line (default: a fifth of {} is drawn)"
  for kind, of in (("unseen", "the classes"), ("validation", "the seen")):
    add_path(parser, f"--{kind}", drawn.format(kind, of), required=False)
  add_number(parser, "--seed", 0, "of what is drawn")
  add_skip_bad(parser, "classes and images that cannot be used")
  add_word_vectors(parser, "attributes' names", default="none; msdn needs them")
  add_storage(parser, None)


def run(args) -> None:
  from zsljax.data import build_set, images_in, read_labels

  if not (args.images or args.labels):
    raise ZsljaxError("data build: found neither --images nor --labels, expected one")
  if args.labels:
    images = read_labels(args.labels, args.skip_bad)
  else:
    images = images_in(args.images)
  features, undecodable = args.features, []
  if features is None:
    features, undecodable = _encoded(args, images.names)
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
  store(args, feature_set)
  for line in (*(f"{name}: cannot be decoded" for name in undecodable), *left_out):
    print(f"left out: {line}")


def _encoded(args, names) -> tuple[list, list[str]]:
  """Files of features that are made of the images, and images without any."""
  from zsljax.data.files.class_table import read_class_table
  from zsljax.data.files.text import read_names
  from zsljax.encoders import encode_folder

  if args.images is None:
    raise ZsljaxError(
      "data build: found neither --features nor --images, expected features, or "
      "images to make them of"
    )
  # Whatever can be refused is, before hours of work.
  read_class_table(args.classes, args.skip_bad)
  for listed in filter(None, (args.unseen, args.validation)):
    read_names(listed)
  encoder = encoder_of(args)
  kind = "_".join(map(str, map(encoder.description.get, ("network", "output", "size"))))
  path = args.dest / f"{args.name}_{kind}.h5"
  args.dest.mkdir(parents=True, exist_ok=True)
  if args.overwrite:
    path.unlink(missing_ok=True)
  written = encode_folder(
    encoder, args.images, path, skip_bad=args.skip_bad, names=names
  )
  return [path], written.left_out
