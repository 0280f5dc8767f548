"""Importer for NUS-WIDE: Flickr tags seen, the 81 annotated concepts unseen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import hashlib
import os
import pathlib
from types import MappingProxyType

import numpy as np
import scipy.sparse

from zsljax.data.feature_set import FeatureSet, digests
from zsljax.data.files.features import read_features
from zsljax.data.files.text import read_names
from zsljax.data.importers.annotations import annotated_set
from zsljax.data.labels import sparse_labels
from zsljax.errors import require, some
from zsljax.io.checksums import sha256_of
from zsljax.io.progress import task_bar

_PARTS = ("Train", "Test")
_CONCEPTS, _TAGS = "ConceptsList/Concepts81.txt", "NUS_WID_Tags/TagList1k.txt"
_OF_IMAGES = ("ImageList/{}Imagelist.txt", "NUS_WID_Tags/{}_Tags1k.dat")
_GROUND_TRUTH = "Groundtruth/TrainTestLabels/Labels_{}_{}.txt"


def read_nus_wide(
  source: pathlib.Path,
  features: Sequence[pathlib.Path],
  word_vectors: pathlib.Path,
  unknown: str = "refuse",
  name: str = "nus_wide",
  lists: Mapping[str, pathlib.Path] = MappingProxyType({}),
) -> FeatureSet:
  """NUS-WIDE from its official label files and features of its images.

  Seen labels are the tags of ``TagList1k.txt`` that are no concept, as users gave them;
  unseen ones are the concepts, as annotated. Labels not listed count as absent.

  Args:
    source: folder with ``NUS_WID_Tags``, ``ConceptsList``, ``Groundtruth`` and
      ``ImageList`` as published.
    features: files for ``read_features``, with the names of the image lists (their
      folder and extension may be missing).
    word_vectors: file for ``label_vectors``, as is ``unknown``.
    name: of the set.
    lists: see ``annotated_set``.

  Raises:
    ZsljaxError: a file is missing or damaged, or they do not fit together.
  """
  require(source.is_dir(), str(source), "no such folder", "that of NUS-WIDE's files")
  opened = read_features(features, named=True)
  common = [f.format(part) for f in _OF_IMAGES for part in _PARTS]
  paths = _found(source, [_CONCEPTS, _TAGS, *common])
  concepts, tags = (read_names(paths[f], distinct=True) for f in (_CONCEPTS, _TAGS))
  for file, listed in ((_CONCEPTS, concepts), (_TAGS, tags)):
    require(bool(listed), str(paths[file]), "no names", "one a line")
  truths = [_GROUND_TRUTH.format(c, part) for c in concepts for part in _PARTS]
  paths |= _found(source, truths)

  seen_tags = [tag for tag in tags if tag not in set(concepts)]
  seen_ids = {tag: i for i, tag in enumerate(seen_tags)}
  columns = np.array([seen_ids.get(tag, -1) for tag in tags])
  images, labels, counts = [], [], []
  for part in _PARTS:
    image_list, tags_file = (paths[f.format(part)] for f in _OF_IMAGES)
    names = read_names(image_list)
    files = [paths[_GROUND_TRUTH.format(concept, part)] for concept in concepts]
    tagged = _tags(tags_file, columns, len(seen_tags))
    require(
      tagged.shape[0] == len(names),
      str(tags_file),
      f"{tagged.shape[0]} rows",
      f"{len(names)}, one for each image of {image_list}",
    )
    truth = [_digits(f, f.read_bytes(), len(names), "lines") for f in files]
    annotated = scipy.sparse.csr_array(np.stack(truth, 1).astype(np.int8))
    labels.append(scipy.sparse.hstack([tagged, annotated], "csr"))
    images += names
    counts.append(len(names))

  label_names = seen_tags + concepts
  truth_digests = "".join(sha256_of(paths[f]) for f in truths)
  return annotated_set(
    name,
    opened,
    word_vectors,
    unknown,
    where=str(source),
    images=[images],
    train=np.arange(counts[0]),
    test=np.arange(counts[0], len(images)),
    labels=scipy.sparse.vstack(labels, "csr"),
    label_names=label_names,
    words=label_names,
    seen=np.arange(len(label_names)) < len(seen_tags),
    published="nus-925-81",
    published_labels=(925, 81),
    sources={
      **digests(*(paths[f] for f in (_CONCEPTS, _TAGS, *common))),
      "TrainTestLabels": hashlib.sha256(truth_digests.encode()).hexdigest(),
    },
    lists=lists,
  )


def _found(source: pathlib.Path, names: Sequence[str]) -> dict[str, pathlib.Path]:
  """Paths of the files, all of which are there."""
  paths = {name: source / name for name in names}
  missing = [name for name, path in paths.items() if not os.path.isfile(path)]
  require(
    not missing,
    str(source),
    f"no {some(missing)}",
    "NUS-WIDE's files in their folders",
  )
  return paths


def _tags(
  path: pathlib.Path, columns: np.ndarray, num_labels: int
) -> scipy.sparse.csr_array:
  """Labels ``[N, num_labels]``; ``columns`` has the label of each column, or -1."""
  present = []
  size = path.stat().st_size
  with path.open("rb") as file, task_bar(size, f"reading {path.name}", "B") as bar:
    for number, line in enumerate(file, 1):
      bar.update(len(line))
      if line.strip():
        ones = _digits(f"{path}: line {number}", line, len(columns), "columns")
        ids = columns[ones]
        present.append(ids[ids >= 0])
  require(bool(present), str(path), "no lines", "one for each image")
  return sparse_labels(present, num_labels)


def _digits(where: object, content: bytes, count: int, of_what: str) -> np.ndarray:
  """Marks the 1s among the ``count`` numbers in ``content``, each 0 or 1."""
  digits = np.frombuffer(content.translate(None, b" \t\r\n"), np.uint8)
  ones = digits == ord("1")
  others = int((~ones & (digits != ord("0"))).sum())
  require(
    len(digits) == count and not others,
    str(where),
    f"{len(digits)} digits, {others} of them not 0 or 1",
    f"{count} {of_what} of 0 or 1",
  )
  return ones
