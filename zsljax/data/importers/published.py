"""What is published about the common datasets: sizes, and versions of the split."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import pathlib
import re

import numpy as np

from zsljax.data.feature_set import check_disjoint
from zsljax.errors import ZsljaxError, require


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
  if not name or not name[0].isalpha():
    raise ZsljaxError(
      f"dataset name: found {text!r}, expected letters and digits that begin "
      "with a letter (give one with --name)"
    )
  return name


def split_version(
  locations: Mapping[str, np.ndarray],
  where: pathlib.Path,
  notes: list[str],
) -> str:
  """Which published version of the split this is, by the counts of images.

  In ``xlsa17-v1`` (older) ``train_loc`` and ``val_loc`` together are as many as
  ``trainval_loc`` and ``test_seen_loc``: they contain the seen test images. In
  ``xlsa17-v2`` (newer) they are as many as ``trainval_loc``. Names and rule are
  this project's; what else the versions changed is not published.
  """
  if "train_loc" not in locations or "val_loc" not in locations:
    notes.append(
      f"{where.name} lacks train_loc or val_loc, so its version cannot be told."
    )
    return "xlsa17-unknown"
  tuning = len(locations["train_loc"]) + len(locations["val_loc"])
  trainval = len(locations["trainval_loc"])
  test_seen = len(locations["test_seen_loc"])
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


def check_tuning(locations: Mapping[str, np.ndarray], path: pathlib.Path) -> None:
  """Raises unless the images for tuning are apart, and none is of an unseen class.

  Images of ``test_seen`` are allowed among them: the older published files have those.
  """
  pairs = (
    ("train_loc", "val_loc"),
    ("train_loc", "test_unseen_loc"),
    ("val_loc", "test_unseen_loc"),
  )
  there = [pair for pair in pairs if locations.keys() >= set(pair)]
  check_disjoint(locations, there, str(path))


def held_out_classes(
  labels: np.ndarray, locations: Mapping[str, np.ndarray], where: pathlib.Path
) -> np.ndarray | None:
  """The validation classes that ``val_loc`` names, or None.

  In files with images of seen classes in ``val_loc`` too, they are those that
  ``train_loc`` lacks.

  Raises:
    ZsljaxError: one of them is an unseen class.
  """
  if "val_loc" not in locations:
    return None
  classes = np.unique(labels[locations["val_loc"]])
  unseen = np.intersect1d(classes, labels[locations["test_unseen_loc"]])
  require(
    not unseen.size,
    f"{where}: val_loc",
    f"images of the classes {unseen[:3].tolist()} (counted from 0), which are unseen: "
    "test_unseen_loc has them too",
    "validation classes apart from the unseen ones, on which nothing may be chosen",
  )
  if "train_loc" in locations:
    classes = np.setdiff1d(classes, labels[locations["train_loc"]])
  classes = np.intersect1d(classes, labels[locations["trainval_loc"]])
  return classes if classes.size else None


def check_published(
  name: str,
  kind: str,
  num_images: int,
  embeddings: np.ndarray,
  locations: Mapping[str, np.ndarray],
  path: pathlib.Path,
) -> None:
  """Raises unless a set that calls itself ``name`` has the published sizes."""
  published = PUBLISHED[name]
  found = {
    "images": num_images,
    "classes": len(embeddings),
    **{
      split: len(locations[f"{split}_loc"])
      for split in ("trainval", "test_seen", "test_unseen")
    },
  }
  if kind in (published.class_embedding, "original_att"):
    found["attributes"] = embeddings.shape[1]
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
