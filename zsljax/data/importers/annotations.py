"""Multi-label sets from labels, features and word vectors: checks, splits, assembly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
import hashlib
import pathlib
import re
from types import MappingProxyType

import numpy as np
import scipy.sparse

from zsljax.classes import ClassSpace
from zsljax.data.feature_set import (
  FeatureSet,
  Rows,
  check_rows,
  checked_validation,
  classes_of,
  digests,
  finished,
)
from zsljax.data.files.features import FeatureFiles, short_name
from zsljax.data.files.text import check_distinct, read_image_list
from zsljax.data.files.word_vectors import label_vectors
from zsljax.data.importers.published import dataset_name
from zsljax.data.labels import ABSENT, PRESENT
from zsljax.errors import counted, require, some


def make_multilabel_set(
  *,
  features: Rows,
  labels: scipy.sparse.csr_array,
  label_names: Sequence[str],
  vectors: np.ndarray,
  seen: np.ndarray,
  trainval: np.ndarray,
  test: np.ndarray,
  where: str,
  val: np.ndarray | None = None,
  validation_classes: Sequence[int] | None = None,
  split_seed: int = 0,
  attribute_names: Sequence[str] = (),
  notes: Sequence[str] = (),
  **described,
) -> FeatureSet:
  """Checks the parts of a multi-label dataset and cuts the validation fold.

  Training may use the labels of seen classes alone; conventional zero-shot learning
  scores the test images against the unseen classes, generalized against all. ``val``
  gets a fifth of trainval's images; on them the validation classes, whose labels
  ``train`` hides, play the unseen ones.

  Arguments are fields of ``FeatureSet``, or as follows.

  Args:
    labels: ``[N, L]``. Where nothing is -1, labels that are not present count as
      absent.
    label_names: L distinct names.
    vectors: of the labels, ``[L, V]``.
    seen: ``[L]`` bool.
    trainval: row numbers (0-based) of the training images; likewise those of tests.
    where: the file or files, for messages.
    val: rows of trainval to hold out; a seeded fifth when None.
    validation_classes: a seeded fifth of the seen ones when None.
    split_seed: of what is drawn.
    attribute_names: V names, or none.

  Raises:
    ZsljaxError: something does not fit together; the message says what.
  """
  notes = list(notes)
  count, num_labels = len(features), len(label_names)
  require(num_labels > 0, f"{where}: labels", "an empty list", "at least one label")
  require(
    labels.shape == (count, num_labels),
    f"{where}: labels of the images",
    f"shape {labels.shape}",
    f"({count}, {num_labels}), a row for each image and a column for each label",
  )
  labels = scipy.sparse.csr_array(labels)
  labels.eliminate_zeros()
  strange = np.setdiff1d(labels.data, (PRESENT, ABSENT))
  require(
    not strange.size,
    f"{where}: labels of the images",
    strange[:3].tolist(),
    "1 (present), -1 (annotated as absent) and 0",
  )
  require(
    seen.any() and not seen.all(),
    f"{where}: unseen labels",
    f"{num_labels - int(seen.sum())} of {num_labels}",
    "some labels to be seen and some unseen",
  )
  check_rows({"train": trainval, "test": test}, count, where)
  for split, rows, columns, kind in (
    ("training", trainval, seen, "seen label"),
    ("test", test, slice(None), "label"),
  ):
    require(
      bool((labels[rows] == PRESENT)[:, columns].nnz),
      f"{where}: labels of the {split} images",
      f"no {kind} present",
      "some",
    )
  classes = classes_of(
    where, label_names, vectors, seen=seen, attribute_names=attribute_names
  )
  validation_classes = checked_validation(
    validation_classes, classes, split_seed, where, notes
  )
  if val is None:
    val = hold_out_images(trainval, split_seed)
  splits = {"train": np.setdiff1d(trainval, val), "val": val, "test": test}
  check_rows(splits, count, where)
  notes += _warnings(labels, classes, trainval, test)
  return finished(
    where,
    notes,
    features=features,
    labels=labels,
    classes=classes,
    validation_classes=validation_classes,
    splits=splits,
    **described,
  )


def hold_out_images(trainval: np.ndarray, seed: int = 0) -> np.ndarray:
  """A seeded fifth of the rows ``trainval``, for ``val``, in ascending order."""
  rng = np.random.default_rng(seed)
  return np.sort(rng.choice(trainval, len(trainval) // 5, replace=False))


def _warnings(
  labels: scipy.sparse.csr_array,
  classes: ClassSpace,
  trainval: np.ndarray,
  test: np.ndarray,
) -> list[str]:
  """Notes of labels and images that are allowed but odd."""
  present = labels == PRESENT
  seen, notes = np.asarray(classes.seen), []
  for odd, of, what in (
    (seen & (present[trainval].sum(0) == 0), "seen", "no training image"),
    (~seen & (present[test].sum(0) == 0), "unseen", "no test image (their AP is 0)"),
  ):
    if odd.any():
      names = some([classes.names[i] for i in np.flatnonzero(odd)])
      labels_have = counted(odd.sum(), f"{of} label has", f"{of} labels have")
      notes.append(f"{labels_have} {what}: {names}.")
  bare = int((present[trainval][:, seen].sum(1) == 0).sum())
  if bare:
    notes.append(
      f"{counted(bare, 'training image has', 'training images have')} no seen label, "
      "which training passes over."
    )
  return notes


def annotated_set(
  name: str,
  features: FeatureFiles,
  word_vectors: pathlib.Path,
  unknown: str,
  *,
  where: str,
  images: Sequence[Sequence[str]],
  train: np.ndarray,
  test: np.ndarray,
  labels: scipy.sparse.csr_array,
  label_names: Sequence[str],
  words: Sequence[str],
  seen: np.ndarray,
  published: str,
  published_labels: tuple[int, int],
  sources: Mapping[str, str],
  lists: Mapping[str, pathlib.Path],
  released: Mapping[str, str] = MappingProxyType({}),
  notes: Sequence[str] = (),
) -> FeatureSet:
  """The set of M annotated images and L labels, with features found by name.

  Arguments are as in ``make_multilabel_set`` and ``label_vectors``, or as follows.

  Args:
    images: the images' names, ``[M]``, in each of the ways that features may call them.
    train: positions of the training images; likewise those of tests.
    words: the texts to look up in word vectors, one for each label.
    published: name of the published split.
    published_labels: its numbers of seen and unseen labels; other numbers make the
      split ``as_given``.
    sources: SHA-256 of the label files.
    lists: of the images of ``train`` and of ``test`` that are taken, see
      ``read_image_list``; all where there is none. They make the split ``as_given``,
      but for a list of tests that is known.
    released: names of splits by the SHA-256 of a known list's sorted lines.
  """
  check_distinct(images[0], f"{where}: images")
  listed = {split: read_image_list(path) for split, path in lists.items()}
  if "train" in lists:
    train = _listed(lists["train"], listed["train"], images, train, "training")
  if "test" in lists:
    test = _listed(lists["test"], listed["test"], images, test, "test")
  if lists:
    tests = "\n".join(sorted(listed.get("test", ())))
    digest = hashlib.sha256(tests.encode()).hexdigest()
    known = "train" not in lists and released.get(digest)
    published = known or "as_given"
  used = np.sort(np.concatenate([train, test]))
  rows = features.rows_of(*([way[i] for i in used] for way in images))
  order = np.argsort(rows)  # Files are read forwards.
  used, rows = used[order], rows[order]
  notes = list(notes)
  if len(features) > len(rows):
    notes.append(
      f"{len(features) - len(rows)} of the {len(features)} images of the features are "
      "not used."
    )
  found = label_vectors(dict.fromkeys(words), word_vectors, unknown)
  vectors = dict(zip(found.names, found.vectors, strict=True))
  kept = [i for i, word in enumerate(words) if word in vectors]
  labels, seen = labels[used][:, kept], seen[kept]
  labels.sort_indices()
  as_published = (seen.sum(), (~seen).sum()) == published_labels
  feature_set = make_multilabel_set(
    name=dataset_name(name),
    features_kind=_kind(features.paths),
    class_embedding=word_vectors.stem,
    split_version=published if as_published else "as_given",
    features=features.take(rows),
    labels=labels,
    label_names=[label_names[i] for i in kept],
    vectors=np.stack([vectors[words[i]] for i in kept]),
    seen=seen,
    trainval=np.flatnonzero(np.isin(used, train)),
    test=np.flatnonzero(np.isin(used, test)),
    # The same images, however the features are ordered.
    val=np.flatnonzero(np.isin(used, hold_out_images(train))),
    where=f"{where} with {features.where}",
    sources={},
    notes=[*notes, *found.notes],
  )
  # Last, as it reads all of large files.
  files = digests(*features.paths, word_vectors, *lists.values())
  return dataclasses.replace(feature_set, sources={**sources, **files})


def _listed(
  path: pathlib.Path,
  names: Sequence[str],
  images: Sequence[Sequence[str]],
  places: np.ndarray,
  split: str,
) -> np.ndarray:
  """Keeps the ``places`` whose image, in any of the ways, is among ``names``."""
  known = {short_name(way[i]): i for way in reversed(images) for i in places}
  missing = [name for name in names if short_name(name) not in known]
  found = f"{len(missing)} of {len(names)} images that are not among them, "
  expected = f"some of the {len(places)} {split} images"
  require(not missing, str(path), f"{found}{missing[:1]}", expected)
  return np.unique([known[short_name(name)] for name in names])


def _kind(paths: Sequence[pathlib.Path]) -> str:
  """Name of the features: the words that the files' names share."""
  words = [re.findall(r"[a-z0-9]+", path.stem.lower()) for path in paths]
  shared = [word for word in words[0] if all(word in others for others in words)]
  return "_".join(shared) or "given"
