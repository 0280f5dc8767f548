"""Multi-label sets: checked, cut into splits, and read from .npz files."""

from __future__ import annotations

from collections.abc import Sequence
import pathlib

import numpy as np
import scipy.sparse

from zsljax.classes import ClassSpace
from zsljax.data.feature_set import (
  FeatureSet,
  Rows,
  check_rows,
  classes_of,
  draw_classes,
  finished,
  sha256_of,
)
from zsljax.data.files.word_vectors import label_vectors
from zsljax.data.labels import ABSENT, PRESENT
from zsljax.errors import ZsljaxError, did_you_mean, require, some

_NEEDED = ("X_train", "Y_train", "X_test", "Y_test", "labels")


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

  Args:
    features: ``[N, D]`` or ``[N, R, D]``.
    labels: ``[N, L]``, 1 present, -1 annotated as absent. Where nothing is -1, what is
      not present counts as absent.
    label_names: L distinct names.
    vectors: of the labels, ``[L, V]``.
    seen: ``[L]`` bool.
    trainval: row numbers (0-based) of the training images.
    test: row numbers of the test images.
    where: the file or files, for messages.
    val: rows of trainval to hold out; a seeded fifth when None.
    validation_classes: ids to hold out in ``val``; a seeded fifth of the seen ones
      when None.
    split_seed: of what is drawn.
    attribute_names: V names, or none.
    notes: remarks of the importer.
    **described: the remaining fields of ``FeatureSet``.

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
  require(
    bool((labels[trainval] == PRESENT)[:, seen].nnz),
    f"{where}: labels of the training images",
    "no seen label present",
    "some",
  )
  require(
    bool((labels[test] == PRESENT).nnz),
    f"{where}: labels of the test images",
    "no label present",
    "some",
  )
  classes = classes_of(
    where, label_names, vectors, seen=seen, attribute_names=attribute_names
  )
  if validation_classes is None:
    validation_classes = draw_classes(np.flatnonzero(seen), split_seed)
    notes.append(
      f"{len(validation_classes)} seen labels were drawn for validation with seed "
      f"{split_seed}."
    )
  strangers = [label_names[i] for i in validation_classes if not seen[i]]
  require(
    not strangers,
    f"{where}: validation labels",
    f"{strangers[:3]}, unseen",
    "validation labels to be seen ones",
  )
  require(
    len(validation_classes) < seen.sum(),
    f"{where}: validation labels",
    "all seen labels",
    "at least one seen label to train on",
  )
  if val is None:
    val = hold_out_images(trainval, split_seed)
  splits = {"train": np.setdiff1d(trainval, val), "val": val, "test": test}
  check_rows(splits, count, where)
  notes += _oddities(labels, classes, trainval, test)
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


def _oddities(
  labels: scipy.sparse.csr_array,
  classes: ClassSpace,
  trainval: np.ndarray,
  test: np.ndarray,
) -> list[str]:
  """What is allowed but should be known."""
  present = labels == PRESENT
  seen, notes = np.asarray(classes.seen), []

  def note(odd: np.ndarray, of: str, what: str) -> None:
    if odd.any():
      names = some([classes.names[i] for i in np.flatnonzero(odd)])
      notes.append(f"{odd.sum()} {of} labels have {what}: {names}.")

  note(seen & (present[trainval].sum(0) == 0), "seen", "no training image")
  note(~seen & (present[test].sum(0) == 0), "unseen", "no test image (their AP is 0)")
  note(~np.any(classes.embeddings, 1), "of the", "a vector of zeros")
  bare = int((present[trainval][:, seen].sum(1) == 0).sum())
  if bare:
    notes.append(
      f"{bare} training images have no seen label; training passes over them."
    )
  return notes


