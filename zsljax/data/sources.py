"""Choice of the stored dataset that a config means; built-in ones are made here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
from importlib.metadata import EntryPoint, entry_points
import pathlib
from typing import Any

from zsljax import __version__
from zsljax.data import store
from zsljax.data.builtin.digits import VARIANTS, read_digits
from zsljax.data.builtin.multidigit import read_multidigit
from zsljax.data.feature_set import FeatureSet
from zsljax.errors import ZsljaxError, did_you_mean, require, require_known

# Datasets made from what a dependency ships: name, features -> the set.
EMBEDDED: dict[str, Mapping[str, Callable[[], FeatureSet]]] = {
  "digits": {f"{v}_strokes": functools.partial(read_digits, v) for v in VARIANTS},
  "multidigit": {"pixels_strokes": read_multidigit},
}
# Of installed packages that bring datasets: the set's name = a function that makes it.
ENTRY_POINTS = "zsljax.datasets"
# Name in configs of a set of the user's, which has a name of its own.
OWN = "own"
DEFAULT_DIR = pathlib.Path("~/.cache/zsljax") / __version__


def open_dataset(config: Mapping[str, Any], axes: int = 1) -> store.StoredDataset:
  """Opens the dataset of a config's ``data`` part; makes a built-in one first.

  Args:
    config: ``name``; ``dir``, where the import put it; ``features``, the name
      of features and class embedding where ``dir`` holds several.
    axes: see ``store.find``.

  Raises:
    ZsljaxError: it is not there, or not whole.
  """
  name, features = config["name"], config["features"]
  require(
    name != OWN,
    "config.data.name",
    repr(name),
    "the --name that you gave your dataset, as in --config.data.name=birds",
  )
  if name in EMBEDDED:
    variants = EMBEDDED[name]
    features = features or next(iter(variants))
    require_known(features, variants, "config.data.features", f"{name} has no")
    root = pathlib.Path(config["dir"] or DEFAULT_DIR)
    # What is made on demand may be made again, when it is stale or damaged.
    return store.prepare(variants[features](), root, overwrite=True)
  installed = entry_points(group=ENTRY_POINTS)
  if name in installed.names:
    root = pathlib.Path(config["dir"] or DEFAULT_DIR).expanduser()
    if not (root / name).is_dir():
      store.prepare(_made(installed[name]), root)
    return store.find(root, name, features, axes)
  if not config["dir"]:
    raise ZsljaxError(
      "config.data.dir: found nothing, expected the folder that "
      f"{name} was imported into (--dest of `zsljax data`). Without a folder there are "
      f"the embedded datasets. {did_you_mean(name, known())}"
    )
  return store.find(pathlib.Path(config["dir"]), name, features, axes)


def known() -> list[str]:
  """Names of the sets that need no folder: the embedded ones and those of packages."""
  return sorted({*EMBEDDED, *entry_points(group=ENTRY_POINTS).names})


def _made(entry: EntryPoint) -> FeatureSet:
  """The set that a package's function makes.

  Raises:
    ZsljaxError: the function cannot be imported, or makes something else.
  """
  where = f"dataset {entry.name!r} of an installed package ({entry.value})"
  try:
    made = entry.load()()
  except ZsljaxError:
    raise
  except Exception as error:
    found = f"{type(error).__name__}: {error}"
    raise ZsljaxError(f"{where}: found {found}, expected a FeatureSet") from error
  require(isinstance(made, FeatureSet), where, type(made).__name__, "a FeatureSet")
  require(made.name == entry.name, where, f"a set named {made.name!r}", "that name")
  return made
