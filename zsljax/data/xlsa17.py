"""Importer for the xlsa17 layout: features .mat beside a splits .mat.

The layout of Xian, Lampert, Schiele, Akata, "Zero-Shot Learning: A
Comprehensive Evaluation of the Good, the Bad and the Ugly" (TPAMI 2018).
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import pathlib
import re

import numpy as np

from zsljax.data.feature_set import FeatureSet, make_feature_set, sha256_of
from zsljax.data.matfile import read_mat
from zsljax.errors import ZsljaxError, require

LOCATIONS = (
  "trainval_loc",
  "train_loc",
  "val_loc",
  "test_seen_loc",
  "test_unseen_loc",
)
_FEATURE_FIELDS = ("features", "labels", "image_files")
_TEXT_FIELDS = ("image_files", "allclasses_names")
_SPLIT_FIELDS = ("att", "original_att", "allclasses_names", *LOCATIONS)


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


def read_xlsa17(
  source: pathlib.Path,
  features: str = "res101.mat",
  splits: str = "att_splits.mat",
  name: str | None = None,
  attributes: str = "att",
) -> FeatureSet:
  """Reads and checks one dataset in the xlsa17 layout.

  Args:
    source: the folder of both files.
    features: file with ``features [D, N]``, ``labels [N, 1]`` (1-based) and
      ``image_files``.
    splits: file with ``att [A, C]`` and the 1-based image locations of the
      splits.
    name: of the dataset; the folder's name when None. A published name makes
      the published sizes compulsory.
    attributes: the field with the class embeddings: ``att`` (what published
      numbers use: columns of length one in attribute files) or
      ``original_att`` (as annotated, before that scaling).

  Raises:
    ZsljaxError: a file is missing or damaged, or its content contradicts
      itself or the published sizes.
  """
  source = source.expanduser()
  if not source.is_dir():
    raise ZsljaxError(f"{source}: no such folder; expected one with {features}")
  name = dataset_name(name or source.resolve().name)
  image_path, split_path = source / features, source / splits
  image = read_mat(image_path, _FEATURE_FIELDS)
  split = read_mat(split_path, _SPLIT_FIELDS)
  _check_numbers(image_path, image)
  _check_numbers(split_path, split)
  _require_fields(image_path, image, ("features", "labels"))
  _require_fields(
    split_path, split, ("trainval_loc", "test_seen_loc", "test_unseen_loc")
  )
  if attributes not in split or attributes not in ("att", "original_att"):
    raise ZsljaxError(
      f"{split_path}: no field {attributes!r}, expected the class embeddings "
      "there. att holds what published numbers use; original_att, the "
      "annotation before scaling, is absent from CUB-sent and FLO files."
    )

  notes: list[str] = []
  visual = _features(image_path, image["features"], image["labels"])
  labels = _one_based(image_path, "labels", image["labels"], None)
  embeddings = np.asarray(split[attributes], np.float64).T
  locations = {
    field: _one_based(split_path, field, split[field], len(visual))
    for field in LOCATIONS
    if field in split
  }
  class_names = _class_names(split, embeddings, split_path, notes)
  _check_name_order(image, labels, class_names, image_path, split_path, notes)
  _describe_attributes(split, attributes, notes)
  version = split_version(locations, split_path, notes)
  kind = _class_embedding(name, splits, attributes)
  if name in PUBLISHED:
    _check_published(name, kind, visual, embeddings, locations, split_path)

  validation = None
  if "val_loc" in locations:
    validation = np.unique(labels[locations["val_loc"]])
    trainval_classes = np.unique(labels[locations["trainval_loc"]])
    # In files with images of seen classes in val_loc too, the held-out classes
    # are those that train_loc lacks.
    if "train_loc" in locations:
      validation = np.setdiff1d(validation, labels[locations["train_loc"]])
    validation = np.intersect1d(validation, trainval_classes)
  return make_feature_set(
    name=name,
    features_kind=dataset_name(pathlib.Path(features).stem),
    class_embedding=kind,
    split_version=version,
    features=visual,
    labels=labels,
    class_names=class_names,
    embeddings=embeddings,
    attribute_names=_attribute_names(source, embeddings.shape[1]),
    trainval=locations["trainval_loc"],
    test_seen=locations["test_seen_loc"],
    test_unseen=locations["test_unseen_loc"],
    validation_classes=validation
    if validation is not None and validation.size
    else None,
    where=f"{image_path} with {splits}",
    sources={p.name: sha256_of(p) for p in (image_path, split_path)},
    notes=notes,
  )


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


def _require_fields(path, content, fields):
  missing = [f for f in fields if f not in content]
  if missing:
    raise ZsljaxError(
      f"{path}: found no field {', '.join(missing)} (of those needed it has "
      f"{', '.join(content) or 'none'}), expected {', '.join(fields)}: is it "
      "another file, or cut off?"
    )


def _check_numbers(path, content):
  for field, value in content.items():
    require(
      not isinstance(value, list) or field in _TEXT_FIELDS,
      f"{path}: {field}",
      "text or cells",
      "an array of numbers",
    )


def _features(path, features, labels) -> np.ndarray:
  """[D, N] of the file as [N, D]."""
  count = np.size(labels)
  require(
    features.ndim == 2 and features.shape[1] == count,
    f"{path}: features",
    f"shape {features.shape}",
    f"[D, {count}], a column for each of the {count} labels",
  )
  if features.dtype.kind in "iu":
    features = features.astype(np.float32)
  return np.ascontiguousarray(features.T)


def _one_based(path, field, values, upper) -> np.ndarray:
  """1-based numbers of the file, [n, 1], as 0-based [n]."""
  values = np.ravel(values)
  with np.errstate(invalid="ignore"):  # NaN is refused as not whole.
    whole = values.astype(np.int64)
  low = whole.min(initial=1)
  require(
    np.array_equal(whole, values),
    f"{path}: {field}",
    "numbers that are not whole",
    "1-based numbers",
  )
  require(
    low >= 1,
    f"{path}: {field}",
    f"{low}",
    "1 or more: MATLAB counts from 1, this file seems to count from 0",
  )
  high = whole.max(initial=0)
  require(
    upper is None or high <= upper,
    f"{path}: {field}",
    f"location {high}",
    f"locations from 1 to {upper}, the number of images",
  )
  return whole - 1


def _class_names(split, embeddings, path, notes) -> list[str]:
  names = split.get("allclasses_names")
  if names is None:
    notes.append(
      f"{path.name} has no allclasses_names (as the published FLO file): classes "
      "are called class_001, class_002, ..."
    )
    return [f"class_{i + 1:03d}" for i in range(len(embeddings))]
  require(
    len(names) == len(embeddings),
    f"{path}: allclasses_names",
    f"{len(names)} names for {len(embeddings)} columns of the class embeddings",
    "one name for each column [A, C]",
  )
  return list(names)


def _check_name_order(image, labels, names, image_path, split_path, notes):
  """The folder of an image must be called like the class of its label."""
  files = image.get("image_files")
  if files is None:
    notes.append(
      f"{image_path.name} has no image_files: the order of the class names could "
      "not be checked."
    )
    return
  require(
    len(files) == len(labels),
    f"{image_path}: image_files",
    f"{len(files)} names for {len(labels)} labels",
    "one for each image",
  )
  known, checked = set(names), 0
  for file, label in zip(files, labels, strict=True):
    folders = known.intersection(re.split(r"[/\\]", file)[:-1])
    if folders and label < len(names):
      checked += 1
      require(
        names[label] in folders,
        f"{image_path}: image_files",
        f"{file!r} with label {label + 1}, which {split_path.name} calls "
        f"{names[label]!r}",
        "class names in the same order in both files",
      )
  if not checked:
    notes.append(
      "No image file name contains its class: the order of the class names could "
      "not be checked."
    )


def _describe_attributes(split, field, notes):
  lengths = np.linalg.norm(split[field], axis=0)
  if "original_att" not in split:
    notes.append(
      "The splits file has no original_att (as published for CUB-sent and FLO)."
    )
  elif field == "att":
    original = split["original_att"]
    scale = np.linalg.norm(original, axis=0)
    if original.shape != split["att"].shape or not np.allclose(
      original, split["att"] * scale, atol=1e-6 * np.abs(original).max()
    ):
      notes.append("att is not original_att with columns scaled to length one.")
  if not lengths.all():
    notes.append(f"{np.sum(lengths == 0)} classes have nothing but zeros in {field}.")
  if len(np.unique(split[field], axis=1).T) < split[field].shape[1]:
    notes.append(f"Some classes have the same embedding in {field}.")
  if not np.allclose(lengths, 1, atol=1e-3):
    notes.append(
      f"The class embeddings in {field} have lengths {lengths.min():.3g} to "
      f"{lengths.max():.3g}, not 1."
    )


def _class_embedding(name, splits, field) -> str:
  if field != "att":
    return field
  stem = pathlib.Path(splits).stem.lower()
  kind = re.sub(r"_?splits?$", "", stem) or "att"
  if kind == "att" and name in PUBLISHED:
    kind = PUBLISHED[name].class_embedding
  return dataset_name(kind)


def _check_published(name, kind, features, embeddings, locations, path):
  published = PUBLISHED[name]
  found = {
    "images": len(features),
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


def _attribute_names(source: pathlib.Path, count: int) -> list[str]:
  """Names from ``predicates.txt`` (number and name a line), where it is there."""
  path = source / "predicates.txt"
  if not path.is_file():
    return []
  names = [line.split()[-1] for line in path.read_text().splitlines() if line.strip()]
  require(
    len(names) == count,
    str(path),
    f"{len(names)} names",
    f"{count}, one for each attribute",
  )
  return names
