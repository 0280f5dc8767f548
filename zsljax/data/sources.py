"""Choice of the stored dataset that a config means; built-in ones are made here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
import pathlib
from typing import Any

from zsljax import __version__
from zsljax.data import store
from zsljax.data.builtin.digits import VARIANTS, read_digits
from zsljax.data.builtin.multidigit import read_multidigit
from zsljax.data.feature_set import FeatureSet
from zsljax.errors import ZsljaxError, did_you_mean, require

# Datasets made from what a dependency ships: name, features -> the set.
EMBEDDED: dict[str, Mapping[str, Callable[[], FeatureSet]]] = {
  "digits": {f"{v}_strokes": functools.partial(read_digits, v) for v in VARIANTS},
  "multidigit": {"pixels_strokes": read_multidigit},
}
# Name in configs of a set of the user's, which has a name of its own.
OWN = "own"
DEFAULT_DIR = pathlib.Path("~/.cache/zsljax") / __version__


def open_dataset(config: Mapping[str, Any]) -> store.StoredDataset:
  """Opens the dataset of a config's ``data`` part; makes a built-in one first.

  Args:
    config: ``name``; ``dir``, where the import put it; ``features``, the name
      of features and class embedding where ``dir`` holds several.

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
    if features not in variants:
      raise ZsljaxError(
        f"config.data.features: {name} has no {features!r}. "
        f"{did_you_mean(features, variants)}"
      )
    root = pathlib.Path(config["dir"] or DEFAULT_DIR)
    # What is made on demand may be made again, when it is stale or damaged.
    return store.prepare(variants[features](), root, overwrite=True)
  if not config["dir"]:
    raise ZsljaxError(
      "config.data.dir: found nothing, expected the folder that "
      f"{name} was imported into (--dest of `zsljax data`). Without a folder there are "
      f"the embedded datasets. {did_you_mean(name, EMBEDDED)}"
    )
  return store.find(pathlib.Path(config["dir"]), name, features)
