"""Sets whose files locate the images of each split: published sizes, and assembly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
import re

import numpy as np

from zsljax.data.feature_set import FeatureSet, Rows, check_disjoint, make_feature_set
from zsljax.errors import require

LOCATIONS = ("trainval_loc", "train_loc", "val_loc", "test_seen_loc", "test_unseen_loc")
# No image may be in both. Images of `test_seen` are allowed in `train_loc` and
# `val_loc`: the older published files have those.
_DISJOINT = (
  ("train_loc", "val_loc"),
  ("train_loc", "test_unseen_loc"),
  ("val_loc", "test_unseen_loc"),
)


@dataclasses.dataclass(frozen=True)
class _Published:
  """Sizes of a published set.

  ``train_val`` holds known sizes of train and val; in other files of the newer
  version they sum to ``trainval``.
  """

  images: int
  classes: int
  attributes: int
  trainval: int
  test_seen: int
  test_unseen: int
  train_val: tuple[tuple[int, int], ...]
  class_embedding: str = "att"


# Read in the READMEs of public re-implementations; aPY has two versions.
PUBLISHED = {
  "sun": _Published(14340, 717, 102, 10320, 2580, 1440, ((11600, 1300),)),
  "cub": _Published(11788, 200, 312, 7057, 1764, 2967, ((5875, 2946),)),
  "awa1": _Published(30475, 50, 85, 19832, 4958, 5685, ((16864, 7926),)),
  "awa2": _Published(37322, 50, 85, 23527, 5882, 7913, ((20218, 9191),)),
  "apy": _Published(15339, 32, 64, 5932, 1483, 7924, ((6086, 1329), (4906, 1026))),
  "flo": _Published(
    8189, 102, 1024, 5631, 1403, 1155, ((5878, 1156),), class_embedding="sent"
  ),
}


def dataset_name(text: str) -> str:
  """``text`` as a name for a stored dataset: lower case, digits, underscores."""
  name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
  require(
    name[:1].isalpha(),
    "dataset name",
    repr(text),
    "letters and digits that begin with a letter (give one with --name)",
  )
  return name


def located_set(
  *,
  name: str,
  class_embedding: str,
  features: Rows,
  labels: np.ndarray,
  class_names: Sequence[str] | None,
  embeddings: np.ndarray,
  locations: Mapping[str, np.ndarray],
  path: pathlib.Path,
  notes: list[str],
  version: str | None = None,
  **described,
) -> FeatureSet:
  """The set of images that ``locations`` puts into splits.

  Args, where they are not those of ``make_feature_set``:
    name: of the dataset; a published name makes the published sizes compulsory.
    class_names: C names; numbered when None.
    locations: row numbers (0-based) for names of ``LOCATIONS``.
    path: the file of the locations, for messages.
    version: of the split; see ``split_version`` when None.

  Raises:
    ZsljaxError: the parts contradict one another or the published sizes.
  """
  if class_names is None:
    class_names = [f"class_{i + 1:03d}" for i in range(len(embeddings))]
    notes.append(
      f"{path.name} has no allclasses_names (as some published files): classes are "
      "called class_001, class_002, ..."
    )
  present = [pair for pair in _DISJOINT if locations.keys() >= set(pair)]
  check_disjoint(locations, present, str(path))
  if name in PUBLISHED:
    sizes = len(features), *embeddings.shape
    _check_published(name, class_embedding, sizes, locations, path)
  return make_feature_set(
    name=name,
    class_embedding=class_embedding,
    split_version=version or split_version(locations, path, notes),
    features=features,
    labels=labels,
    class_names=class_names,
    embeddings=embeddings,
    trainval=locations["trainval_loc"],
    test_seen=locations["test_seen_loc"],
    test_unseen=locations["test_unseen_loc"],
    validation_classes=_held_out_classes(labels, locations, path),
    notes=notes,
    **described,
  )


def split_version(
  locations: Mapping[str, np.ndarray], path: pathlib.Path, notes: list[str]
) -> str:
  """Published version of the split, told by the counts of images.

  In ``xlsa17-v1`` (older) ``train_loc`` and ``val_loc`` together are as many as
  ``trainval_loc`` and ``test_seen_loc``: they contain the seen test images. In
  ``xlsa17-v2`` (newer) they are as many as ``trainval_loc``. Names and rule are
  this project's; other changes between the versions are not published.
  """
  sizes = {field: len(rows) for field, rows in locations.items()}
  if not sizes.keys() >= {"train_loc", "val_loc"}:
    notes.append(
      f"{path.name} lacks train_loc or val_loc, so its version cannot be told."
    )
    return "xlsa17-unknown"
  tuning = sizes["train_loc"] + sizes["val_loc"]
  trainval, test_seen = sizes["trainval_loc"], sizes["test_seen_loc"]
  if tuning == trainval:
    return "xlsa17-v2"
  if tuning == trainval + test_seen:
    notes.append(
      "train_loc and val_loc contain the test_seen images (older version of the "
      "split); the stored train and val are cut from trainval alone."
    )
    return "xlsa17-v1"
  notes.append(
    f"train_loc and val_loc hold {tuning} images, neither trainval's {trainval} "
    f"nor trainval and test_seen's {trainval + test_seen}: no published version."
  )
  return "xlsa17-unknown"


def _held_out_classes(
  labels: np.ndarray, locations: Mapping[str, np.ndarray], path: pathlib.Path
) -> np.ndarray | None:
  """The validation classes that ``val_loc`` names, or None.

  In files with images of seen classes in ``val_loc`` too, they are those that
  ``train_loc`` lacks. None of them may be an unseen class.
  """
  if "val_loc" not in locations:
    return None
  classes = np.unique(labels[locations["val_loc"]])
  unseen = np.intersect1d(classes, labels[locations["test_unseen_loc"]])
  require(
    not unseen.size,
    f"{path}: val_loc",
    f"images of the classes {unseen[:3].tolist()} (counted from 0), which are unseen: "
    "test_unseen_loc has them too",
    "validation classes apart from the unseen ones, on which nothing may be chosen",
  )
  if "train_loc" in locations:
    classes = np.setdiff1d(classes, labels[locations["train_loc"]])
  classes = np.intersect1d(classes, labels[locations["trainval_loc"]])
  return classes if classes.size else None


def _check_published(
  name: str,
  class_embedding: str,
  sizes: tuple[int, int, int],
  locations: Mapping[str, np.ndarray],
  path: pathlib.Path,
) -> None:
  """Raises unless a set that calls itself ``name`` has the published sizes."""
  published = PUBLISHED[name]
  found = dict(zip(("images", "classes", "attributes"), sizes, strict=True))
  for split in ("trainval", "test_seen", "test_unseen"):
    found[split] = len(locations[f"{split}_loc"])
  if class_embedding not in (published.class_embedding, "original_att"):
    del found["attributes"]
  wrong = [
    f"{field} {value} instead of {getattr(published, field)}"
    for field, value in found.items()
    if value != getattr(published, field)
  ]
  if "train_loc" in locations and "val_loc" in locations:
    tuning = len(locations["train_loc"]), len(locations["val_loc"])
    if tuning not in published.train_val and sum(tuning) != published.trainval:
      wrong.append(
        f"train and val {tuning} instead of "
        f"{' or '.join(map(str, published.train_val))}"
      )
  require(
    not wrong,
    str(path),
    ", ".join(wrong),
    f"the published sizes of {name} (for another set give --name)",
  )
