"""Lists systems, datasets, configs, recipes, protocols.

Datasets are those that need no folder and, with --dir, those stored below it.
Recipes are the configs that fit and reproduce go through.

Example:
  zsljax list datasets --dir=DATA
"""

import re
import shutil
import textwrap

from zsljax.cli.common import add_path

GROUP = "use"


def add_arguments(parser) -> None:
  parser.add_argument(
    "what", choices=list(_LISTS), metavar="|".join(_LISTS), help="what to list"
  )
  add_path(parser, "--dir", "of stored datasets", "DIR", required=False)


def run(args) -> None:
  from zsljax.errors import require

  fits = args.dir is None or args.what == "datasets"
  require(fits, "--dir", args.dir, "none but with `zsljax list datasets`")
  lines = list(_LISTS[args.what](args))
  width = min(shutil.get_terminal_size().columns, 100)
  left = max(len(name) for name, _ in lines) + 2
  for name, text in lines:
    head = name.ljust(left)
    print(textwrap.fill(text, width, initial_indent=head, subsequent_indent=" " * left))


def _systems(args):
  import zsljax.models  # noqa: F401  They register themselves.
  from zsljax.models.registry import registered

  for name, system in sorted(registered().items()):
    if system is None:
      yield name, "of an installed package"
    else:
      text = " ".join((system.__doc__ or "").split("\n\n")[0].split())
      text = re.sub(r":\w+:`([^`]*)`|`", r"\1", text)  # Marks of reStructuredText.
      yield name, f"{text} Presets: {', '.join(system.presets)}."


def _datasets(args):
  from zsljax.data.sources import known
  from zsljax.data.store import all_below

  for name in known():
    yield name, "needs no folder"
  for stored in all_below(args.dir) if args.dir else ():
    shape = " x ".join(map(str, stored.feature_shape))
    images, classes = stored.size(*stored.splits), len(stored.classes)
    name = f"{stored.metadata['name']} {stored.variant}"
    inner = stored.folder.relative_to(args.dir.expanduser()).parts[:-3]
    where = f", in {'/'.join(inner)}" if inner else ""
    yield name, f"{images} images, {classes} classes, features of {shape}{where}"


def _configs(args):
  import importlib

  from zsljax.runs.config import config_names

  for name in config_names():
    module = importlib.import_module(f"zsljax.configs.{name}")
    text = (module.__doc__ or "").splitlines()[0]
    yield name, f"{text} Arguments: {', '.join(module.DATASETS)}."


def _recipes(args):
  from zsljax.runs.reproduce import SYSTEMS

  for name, (config, argument, form) in SYSTEMS.items():
    features = (
      "several labels an image" if form == "multi-label" else f"{form} features"
    )
    yield name, f"--config={config}:DATASET{argument}, for {features}"


def _protocols(args):
  from zsljax.evaluation import PROTOCOLS

  for name, protocol in PROTOCOLS.items():
    tasks = " or ".join(task.replace("_", " ") for task in protocol.tasks)
    yield name, f"{tasks or 'pairs of images'}: {', '.join(protocol.metrics)}"


_LISTS = {
  "systems": _systems,
  "datasets": _datasets,
  "configs": _configs,
  "recipes": _recipes,
  "protocols": _protocols,
}
