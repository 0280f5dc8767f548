"""From what the label files of a published multi-label set say to a FeatureSet."""

from __future__ import annotations

import collections
from collections.abc import Sequence
import dataclasses
import hashlib
import pathlib
import re

import numpy as np
import scipy.sparse

from zsljax.data.feature_set import FeatureSet, sha256_of
from zsljax.data.files.features import FeatureFiles
from zsljax.data.files.word_vectors import label_vectors
from zsljax.data.importers.multilabel import hold_out_images, make_multilabel_set
from zsljax.data.importers.published import dataset_name
from zsljax.errors import require


@dataclasses.dataclass(frozen=True)
class Annotations:
  """M images and L labels, as label files have them.

  Attributes:
    where: the files, for messages.
    images: the images' names, ``[M]``, in each of the ways that features may call them.
    first_test: how many of them the training files have; the others follow.
    train: positions of the training images.
    test: positions of the test images.
    labels: ``[M, L]``, as in ``make_multilabel_set``.
    label_names: L distinct names.
    words: what to look up for each label in word vectors.
    seen: ``[L]`` bool.
    published: name of the published split.
    published_labels: its numbers of seen and unseen labels; other numbers make the
      split ``as_given``.
    sources: the files, in groups that are listed as one.
    notes: one sentence each.
  """

  where: str
  images: Sequence[Sequence[str]]
  first_test: int
  train: np.ndarray
  test: np.ndarray
  labels: scipy.sparse.csr_array
  label_names: Sequence[str]
  words: Sequence[str]
  seen: np.ndarray
  published: str
  published_labels: tuple[int, int]
  sources: Sequence[Sequence[pathlib.Path]]
  notes: Sequence[str] = ()


def annotated_set(
  name: str,
  annotations: Annotations,
  features: FeatureFiles,
  word_vectors: pathlib.Path,
  multiword: str,
  unknown: str,
) -> FeatureSet:
  """The set of the annotated images and their features.

  Features are found by the images' names. Files without names must have a row for each
  annotated image, in the order of the label files.

  Args:
    name: of the dataset.
    annotations: what the label files say.
    features: of the images.
    word_vectors: file for ``label_vectors``.
    multiword: see ``label_vectors``.
    unknown: see ``label_vectors``.

  Raises:
    ZsljaxError: something is missing or does not fit together.
  """
  notes = list(annotations.notes)
  first = annotations.images[0]
  both = set(first[: annotations.first_test]) & set(first[annotations.first_test :])
  require(
    not both,
    annotations.where,
    f"{len(both)} images (such as {min(both, default='')!r}) in the training and the "
    "test files",
    "each image in one of them",
  )
  used = np.sort(np.concatenate([annotations.train, annotations.test]))
  if features.image_files is None:
    count = len(annotations.images[0])
    require(
      len(features) == count,
      f"{features.where}: features",
      f"{len(features)} rows without image_files",
      f"{count}, a row for each image of {annotations.where}, in their order",
    )
    counts = [annotations.first_test, count - annotations.first_test]
    require(
      features.counts == counts or features.counts != counts[::-1],
      f"{features.where}: features",
      f"{features.counts[0]} and {features.counts[-1]} rows without image_files",
      f"{counts[0]} and {counts[1]}: the training images first",
    )
    notes.append(
      "The features have no image_files: their rows were taken to be in the order of "
      f"the label files, the first {counts[0]} of them training images."
    )
    rows = used
  else:
    rows = features.rows_of(*([way[i] for i in used] for way in annotations.images))
    if len(features) > len(rows):
      notes.append(
        f"{len(features) - len(rows)} of the {len(features)} images of the features "
        "are not used."
      )
  order = np.argsort(rows)  # Files are read forwards.
  used, rows = used[order], rows[order]

  word_vectors = word_vectors.expanduser()
  found = label_vectors(
    dict.fromkeys(annotations.words), word_vectors, multiword, unknown
  )
  vectors = dict(zip(found.names, found.vectors, strict=True))
  kept = [i for i, word in enumerate(annotations.words) if word in vectors]
  labels = annotations.labels[used][:, kept]
  labels.sort_indices()
  seen = annotations.seen[kept]
  counts = int(seen.sum()), int((~seen).sum())
  as_published = counts == annotations.published_labels
  feature_set = make_multilabel_set(
    name=dataset_name(name),
    features_kind=_kind(features.paths),
    class_embedding=word_vectors.stem,
    split_version=annotations.published if as_published else "as_given",
    features=features.take(rows),
    labels=labels,
    label_names=[annotations.label_names[i] for i in kept],
    vectors=np.stack([vectors[annotations.words[i]] for i in kept]),
    seen=seen,
    trainval=np.flatnonzero(np.isin(used, annotations.train)),
    test=np.flatnonzero(np.isin(used, annotations.test)),
    # The same images, however the features are ordered.
    val=np.flatnonzero(np.isin(used, hold_out_images(annotations.train))),
    where=f"{annotations.where} with {features.where}",
    sources={},
    notes=[*notes, *found.notes],
  )
  # Last, as it reads all of large files.
  others = [[path] for path in (*features.paths, word_vectors)]
  return dataclasses.replace(
    feature_set, sources=_digests([*annotations.sources, *others])
  )


def check_distinct(names: Sequence[str], path: pathlib.Path) -> None:
  """Raises if the file lists one of the names twice."""
  twice = [name for name, count in collections.Counter(names).items() if count > 1]
  require(not twice, str(path), f"{twice[:3]} more than once", "each name once")


def _kind(paths: Sequence[pathlib.Path]) -> str:
  """What the features are called: the words that the files' names share."""
  words = [re.findall(r"[a-z0-9]+", path.stem.lower()) for path in paths]
  shared = [word for word in words[0] if all(word in others for others in words)]
  return "_".join(shared) or "given"


def _digests(groups: Sequence[Sequence[pathlib.Path]]) -> dict[str, str]:
  """SHA-256 of each file by its name, or of those of a group by their folder's."""
  digests = {}
  for paths in groups:
    path, digest = paths[0], sha256_of(paths[0])
    if len(paths) > 1:
      path = path.parent
      digest = hashlib.sha256("".join(map(sha256_of, paths)).encode()).hexdigest()
    name = path.name if path.name not in digests else f"{path.parent.name}/{path.name}"
    digests[name] = digest
  return digests
