"""Importer for multi-label sets in one .npz file."""

from __future__ import annotations

from collections.abc import Mapping
import pathlib

import numpy as np
import scipy.sparse

from zsljax.data.feature_set import FeatureSet, digests
from zsljax.data.files.text import check_distinct, quoted, read_names
from zsljax.data.files.word_vectors import label_vectors
from zsljax.data.importers.annotations import make_multilabel_set
from zsljax.data.labels import ABSENT, PRESENT
from zsljax.errors import ZsljaxError, require
from zsljax.io.arrays import as_floats, check_array, check_field, read_arrays


def read_multilabel(
  source: pathlib.Path,
  name: str | None = None,
  unseen: pathlib.Path | None = None,
  word_vectors: pathlib.Path | None = None,
  unknown: str = "refuse",
) -> FeatureSet:
  """A multi-label set from one ``.npz`` file.

  It holds ``X_train [N, D]`` (or ``[N, R, D]``), ``Y_train [N, L]`` of 1, 0 and -1,
  the same for test, and the names ``labels [L]``. The labels' vectors are
  ``vectors [L, V]``; or a pair ``labels_with_NAME`` and ``NAME300`` (any number), of
  which the first lists the labels that are used; or they come from a file.

  Args:
    source: the file.
    name: of the dataset; the file's when None.
    unseen: text file, one unseen label a line. Without it the file's field
      ``unseen`` says them, or else every fifth label in alphabetical order is unseen.
    word_vectors: file for ``label_vectors``, in place of the file's own.
    unknown: see ``label_vectors``.

  Raises:
    ZsljaxError: something is missing or does not fit together.
  """
  arrays = read_arrays(
    source, ("X_train", "Y_train", "X_test", "Y_test", "labels"), endings=(".npz",)
  )
  all_names = check_field(source, arrays, "labels", "L", "text").tolist()
  check_distinct(all_names, f"{source}: labels")
  x_train = check_field(source, arrays, "X_train", "N D or N R D")
  width = " ".join(map(str, x_train.shape[1:]))
  x_test = check_field(source, arrays, "X_test", f"N {width}", hint=" as in X_train")
  y_train, y_test = (
    check_array(
      f"{source}: {field}",
      1 * arrays[field] if arrays[field].dtype == bool else arrays[field],
      f"{len(x)} {len(all_names)}",
      "whole",
      lowest=ABSENT,
      highest=PRESENT,
      hint=f": a row for each of {field.replace('Y', 'X')}, a column for each label, 1 "
      "present, -1 annotated as absent",
    )
    for field, x in (("Y_train", x_train), ("Y_test", x_test))
  )
  notes = []
  if word_vectors is not None:
    found = label_vectors(all_names, word_vectors, unknown)
    names, vectors, embedding = list(found.names), found.vectors, word_vectors.stem
    notes += found.notes
  else:
    names, vectors, embedding = _own_vectors(source, arrays, all_names)
    if left_out := sorted(set(all_names) - set(names)):
      notes.append(
        f"{len(left_out)} of {len(all_names)} labels have no vector and are left out: "
        f"{', '.join(left_out)}."
      )
  columns = [all_names.index(label) for label in names]
  labels = np.concatenate([y_train, y_test])[:, columns]
  features = np.concatenate([x_train, x_test])
  hidden, split_version = _unseen(source, arrays, names, unseen)
  files = [path for path in (source, word_vectors, unseen) if path]
  return make_multilabel_set(
    name=name or source.stem,
    features_kind="given",
    class_embedding=embedding,
    split_version=split_version,
    features=as_floats(f"{source}: X_train and X_test", features),
    labels=scipy.sparse.csr_array(labels.astype(np.int8)),
    label_names=names,
    vectors=vectors,
    seen=~np.isin(names, hidden),
    trainval=np.arange(len(x_train)),
    test=np.arange(len(x_train), len(labels)),
    where=str(source),
    sources=digests(*files),
    notes=notes,
  )


def _own_vectors(
  source: pathlib.Path, arrays: Mapping[str, np.ndarray], all_names: list[str]
) -> tuple[list[str], np.ndarray, str]:
  """Names, vectors and the vectors' kind, from the fields of the file."""
  names, fields = all_names, [field for field in arrays if field == "vectors"]
  listed = [field for field in arrays if field.startswith("labels_with_")]
  if not fields and len(listed) == 1:
    kind = listed[0].removeprefix("labels_with_")
    fields = [f for f in arrays if f.startswith(kind) and f[len(kind) :].isdigit()]
    names = check_field(source, arrays, listed[0], "L", "text").tolist()
    strangers = sorted(set(names) - set(all_names))
    where = f"{source}: {listed[0]}"
    require(not strangers, where, quoted(strangers), "names that are in `labels`")
  if len(fields) != 1:
    raise ZsljaxError(
      f"{source}: found no vectors of the labels, expected a field `vectors` [L, V], a "
      "pair like `labels_with_glove` and `glove300`, or --word_vectors=FILE"
    )
  return names, check_field(source, arrays, fields[0], f"{len(names)} V"), fields[0]


def _unseen(
  source: pathlib.Path,
  arrays: Mapping[str, np.ndarray],
  names: list[str],
  path: pathlib.Path | None,
) -> tuple[list[str], str]:
  """The unseen labels, and the name of the split."""
  if path is not None:
    where, unseen = str(path), read_names(path)
  elif "unseen" in arrays:
    where = f"{source}: unseen"
    unseen = check_field(source, arrays, "unseen", "L", "text").tolist()
  else:
    return sorted(names)[4::5], "every_fifth"
  strangers = sorted(set(unseen) - set(names))
  expected = "labels of the set that have a vector"
  require(not strangers, where, quoted(strangers), expected)
  return unseen, "as_given"
