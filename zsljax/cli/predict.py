"""Classifies images, also among classes never seen.

Scores images with a trained run among the classes of CLASSES.csv, described by
the attributes of the dataset, or among the dataset's unseen classes; with
--seen also among those of training, whose scores are lowered by gamma.

Example:
  zsljax predict --workdir=W --features=x.npy --classes=new.csv --top_k=5
"""

from zsljax.cli.arguments import add_number, add_path, add_skip_bad

GROUP = "use"
_ORIGIN = ("network", "weights_sha256", "size", "output", "preprocessing")


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
    "images, which are encoded first, by the network that the dataset records",
    "DIR",
    required=False,
  )
  add_path(parser, "--weights", "with --images: of that network", required=False)
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
  add_number(parser, "--top_k", 5, "classes an image")
  add_number(parser, "--attributes", 3, "named attributes that decided")
  add_skip_bad(parser, "classes and images that cannot be used")
  add_path(parser, "--dest", "CSV file, instead of the terminal", required=False)


def run(args) -> None:
  from zsljax.data.files.class_table import read_class_table
  from zsljax.errors import require
  from zsljax.predict import load

  predictor = load(args.workdir, gamma=args.gamma)
  require(
    args.images or not args.weights, "--weights", args.weights, "none with --features"
  )
  classes = None
  if args.classes:
    classes = read_class_table(args.classes, args.skip_bad)
    classes = classes.fitted(predictor.classes, args.skip_bad)
  features, names, left_out = (_encoded if args.images else _read)(args, predictor)
  left_out = [*(classes.left_out if classes else ()), *left_out]
  require(len(features) > 0, str(args.images or args.features), "no images", "one")
  features, names = _finite(args, features, names, left_out)
  found = predictor.predict(
    features, classes, top_k=args.top_k, seen=args.seen, attributes=args.attributes
  )
  if args.dest:
    _write(args.dest, names, found)
    print(
      f"{len(names)} images, the best {found.scores.shape[1]} classes of each, in "
      f"{args.dest}"
    )
  else:
    print(_table(names, found))
  for line in left_out:
    print(f"left out: {line}")


def _read(args, predictor):
  """Features of a file, and the images' names.

  Raises:
    ZsljaxError: another encoder made the features than the dataset's.
  """
  import numpy as np

  from zsljax.data.files.features import read_features
  from zsljax.errors import require

  files = read_features([args.features])
  if files.encoder and predictor.encoder:
    for field in _ORIGIN:
      found, expected = files.encoder[field], predictor.encoder[field]
      require(
        found == expected,
        f"{files.where}: encoder, {field}",
        found,
        f"{expected}, of the features that the run was trained on",
      )
  features, names = files[:], files.image_files
  if names is None:
    names = np.array([f"image {i}" for i in range(len(features))])
  return features, names, []


def _encoded(args, predictor):
  """Features of a folder of images, their names, and lines on undecodable ones."""
  import numpy as np

  from zsljax.encoders import check, encode_images, load_encoder
  from zsljax.errors import require

  made_by = predictor.encoder
  require(
    made_by is not None,
    "--images",
    "a dataset that does not record what made its features",
    "one of features made by `zsljax encode`, or --features from the same network",
  )
  require(
    args.weights is not None,
    "--weights",
    "nothing",
    f"{made_by['weights']}, which made the dataset's features",
  )
  check(made_by, args.weights)
  encoder = load_encoder(
    made_by["network"], args.weights, made_by["size"], made_by["output"]
  )
  features, names, bad = encode_images(encoder, args.images, skip_bad=args.skip_bad)
  return features, np.array(names), [f"{name}: cannot be decoded" for name in bad]


def _finite(args, features, names, left_out):
  """Images with finite features; with --skip_bad others are added to ``left_out``."""
  from zsljax.data.files.features import finite_rows
  from zsljax.errors import require

  good = finite_rows(features)
  bad = [f"{name}: features not finite" for name in names[~good]]
  require(
    args.skip_bad or not bad,
    f"{args.features}: {bad[0] if bad else ''}",
    f"{len(bad)} such images",
    "finite numbers (--skip_bad leaves them out)",
  )
  left_out += bad
  return features[good], names[good]


def _table(names, found) -> str:
  """A line for each image and class, and attributes that spoke for the best."""
  from zsljax.reporting.rows import aligned

  lines = []
  for i, name in enumerate(names):
    for k, class_name in enumerate(found.classes[i]):
      numbers = [f"{found.scores[i, k]:.4g}"]
      if found.probabilities is not None:
        numbers.append(f"{100 * found.probabilities[i, k]:.1f}")
      lines.append([name if k == 0 else "", class_name, *numbers])
  heads = ["image", "class", "score"]
  if found.probabilities is not None:
    heads.append("%")
  width = found.scores.shape[1]
  head, *table = aligned([heads, *lines], 2).splitlines()
  parts = [head]
  for i in range(len(names)):
    parts += table[i * width : (i + 1) * width]
    if because := _because(found.attributes[i]):
      parts.append(f"  because of {because}")
  return "\n".join(parts)


def _because(attributes) -> str:
  """Attributes that spoke for the class; where few did, others are among the best."""
  return ", ".join(f"{name} {share:+.3g}" for name, share in attributes if share > 0)


def _write(path, names, found) -> None:
  """All predictions as CSV."""
  from zsljax.io.files import write_csv

  rows = [["image", "rank", "class", "score", "probability", "because"]]
  for i, name in enumerate(names):
    for k, class_name in enumerate(found.classes[i]):
      chance = "" if found.probabilities is None else f"{found.probabilities[i, k]:.9g}"
      because = _because(found.attributes[i]) if k == 0 else ""
      score = f"{found.scores[i, k]:.9g}"
      rows.append([name, k + 1, class_name, score, chance, because])
  write_csv(path, rows)
