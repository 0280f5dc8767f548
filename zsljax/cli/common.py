"""Flags and lines that several verbs have."""

import argparse
import pathlib

from zsljax.errors import ZsljaxError


def path(text: str) -> pathlib.Path:
  """A path of which ``~`` is the user's home."""
  return pathlib.Path(text).expanduser()


def names(text: str) -> list[str]:
  """The parts of ``NAME,NAME``."""
  return text.split(",")


def numbers(text: str) -> tuple[int, ...]:
  """The whole numbers of ``N,N``."""
  try:
    return tuple(map(int, names(text)))
  except ValueError as error:
    raise argparse.ArgumentTypeError(f"{error}, expected numbers as in 3,5") from error


def add_path(
  parser: argparse._ActionsContainer,
  flag: str,
  help: str,
  metavar: str = "FILE",
  required: bool = True,
  **options,
) -> None:
  """A flag for a file or, with ``metavar`` ``DIR``, a folder."""
  if required:
    options["required"] = True
  parser.add_argument(flag, type=path, metavar=metavar, help=help, **options)


def add_data_dir(parser: argparse.ArgumentParser, help: str) -> None:
  """The flag of the folder of stored datasets."""
  add_path(parser, "--data_dir", help, "DIR", required=False)


def add_choice(
  parser: argparse.ArgumentParser, flag: str, choices: list[str], help: str, **options
) -> None:
  """A flag with one of several values, the first by default."""
  help = f"{help} (default: %(default)s)"
  parser.add_argument(flag, choices=choices, default=choices[0], help=help, **options)


def add_number(
  parser: argparse.ArgumentParser, flag: str, default: int, help: str
) -> None:
  """A flag with a whole number."""
  parser.add_argument(
    flag, type=int, default=default, metavar="N", help=f"{help} (default: %(default)s)"
  )


def add_config(parser: argparse.ArgumentParser, example: str) -> None:
  """The flag of a config, of which ``--config.FIELD=VALUE`` sets fields."""
  parser.add_argument(
    "--config",
    required=True,
    metavar="NAME:ARGUMENT",
    help=f"as in {example}, or FILE.py:ARGUMENT with a config of your own; fields are "
    "set by --config.FIELD=VALUE",
  )
  parser.set_defaults(fields=[])


def add_topology(parser: argparse.ArgumentParser, required: bool = False) -> None:
  """The flag of accelerators that programs are compiled for."""
  parser.add_argument(
    "--topology",
    required=required,
    metavar="CHIP:SIZE",
    help="accelerators that need not be here: v5e:2x2 (v5p:2x2x1, v6e:16x16; TPUs), "
    "h100:8 (a100, h200, b200), or CHIP for one; their compilers are in the extras "
    "zsljax[tpu] and zsljax[cuda]",
  )


def add_sweep(parser: argparse.ArgumentParser) -> None:
  """The flags of one or several sweeps."""
  add_config(parser, "cosine:digits")
  add_path(parser, "--workdir", "where results and runs go", "DIR")
  add_number(parser, "--seeds", 5, "runs that are tested")
  add_folds(parser)


def add_processes(parser: argparse.ArgumentParser) -> None:
  """The flags of one of several processes."""
  parser.add_argument(
    "--coordinator",
    metavar="HOST:PORT",
    help="of process 0, where there are several; auto lets JAX find out",
  )
  parser.add_argument(
    "--num_processes", type=int, metavar="N", help="with --coordinator"
  )
  parser.add_argument(
    "--process_id",
    type=int,
    metavar="N",
    help="of this process, counted from 0; with --coordinator",
  )


def add_folds(parser: argparse.ArgumentParser) -> None:
  """The flag of a sweep's folds."""
  parser.add_argument(
    "--folds",
    default="5",
    metavar="K",
    help="class folds on which settings are chosen, 2 or more; or official, the "
    "dataset's own validation classes (default: %(default)s)",
  )


def add_features(parser: argparse.ArgumentParser, required: bool = True) -> None:
  """Files of features that an importer joins to the images of a set."""
  add_path(
    parser,
    "--features",
    ".npy, .npz or .h5 with features [N, D] or [N, R, D] and, in a field image_files "
    "(for FILE.npy in FILE.txt), the images' names; rows of several files follow one "
    "another",
    required=required,
    nargs="+",
  )


