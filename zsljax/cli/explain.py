"""Draws what a run looks at, decides by and confuses.

Attention laid over photographs, attributes that decided, a map of the test
images, the seen-unseen curve and a confusion matrix: as .png, .pdf and .svg files
and in DEST/report.html, which needs no other file.

Example:
  zsljax explain --workdir=W --images=photos --dest=report
"""

from zsljax.cli.common import add_choice, add_data_dir, add_number, add_path

GROUP = "use"


def add_arguments(parser) -> None:
  add_path(parser, "--workdir", "of the run", "DIR")
  add_path(parser, "--dest", "where pictures and report go", "DIR")
  add_path(
    parser,
    "--images",
    "below it lie the photographs by the dataset's image names (default: none shown)",
    "DIR",
    required=False,
  )
  parser.add_argument(
    "--image",
    dest="names",
    nargs="+",
    default=[],
    metavar="NAME",
    help="test images to explain, by their names in the dataset (default: --number are "
    "chosen, of unseen and seen classes, right and wrong ones)",
  )
  add_number(parser, "--number", 6, "images to choose")
  add_number(parser, "--attributes", 4, "attributes shown on an image")
  add_choice(
    parser, "--map", ["tsne", "pca"], "how test images become points", dest="mapped_by"
  )
  parser.add_argument(
    "--map_features",
    action="store_true",
    help="map the stored features, not the embeddings or scores of the run",
  )
  add_data_dir(parser, "where the dataset is now, when it was moved")


def run(args) -> None:
  from zsljax.explain import explain

  print(f"report in {explain(**vars(args))}")
