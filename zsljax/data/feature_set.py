"""FeatureSet: an imported dataset, checked, before it is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import functools
import hashlib
import itertools
import pathlib
from typing import Any, Protocol

import numpy as np
import scipy.sparse

from zsljax.classes import ClassSpace
from zsljax.data.labels import ABSENT, PRESENT, ids_where
from zsljax.errors import ZsljaxError, counted, require, some
from zsljax.io.checksums import sha256_of
from zsljax.io.progress import task_bar

# The stored splits, disjoint, of sets with one label and with many labels an image.
# `trainval` is the union of the first two.
SPLITS = ("train", "val", "test_seen", "test_unseen")
MULTI_LABEL_SPLITS = ("train", "val", "test")
# Begins the note of a set whose validation classes were drawn.
NONE_PUBLISHED = "No validation classes follow from the source"
_BLOCK_BYTES = 2**26
# Values in the label matrix that the two kinds of label lists stand for.
_LISTS = {"labels": PRESENT, "absent": ABSENT}


class Rows(Protocol):
  """Features of N images: an array, or a file that is read like one."""

  shape: tuple[int, ...]
  dtype: np.dtype

  def __len__(self) -> int: ...

  def __getitem__(self, rows: int | slice) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class FeatureSet:
  """Precomputed features of N images, their classes, and the held-out images.

  Attributes:
    name: name of the dataset, for example ``awa1``.
    features_kind: origin of the features, for example ``res101``.
    class_embedding: kind of the class descriptions, for example ``att``.
    split_version: published version of the split.
    features: ``[N, D]``, or ``[N, R, D]`` for R regions.
    digest: SHA-256 of the features.
    largest: largest absolute value among them.
    labels: class ids, ``[N]`` integer; of a multi-label set ``[N, C]``, sparse, 1 for a
      class that is present and -1 for one that is annotated as absent.
    classes: all classes; ``seen`` are those with images in trainval, or in a
      multi-label set those whose labels may be trained on.
    validation_classes: ids of the seen classes that ``val`` holds out.
    splits: row numbers for each name of ``SPLITS`` or ``MULTI_LABEL_SPLITS``.
    sources: SHA-256 of each file that the set was made from, by file name.
    notes: oddities that are allowed, one sentence each.
    image_files: the images' names, ``[N]`` texts; None where the source has none.
    encoder: description of the network that made the features, where it is known.
  """

  name: str
  features_kind: str
  class_embedding: str
  split_version: str
  features: Rows
  digest: str
  largest: float
  labels: np.ndarray | scipy.sparse.csr_array
  classes: ClassSpace
  validation_classes: tuple[int, ...]
  splits: Mapping[str, np.ndarray]
  sources: Mapping[str, str]
  notes: tuple[str, ...] = ()
  image_files: np.ndarray | None = None
  encoder: Mapping[str, Any] | None = None

  @property
  def multi_label(self) -> bool:
    """True where an image has any number of labels."""
    return self.labels.ndim == 2

  @functools.cached_property
  def label_widths(self) -> dict[str, int]:
    """The most labels of one image, by kind; empty with one label an image.

    Absences are a kind where at least one is annotated.
    """
    if not self.multi_label:
      return {}
    most = {
      name: int((self.labels == value).sum(1).max(initial=0))
      for name, value in _LISTS.items()
    }
    return {name: width for name, width in most.items() if width or name == "labels"}

  def fingerprint(self, storage_dtype: np.dtype | None = None) -> str:
    """Returns SHA-256 of all that is trained on: arrays, splits, stored precision."""
    dtype = np.dtype(storage_dtype or self.features.dtype)
    digest = hashlib.sha256(f"{dtype} {self.digest}".encode())
    arrays = [self.labels]
    if self.multi_label:
      sparse = self.labels
      assert not isinstance(sparse, np.ndarray)
      arrays = [sparse.indptr, sparse.indices, sparse.data, self.classes.seen]
    arrays += [self.classes.embeddings, *self.splits.values()]
    if self.classes.attribute_vectors is not None:
      arrays.append(self.classes.attribute_vectors)
    for array in arrays:
      digest.update(f"{array.dtype} {array.shape}".encode())
      digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def record_of(
  features: Rows,
  labels: np.ndarray | scipy.sparse.csr_array,
  lists: Sequence[str],
  row: int,
  dtype: np.dtype,
) -> tuple[int, dict[str, Any]]:
  """Returns the key that TFDS shuffles by, and what is stored of an image.

  ``lists`` are the kinds of its label lists, none where an image has one label.
  """
  kept = {name: ids_where(labels, row, _LISTS[name]) for name in lists}
  kept = kept or {"label": np.int64(labels[row])}
  features = features[row].astype(dtype)
  return int(row), {"features": features, **kept, "row": np.int64(row)}


def make_feature_set(
  *,
  features: Rows,
  labels: np.ndarray,
  class_names: Sequence[str],
  embeddings: np.ndarray,
  trainval: np.ndarray,
  test_seen: np.ndarray,
  test_unseen: np.ndarray,
  validation_classes: Sequence[int] | None,
  where: str,
  split_seed: int = 0,
  attribute_names: Sequence[str] = (),
  attribute_vectors: np.ndarray | None = None,
  notes: Sequence[str] = (),
  **described,
) -> FeatureSet:
  """Checks the parts of a dataset and cuts the validation fold.

  Classes are described as in ``ClassSpace.create``; other arguments are fields of
  ``FeatureSet``, or as follows.

  Args:
    trainval: row numbers (0-based) of the training images; likewise those of tests.
    validation_classes: a seeded fifth of the seen classes when None.
    where: the file or files, for messages.
    split_seed: of all that is drawn.

  Raises:
    ZsljaxError: something does not fit together; the message says what.
  """
  notes = list(notes)
  count = len(class_names)
  require(
    labels.shape == (len(features),),
    f"{where}: labels",
    f"shape {labels.shape}",
    f"({len(features)},), one label for each row of the features",
  )
  outside = np.flatnonzero((labels < 0) | (labels >= count))
  require(
    not outside.size,
    f"{where}: labels",
    f"{outside.size} outside the list of {count} classes (at image {_some(outside)}, "
    "counted from 0)",
    "every label to name a class",
  )
  tests = {"test_seen": test_seen, "test_unseen": test_unseen}
  parts = {"trainval": trainval, **tests}
  check_rows(parts, len(labels), where)
  classes = classes_of(
    where,
    class_names,
    embeddings,
    seen=np.isin(np.arange(count), labels[trainval]),
    attribute_names=attribute_names,
    attribute_vectors=attribute_vectors,
  )
  seen = np.flatnonzero(classes.seen)
  _check_classes(parts, labels, seen, classes.names, where)
  validation_classes = checked_validation(
    validation_classes, classes, split_seed, where, notes
  )
  absent = np.setdiff1d(seen, labels[test_seen])
  if absent.size:
    notes.append(
      f"{counted(absent.size, 'seen class has', 'seen classes have')} no test image, S "
      "is the mean over the others: "
      f"{some([classes.names[i] for i in absent])}."
    )
  train, val = hold_out_validation(labels, trainval, validation_classes, split_seed)
  return finished(
    where,
    notes,
    features=features,
    labels=labels,
    classes=classes,
    validation_classes=validation_classes,
    splits={"train": train, "val": val, **tests},
    **described,
  )


def classes_of(where: str, *parts, **described) -> ClassSpace:
  """Calls ``ClassSpace.create``; its errors name ``where``, the file."""
  try:
    return ClassSpace.create(*parts, **described)
  except ZsljaxError as error:
    raise ZsljaxError(f"{where}: {error}") from error


def finished(
  where: str,
  notes: list[str],
  *,
  features: Rows,
  validation_classes: Iterable[int],
  **described,
) -> FeatureSet:
  """Builds a set of checked parts, after reading and checking its features."""
  digest, largest = _scan(features, where, notes)
  return FeatureSet(
    features=features,
    digest=digest,
    largest=largest,
    validation_classes=tuple(int(c) for c in sorted(validation_classes)),
    notes=tuple(notes),
    **described,
  )


def hold_out_validation(
  labels: np.ndarray,
  trainval: np.ndarray,
  validation_classes: Sequence[int],
  seed: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Cuts trainval into train and val, for choices that never see a test image.

  ``val`` gets all images of the validation classes (they play the unseen ones)
  and a fifth of the images of every other class, drawn with ``seed`` (they play
  the held-out images of seen classes).

  Returns:
    Row numbers of train and of val, each in ascending order.
  """
  rng = np.random.default_rng(seed)
  held_out = [trainval[np.isin(labels[trainval], validation_classes)]]
  for label in np.setdiff1d(labels[trainval], validation_classes):
    rows = np.sort(trainval[labels[trainval] == label])
    held_out.append(rng.choice(rows, len(rows) // 5, replace=False))
  val = np.sort(np.concatenate(held_out))
  return np.setdiff1d(trainval, val), val


def check_disjoint(
  parts: Mapping[str, np.ndarray], pairs: Iterable[tuple[str, str]], where: str
) -> None:
  """Raises if two of ``parts``, rows of images by name, share an image."""
  for first, second in pairs:
    shared = np.intersect1d(parts[first], parts[second])
    require(
      not shared.size,
      f"{where}: {first} and {second}",
      f"{counted(shared.size, 'image')} in both",
      "disjoint splits",
    )


def digests(*paths: pathlib.Path) -> dict[str, str]:
  """Returns the SHA-256 of files by their names, or folders and names if these meet."""
  names = [path.name for path in paths]
  return {
    path.name if names.count(path.name) == 1 else f"{path.parent.name}/{path.name}": (
      sha256_of(path)
    )
    for path in paths
  }


def checked_validation(
  given: Sequence[int] | None,
  classes: ClassSpace,
  seed: int,
  where: str,
  notes: list[str],
) -> Sequence[int]:
  """Checks the ids of the validation classes; draws a seeded fifth where None."""
  seen = np.flatnonzero(classes.seen)
  if given is None:
    number = max(1, len(seen) // 5)
    given = np.random.default_rng(seed).choice(seen, number, replace=False)
    notes.append(
      f"{NONE_PUBLISHED}: {counted(number, 'seen class was', 'seen classes were')} "
      f"drawn with seed {seed}."
    )
  strangers = [classes.names[i] for i in np.setdiff1d(given, seen)]
  require(
    not strangers and len(given) < len(seen),
    f"{where}: validation classes",
    f"{strangers[:3]}, unseen" if strangers else "all seen classes",
    "seen ones, and at least one other seen class to train on",
  )
  return given


def blocks(features: Rows) -> Iterator[np.ndarray]:
  """Yields the features in order, a part at a time."""
  row_bytes = int(np.prod(features.shape[1:])) * features.dtype.itemsize
  size = max(1, _BLOCK_BYTES // row_bytes)
  for start in range(0, len(features), size):
    yield np.ascontiguousarray(features[start : start + size])


def _scan(features: Rows, where: str, notes: list[str]) -> tuple[str, float]:
  """Checks the features; returns their SHA-256 and largest absolute value."""
  require(
    len(features.shape) in (2, 3) and all(features.shape),
    f"{where}: features",
    f"shape {features.shape}",
    "[N, D] or [N, R, D]",
  )
  require(
    np.issubdtype(features.dtype, np.floating),
    f"{where}: features",
    f"dtype {features.dtype}",
    "floating point numbers",
  )
  digest = hashlib.sha256(f"{features.dtype} {features.shape}".encode())
  low, high = [], []
  with task_bar(len(features), "checking features", "images") as bar:
    for block in blocks(features):
      digest.update(block)
      block = block.reshape(len(block), -1)
      low.append(block.min(1))
      high.append(block.max(1))
      bar.update(len(block))
  low, high = np.concatenate(low), np.concatenate(high)
  not_finite = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high)))
  constant = np.flatnonzero(low == high)
  require(
    not not_finite.size,
    f"{where}: features",
    f"NaN or infinity in {not_finite.size} of {len(features)} images (first at "
    f"image {_some(not_finite)}, counted from 0)",
    "finite numbers",
  )
  if constant.size:
    notes.append(
      f"{counted(constant.size, 'image has', 'images have')} constant features (first "
      f"at image {constant[0]}, counted from 0): did their encoding fail?"
    )
  return digest.hexdigest(), float(max(high.max(), -low.min()))


def check_rows(parts: Mapping[str, np.ndarray], count: int, where: str) -> None:
  """Raises unless ``parts``, rows by name, are disjoint parts of ``count`` images."""
  for name, rows in parts.items():
    require(rows.size > 0, f"{where}: {name}", "no images", "at least one")
    bad = rows[(rows < 0) | (rows >= count)]
    require(
      not bad.size,
      f"{where}: {name}",
      f"{counted(bad.size, 'row')} outside the {count} images ({_some(bad)}, "
      "counted from 0)",
      "every row to be an image",
    )
    again = len(rows) - len(np.unique(rows))
    require(
      again == 0,
      f"{where}: {name}",
      f"{counted(again, 'image')} more than once",
      "each image once",
    )
  check_disjoint(parts, itertools.combinations(parts, 2), where)


def _check_classes(
  parts: Mapping[str, np.ndarray],
  labels: np.ndarray,
  seen: np.ndarray,
  names: Sequence[str],
  where: str,
) -> None:
  """Raises unless trainval and test_unseen share out the classes between them."""
  unseen = np.unique(labels[parts["test_unseen"]])

  def check(odd: np.ndarray, number: str, found: str, expected: str) -> None:
    listed = some([repr(names[i]) for i in odd])
    require(not odd.size, where, f"{number} ({listed}) {found}", expected)

  both = np.intersect1d(seen, unseen)
  found = "with images in both trainval and test_unseen"
  number = counted(both.size, "class", "classes")
  check(both, number, found, "unseen classes to have no training image")
  strangers = np.setdiff1d(labels[parts["test_seen"]], seen)
  found = "with images in test_seen that trainval lacks"
  number = counted(strangers.size, "class", "classes")
  check(strangers, number, found, "seen classes only")
  empty = np.setdiff1d(np.arange(len(names)), np.union1d(seen, unseen))
  found, number = "that have no image in trainval or test_unseen", len(names)
  expected = "every class to be seen or unseen"
  check(empty, f"{empty.size} of {number} classes", found, expected)


def _some(rows: np.ndarray) -> str:
  """Returns the first rows, and a hint that there are more."""
  return some([str(row) for row in rows[:6]])
