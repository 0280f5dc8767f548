"""Importer for the xlsa17 layout: features .mat beside a splits .mat.

The layout of Xian, Lampert, Schiele, Akata, "Zero-Shot Learning: A
Comprehensive Evaluation of the Good, the Bad and the Ugly" (TPAMI 2018).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import pathlib
import re

import numpy as np

from zsljax.data.feature_set import FeatureSet, digests
from zsljax.data.files.text import read_names
from zsljax.data.importers.published import (
  LOCATIONS,
  PUBLISHED,
  dataset_name,
  located_set,
)
from zsljax.errors import require
from zsljax.io.arrays import as_floats, check_field, read_arrays
from zsljax.io.checks import require_file

_TEXTS = "allclasses_names"
_FROM_1 = ": MATLAB counts from 1"


def read_xlsa17(
  source: pathlib.Path,
  features: str = "res101.mat",
  splits: str = "att_splits.mat",
  name: str | None = None,
  attributes: str = "att",
) -> FeatureSet:
  """Reads and checks one dataset in the xlsa17 layout.

  Args:
    source: the folder of both files; names of attributes are taken from its
      ``predicates.txt`` (number and name a line) where it is there.
    features: file with ``features [D, N]``, ``labels [N, 1]`` (1-based) and
      ``image_files``.
    splits: file with ``att [A, C]`` and the 1-based image locations of the
      splits.
    name: of the dataset; the folder's name when None. A published name makes
      the published sizes compulsory.
    attributes: the field with the class embeddings: ``att`` (what published
      numbers use: columns of length one in attribute files) or
      ``original_att`` (as annotated, before that scaling; absent from CUB-sent and
      FLO files).

  Raises:
    ZsljaxError: a file is missing or damaged, or its content contradicts
      itself or the published sizes.
  """
  require(source.is_dir(), str(source), "no such folder", f"one with {features}")
  require(
    attributes in ("att", "original_att"),
    "attributes",
    repr(attributes),
    "att (what published numbers use) or original_att (before scaling)",
  )
  name = dataset_name(name or source.resolve().name)
  image_path, split_path = source / features, source / splits
  require_file(image_path, "it, or another by --features=FILE")
  require_file(split_path, "it, or another by --splits=FILE")
  notes: list[str] = []

  image = read_arrays(image_path, ("features", "labels"), ("image_files",), (".mat",))
  labels = check_field(
    image_path, image, "labels", "N", "whole", lowest=1, hint=_FROM_1
  )
  count = len(labels)
  visual = check_field(
    image_path, image, "features", f"D {count}", hint=", one a label"
  )
  visual = np.ascontiguousarray(visual.T)
  visual = as_floats(f"{image_path}: features", visual)
  image_files = check_field(image_path, image, "image_files", f"{count}", "text")

  split = read_arrays(
    split_path,
    ("trainval_loc", "test_seen_loc", "test_unseen_loc", attributes),
    (*LOCATIONS, "att", "original_att", _TEXTS),
    (".mat",),
  )
  limits = {"lowest": 1, "highest": count, "hint": f", the number of images{_FROM_1}"}
  locations = {
    field: check_field(split_path, split, field, "N", "whole", **limits)
    for field in LOCATIONS
    if field in split
  }
  described = {
    field: check_field(split_path, split, field, "A C")
    for field in ("att", "original_att")
    if field in split
  }
  (rows, columns), num_classes = described[attributes].shape, labels.max()
  require(
    columns == num_classes or rows != num_classes,
    f"{split_path}: {attributes}",
    f"{rows} rows and {columns} columns",
    f"a column for each of the {num_classes} classes of labels: is it transposed?",
  )
  embeddings = described[attributes].T
  class_names = check_field(split_path, split, _TEXTS, f"{len(embeddings)}", "text")
  if class_names is not None:
    class_names = class_names.tolist()
  _check_name_order(image_files, labels - 1, class_names, image_path, split_path, notes)
  _note_attributes(described, attributes, notes)
  return located_set(
    name=name,
    features_kind=dataset_name(pathlib.Path(features).stem),
    class_embedding=_class_embedding(name, splits, attributes),
    features=visual,
    labels=labels - 1,
    class_names=class_names,
    embeddings=embeddings.astype(np.float64),
    attribute_names=_attribute_names(source, embeddings.shape[1]),
    locations={field: rows - 1 for field, rows in locations.items()},
    path=split_path,
    where=f"{image_path} with {splits}",
    sources=digests(image_path, split_path),
    notes=notes,
    image_files=image_files,
  )


def _check_name_order(
  files: np.ndarray | None,
  labels: np.ndarray,
  names: Sequence[str] | None,
  image_path: pathlib.Path,
  split_path: pathlib.Path,
  notes: list[str],
) -> None:
  """Raises if an image lies in a folder that is called like another class."""
  unchecked = "the order of the class names could not be checked."
  if files is None:
    notes.append(f"{image_path.name} has no image_files: {unchecked}")
    return
  known, checked = set(names or ()), 0
  for file, label in zip(files.tolist(), labels.tolist(), strict=True):
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
    notes.append(f"No image file name contains its class: {unchecked}")


def _note_attributes(
  described: Mapping[str, np.ndarray], field: str, notes: list[str]
) -> None:
  """Notes how class embeddings differ from those of published attribute files."""
  embeddings = described[field]
  lengths = np.linalg.norm(embeddings, axis=0)
  if "original_att" not in described:
    notes.append(
      "The splits file has no original_att (as published for CUB-sent and FLO)."
    )
  elif field == "att":
    original = described["original_att"]
    scale = np.linalg.norm(original, axis=0)
    if original.shape != embeddings.shape or not np.allclose(
      original, embeddings * scale, atol=1e-6 * np.abs(original).max()
    ):
      notes.append("att is not original_att with columns scaled to length one.")
  if not np.allclose(lengths, 1, atol=1e-3):
    notes.append(
      f"The class embeddings in {field} have lengths {lengths.min():.3g} to "
      f"{lengths.max():.3g}, not 1."
    )


def _class_embedding(name: str, splits: str, field: str) -> str:
  """The kind of class embeddings: of the splits file's name, or as published."""
  if field != "att":
    return field
  stem = pathlib.Path(splits).stem.lower()
  kind = re.sub(r"_?splits?$", "", stem) or "att"
  if kind == "att" and name in PUBLISHED:
    kind = PUBLISHED[name].class_embedding
  return dataset_name(kind)


def _attribute_names(source: pathlib.Path, count: int) -> list[str]:
  path = source / "predicates.txt"
  if not path.is_file():
    return []
  names = [line.split()[-1] for line in read_names(path)]
  expected = f"{count}, one for each attribute"
  require(len(names) == count, str(path), f"{len(names)} names", expected)
  return names