def read_multilabel(
  source: pathlib.Path,
  name: str | None = None,
  unseen: pathlib.Path | None = None,
  word_vectors: pathlib.Path | None = None,
  multiword: str = "mean",
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
    multiword: see ``label_vectors``.
    unknown: see ``label_vectors``.

  Raises:
    ZsljaxError: something is missing or does not fit together.
  """
  source = source.expanduser()
  unseen = unseen and unseen.expanduser()
  word_vectors = word_vectors and word_vectors.expanduser()
  arrays = _arrays(source)
  x_train, x_test = (_features(source, arrays, f"X_{s}") for s in ("train", "test"))
  y_train, y_test = (_labels(source, arrays, f"Y_{s}") for s in ("train", "test"))
  for split, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
    require(
      len(x) == len(y),
      f"{source}: Y_{split}",
      f"{len(y)} rows",
      f"{len(x)}, the rows of X_{split}",
    )
    require(
      y.shape[1:] == (len(arrays["labels"]),),
      f"{source}: Y_{split}",
      f"shape {y.shape}",
      f"[N, {len(arrays['labels'])}], a column for each name in `labels`",
    )
  require(
    x_train.shape[1:] == x_test.shape[1:],
    f"{source}: X_test",
    f"images of shape {x_test.shape[1:]}",
    f"{x_train.shape[1:]} as in X_train",
  )
  all_names = arrays["labels"].tolist()
  column_of = {label: column for column, label in enumerate(all_names)}
  twice = [label for i, label in enumerate(all_names) if column_of[label] != i]
  require(not twice, f"{source}: labels", f"{twice[:1]} twice", "distinct names")
  notes = []
  if word_vectors is not None:
    found = label_vectors(all_names, word_vectors, multiword, unknown)
    names, vectors, embedding = list(found.names), found.vectors, word_vectors.stem
    notes += found.notes
  else:
    names, vectors, embedding = _own_vectors(source, arrays, all_names)
  left_out = sorted(set(all_names) - set(names))
  if left_out:
    notes.append(
      f"{len(left_out)} of {len(all_names)} labels have no vector and are left out: "
      f"{', '.join(left_out)}."
    )
  columns = [column_of[label] for label in names]
  labels = np.concatenate([y_train, y_test])[:, columns]
  hidden, split_version = _unseen(source, arrays, names, unseen)
  first_test = len(x_train)
  files = [file for file in (source, word_vectors, unseen) if file is not None]
  return make_multilabel_set(
    name=name or source.stem,
    features_kind="given",
    class_embedding=embedding,
    split_version=split_version,
    features=_floating(np.concatenate([x_train, x_test])),
    labels=scipy.sparse.csr_array(labels.astype(np.int8)),
    label_names=names,
    vectors=vectors,
    seen=~np.isin(names, hidden),
    trainval=np.arange(first_test),
    test=np.arange(first_test, len(labels)),
    where=str(source),
    sources={file.name: sha256_of(file) for file in files},
    notes=notes,
  )


def _arrays(source: pathlib.Path) -> dict[str, np.ndarray]:
  require(source.is_file(), str(source), "no such file", "a .npz file")
  try:
    with source.open("rb") as file, np.load(file, allow_pickle=False) as stored:
      arrays = {name: stored[name] for name in stored.files}
  except Exception as error:  # Zip, zlib and NumPy have each their own.
    reason = str(error)
    if "allow_pickle" in reason:
      reason = "it, or an array in it, is made of Python objects"
    raise ZsljaxError(
      f"{source}: not readable ({reason}), expected a .npz file of arrays of numbers, "
      "and of names with dtype=str"
    ) from error
  for name in _NEEDED:
    if name not in arrays:
      raise ZsljaxError(f"{source}: no field {name!r}. {did_you_mean(name, arrays)}")
  for name in arrays:
    if name in ("labels", "unseen") or name.startswith("labels_with_"):
      arrays[name] = _texts(source, name, arrays[name])
  return arrays


def _texts(source: pathlib.Path, name: str, array: np.ndarray) -> np.ndarray:
  require(
    array.ndim == 1 and array.dtype.kind in "US" or not array.size,
    f"{source}: {name}",
    f"{array.dtype} of shape {array.shape}",
    "a row of names",
  )
  return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


def _labels(source: pathlib.Path, arrays: dict, name: str) -> np.ndarray:
  array = arrays[name]
  strange = array[~np.isin(array, (PRESENT, 0, ABSENT))]
  require(
    not strange.size,
    f"{source}: {name}",
    f"{strange[:1]} at {strange.size} places",
    "1 (present), -1 (annotated as absent) and 0",
  )
  return _numbers(source, arrays, name, (2,), "[N, L]")


def _features(source: pathlib.Path, arrays: dict, name: str) -> np.ndarray:
  return _numbers(source, arrays, name, (2, 3), "[N, D] or [N, R, D]")


def _numbers(
  source: pathlib.Path, arrays: dict, name: str, ranks: tuple[int, ...], shape: str
) -> np.ndarray:
  array = arrays[name]
  require(
    array.ndim in ranks and array.dtype.kind in "biuf",
    f"{source}: {name}",
    f"{array.dtype} of shape {array.shape}",
    f"numbers {shape}",
  )
  return array


def _floating(features: np.ndarray) -> np.ndarray:
  return features if features.dtype.kind == "f" else features.astype(np.float32)


def _own_vectors(
  source: pathlib.Path, arrays: dict, all_names: list[str]
) -> tuple[list[str], np.ndarray, str]:
  """Names, vectors and the vectors' kind, from the fields of the file."""
  if "vectors" in arrays:
    return all_names, _vectors(source, arrays, "vectors"), "vectors"
  listed = [field for field in arrays if field.startswith("labels_with_")]
  if len(listed) == 1:
    kind = listed[0].removeprefix("labels_with_")
    fields = [f for f in arrays if f.startswith(kind) and f[len(kind) :].isdigit()]
    if len(fields) == 1:
      names = arrays[listed[0]].tolist()
      strangers = sorted(set(names) - set(all_names))
      require(
        not strangers,
        f"{source}: {listed[0]}",
        f"{strangers[:3]}",
        "names that are in `labels`",
      )
      return names, _vectors(source, arrays, fields[0]), fields[0]
  raise ZsljaxError(
    f"{source}: found no vectors of the labels, expected a field `vectors` [L, V], a "
    "pair like `labels_with_glove` and `glove300`, or --word_vectors=FILE"
  )


def _vectors(source: pathlib.Path, arrays: dict, name: str) -> np.ndarray:
  require(
    arrays[name].dtype.kind in "iuf",
    f"{source}: {name}",
    arrays[name].dtype,
    "numbers [L, V]",
  )
  return arrays[name]


def _unseen(
  source: pathlib.Path, arrays: dict, names: list[str], file: pathlib.Path | None
) -> tuple[list[str], str]:
  """The unseen labels, and what the split is called."""
  if file is not None:
    unseen, version, where = read_names(file), "as_given", str(file)
  elif "unseen" in arrays:
    unseen = arrays["unseen"].tolist()
    version, where = "as_given", f"{source}: unseen"
  else:
    return sorted(names)[4::5], "every_fifth"
  strangers = sorted(set(unseen) - set(names))
  require(
    not strangers,
    where,
    f"{', '.join(map(repr, strangers[:3]))}",
    "labels of the set that have a vector",
  )
  return unseen, version


def read_names(file: pathlib.Path) -> list[str]:
  """The lines of a text file, without those that are empty."""
  require(file.is_file(), str(file), "no such file", "a text file, one name a line")
  try:
    lines = file.read_text("utf-8-sig").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise ZsljaxError(
      f"{file}: not readable ({error}), expected a text file, one name a line"
    ) from error
  return [line.strip() for line in lines if line.strip()]
