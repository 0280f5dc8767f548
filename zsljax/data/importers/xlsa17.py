"""Importer for the xlsa17 layout: features .mat beside a splits .mat.

The layout of Xian, Lampert, Schiele, Akata, "Zero-Shot Learning: A
Comprehensive Evaluation of the Good, the Bad and the Ugly" (TPAMI 2018).
"""

from __future__ import annotations

import pathlib
import re

import numpy as np

from zsljax.data.feature_set import FeatureSet, make_feature_set, sha256_of
from zsljax.data.files.matfile import read_mat
from zsljax.data.importers.published import (
  PUBLISHED,
  check_published,
  check_tuning,
  dataset_name,
  held_out_classes,
  split_version,
)
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
  check_tuning(locations, split_path)
  if name in PUBLISHED:
    check_published(name, kind, len(visual), embeddings, locations, split_path)

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
    validation_classes=held_out_classes(labels, locations, split_path),
    where=f"{image_path} with {splits}",
    sources={p.name: sha256_of(p) for p in (image_path, split_path)},
    notes=notes,
    image_files=np.array(image["image_files"]) if "image_files" in image else None,
  )


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