def add_network(parser: argparse.ArgumentParser) -> None:
  """An encoder of images and its weights."""
  add_path(
    parser,
    "--weights",
    "of the network, which is told by them: .safetensors, or a state dict in .pth or "
    ".pt (default: EfficientNet-Lite2 of the extra zsljax[images])",
    required=False,
  )
  parser.add_argument(
    "--size",
    type=int,
    metavar="N",
    help="side of the square that the network sees, in pixels (default: that of its "
    "training)",
  )
  add_choice(
    parser,
    "--output",
    ["pooled", "regions"],
    "one vector an image, or one for each region of the network's grid",
  )
  add_choice(
    parser,
    "--precision",
    ["float32", "bfloat16"],
    "of the network's products; bfloat16 is faster on accelerators",
  )
  add_activation(parser)


def encoder_of(args: argparse.Namespace):
  """The encoder that the flags of ``add_network`` name."""
  from zsljax.encoders.encoder import cores_as_devices, load_encoder

  cores_as_devices()
  return load_encoder(
    args.weights, args.size, args.output, args.precision, args.activation
  )


def add_activation(parser: argparse.ArgumentParser) -> None:
  """The activation of CLIP, which weights do not tell."""
  parser.add_argument(
    "--activation",
    choices=["quick_gelu", "gelu"],
    help="of CLIP, whose weights do not tell it: quick_gelu in OpenAI's, gelu in most "
    "others",
  )


def add_skip_bad(parser: argparse.ArgumentParser, bad: str) -> None:
  """The flag that leaves out bad images or classes."""
  parser.add_argument(
    "--skip_bad",
    "--skip-bad",
    action="store_true",
    help=f"leave out {bad}, and list them; else they are an error",
  )


def add_word_vectors(
  parser: argparse.ArgumentParser, of: str = "labels", default: str | None = None
) -> None:
  """A file of word vectors, and rules for names that it lacks."""
  usual = f" (default: {default})" if default else ""
  add_path(
    parser,
    "--word_vectors",
    f"vectors of the {of}: GloVe, fastText or word2vec text, .npz, .npy, or the .csv "
    f"of semantics{usual}",
    required=default is None,
  )
  add_choice(
    parser,
    "--unknown",
    ["refuse", "known_words"],
    "names with a word that has no vector: an error that lists them; or the mean of "
    "their known words (labels and classes without one are left out, attributes need "
    "one)",
  )


def add_storage(parser: argparse.ArgumentParser, name: str | None) -> None:
  """Flags of every import; ``name`` says what a set is called when none is given."""
  add_path(
    parser,
    "--dest",
    "where the shards go: DEST/<name>/<features>_<class embedding>/",
    "DIR",
  )
  usual = f" (default: {name})" if name else ""
  parser.add_argument("--name", required=not name, help=f"of the dataset{usual}")
  add_choice(
    parser,
    "--storage",
    ["source", "float32", "float16", "bfloat16"],
    "precision of the stored features",
  )
  parser.add_argument(
    "--overwrite", action="store_true", help="replace a stored dataset of the same name"
  )
  parser.add_argument(
    "--beam_pipeline_options",
    type=_beam_options,
    metavar="NAME=VALUE,...",
    help="write the records through Apache Beam (the extra `beam`) with these of its "
    "options, as in runner=DirectRunner,direct_running_mode=multi_processing,"
    "direct_num_workers=8 (default: without Beam)",
  )


def add_annotated(parser: argparse.ArgumentParser, name: str) -> None:
  """Flags of importers that join features to a set's files of several labels."""
  add_features(parser)
  add_word_vectors(parser)
  for split, images in (("train", "training"), ("test", "test")):
    add_path(
      parser,
      f"--{split}_images",
      f"list of the {images} images that are taken, a name or id a line, or JSON "
      "(default: all)",
      required=False,
    )
  add_storage(parser, name)
  parser.set_defaults(name=name)


def annotated(args: argparse.Namespace) -> tuple:
  """Values of the flags of ``add_annotated``, as importers take them."""
  lists = {"train": args.train_images, "test": args.test_images}
  lists = {split: path for split, path in lists.items() if path}
  return args.features, args.word_vectors, args.unknown, args.name, lists


def _beam_options(text: str):
  """Beam's options, refused before hours of reading where they are wrong."""
  from zsljax.data.beam import pipeline_options

  try:
    return pipeline_options(text)
  except ZsljaxError as error:  # The parser names the flag.
    reason = str(error).removeprefix("--beam_pipeline_options: ")
    raise argparse.ArgumentTypeError(reason) from error


def store(args: argparse.Namespace, feature_set) -> None:
  """Stores an imported set as the flags of ``add_storage`` say, and describes it."""
  from zsljax.data import prepare
  from zsljax.data.describe import describe

  stored = prepare(
    feature_set, args.dest, args.storage, args.overwrite, args.beam_pipeline_options
  )
  print(describe(stored))
