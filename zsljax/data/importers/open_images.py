"""Importer for Open Images: image-level labels, present and absent."""

from __future__ import annotations

import array
import collections
from collections.abc import Mapping, Sequence
import math
import pathlib
from types import MappingProxyType

import numpy as np
import scipy.sparse

from zsljax.data.feature_set import FeatureSet, digests
from zsljax.data.files.features import read_features, short_name
from zsljax.data.files.text import check_distinct, read_csv, read_names
from zsljax.data.importers.annotations import annotated_set
from zsljax.data.labels import ABSENT, PRESENT
from zsljax.errors import ZsljaxError, require

_COLUMNS = ("ImageID", "LabelName", "Confidence")


def read_open_images(
  train_labels: pathlib.Path,
  test_labels: pathlib.Path,
  descriptions: pathlib.Path,
  seen: pathlib.Path,
  unseen: pathlib.Path,
  features: Sequence[pathlib.Path],
  word_vectors: pathlib.Path,
  unknown: str = "refuse",
  name: str = "open_images",
  lists: Mapping[str, pathlib.Path] = MappingProxyType({}),
) -> FeatureSet:
  """Open Images from its label files and features of any of its images.

  Images are those that both a label file and the features have. A label is present with
  confidence 1 and annotated as absent with 0. Other confidences are a machine's: from
  0.5 on the label is present, below that it is passed over. Where a file says both
  present and absent, present counts.

  Args:
    train_labels: CSV with ``ImageID,Source,LabelName,Confidence`` in its first line.
    test_labels: the same of the test images.
    descriptions: CSV with ``LabelName,DisplayName`` for each label, without a first
      line that says so.
    seen: the seen labels, a LabelName such as ``/m/01g317`` in the first column of
      each line.
    unseen: the unseen ones.
    features: files for ``read_features``, which must have the images' names.
    word_vectors: file for ``label_vectors``, as is ``unknown``.
    name: of the set.
    lists: see ``annotated_set``.

  Raises:
    ZsljaxError: a file is missing or damaged, or they do not fit together.
  """
  files = (train_labels, test_labels, descriptions, seen, unseen)
  opened = read_features(features, named=True)
  assert opened.image_files is not None
  known = set(map(short_name, opened.image_files.tolist()))
  given = [_label_list(seen), _label_list(unseen)]
  both = sorted(set(given[0]) & set(given[1]))
  require(not both, f"{unseen}", f"{both[:3]}, seen", "labels that are not seen")
  mids = given[0] + given[1]
  words = _display_names(descriptions, mids)
  times = collections.Counter(words)

  columns = {mid: i for i, mid in enumerate(mids)}
  train, train_matrix = _labels(train_labels, columns, known)
  test, test_matrix = _labels(test_labels, columns, known)
  notes = []
  if without := len(known.difference(train, test)):
    notes.append(
      f"{without} images of the features are in neither label file and are left out."
    )
  return annotated_set(
    name,
    opened,
    word_vectors,
    unknown,
    where=f"{train_labels} and {test_labels.name}",
    images=[train + test],
    train=np.arange(len(train)),
    test=np.arange(len(train), len(train) + len(test)),
    labels=scipy.sparse.vstack([train_matrix, test_matrix], "csr"),
    label_names=[
      word if times[word] == 1 else f"{word} ({mid})"
      for word, mid in zip(words, mids, strict=True)
    ],
    words=words,
    seen=np.arange(len(mids)) < len(given[0]),
    published="openimages-7186-400",
    published_labels=(7186, 400),
    sources=digests(*files),
    lists=lists,
    notes=notes,
  )


def _labels(
  path: pathlib.Path, columns: Mapping[str, int], known: set[str]
) -> tuple[list[str], scipy.sparse.csr_array]:
  """Ids and labels ``[N, L]`` of the images in a label file that are ``known``.

  ``columns`` has the column of each of the L labels.
  """
  images: dict[str, int] = {}
  rows, ids, confidences = array.array("i"), array.array("i"), array.array("f")
  lines = read_csv(path)
  header = next(lines, [])
  require(
    set(header) >= set(_COLUMNS),
    f"{path}: first line",
    ",".join(header) or "nothing",
    "ImageID,Source,LabelName,Confidence",
  )
  image_at, label_at, confidence_at = map(header.index, _COLUMNS)
  for number, line in enumerate(lines, 2):
    if line and len(line) != len(header):
      raise ZsljaxError(
        f"{path}: line {number}: found {len(line)} columns, expected {len(header)} as "
        "in the first line"
      )
    if line and line[image_at] in known:
      row = images.setdefault(line[image_at], len(images))
      if line[label_at] in columns:
        rows.append(row)
        ids.append(columns[line[label_at]])
        confidences.append(_number(line[confidence_at]))
  require(
    bool(images),
    f"{path}: ImageID",
    f"none of the {len(known)} images of the features (such as {next(iter(known))!r})",
    "some of them",
  )

  confidence, shape = np.asarray(confidences), (len(images), len(columns))
  require(
    bool(((confidence >= 0) & (confidence <= 1)).all()),
    f"{path}: Confidence",
    "others than numbers from 0 to 1",
    "1 for present, 0 for absent, and a machine's numbers between",
  )

  def where(chosen: np.ndarray) -> scipy.sparse.csr_array:
    places = np.asarray(rows)[chosen], np.asarray(ids)[chosen]
    return scipy.sparse.csr_array((np.ones(len(places[0]), bool), places), shape)

  present = where(confidence >= 0.5)
  absent = where(confidence == 0) > present
  labels = PRESENT * present.astype(np.int8) + ABSENT * absent.astype(np.int8)
  return list(images), labels


def _number(text: str) -> float:
  try:
    return float(text)
  except ValueError:
    return math.nan


def _label_list(path: pathlib.Path) -> list[str]:
  """The first column, without a heading."""
  mids = [line.split(",")[0].strip() for line in read_names(path)]
  mids = [mid for mid in mids if mid != "LabelName"]
  check_distinct(mids, str(path))
  return mids


def _display_names(path: pathlib.Path, mids: Sequence[str]) -> list[str]:
  """Names that people give to the labels."""
  names = {line[0]: line[1] for line in read_csv(path) if len(line) > 1}
  missing = [mid for mid in mids if mid not in names]
  require(
    not missing,
    str(path),
    f"no {', '.join(missing[:3])} ({len(missing)} of {len(mids)} labels)",
    "LabelName,DisplayName of all seen and unseen labels",
  )
  return [names[mid] for mid in mids]
