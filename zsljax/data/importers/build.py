"""A dataset of one's own: images in folders or a CSV, features, class descriptions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import pathlib
import re
import unicodedata

import numpy as np

from zsljax.data.feature_set import FeatureSet, blocks, digests, make_feature_set
from zsljax.data.files.class_table import ClassTable, read_class_table
from zsljax.data.files.features import finite_rows, read_features
from zsljax.data.files.images import list_images
from zsljax.data.files.text import read_csv, read_names
from zsljax.data.files.word_vectors import label_vectors
from zsljax.data.importers.published import dataset_name
from zsljax.data.semantics import sources_of
from zsljax.errors import ZsljaxError, counted, did_you_mean, require, some

GIVEN_SPLITS = ("trainval", "test_seen", "test_unseen")
# The proposed split: shares of the classes, and of each seen class's images.
_UNSEEN, _TEST = 0.2, 0.2


@dataclasses.dataclass(frozen=True)
class LabelledImages:
  """N images and their classes, before their features are looked up.

  Attributes:
    where: the folder or file that was read.
    names: file names, relative, with slashes.
    classes: the name of each one's class.
    splits: the split of each one, of ``GIVEN_SPLITS``; None where it is to be proposed.
    left_out: lines that could not be used, with the reasons.
  """

  where: str
  names: tuple[str, ...]
  classes: tuple[str, ...]
  splits: tuple[str, ...] | None = None
  left_out: tuple[str, ...] = ()

  def take(self, rows: Iterable[int]) -> LabelledImages:
    """Selects ``rows``, in that order."""
    rows = list(rows)
    return dataclasses.replace(
      self,
      names=tuple(self.names[i] for i in rows),
      classes=tuple(self.classes[i] for i in rows),
      splits=self.splits and tuple(self.splits[i] for i in rows),
    )


def images_in(folder: pathlib.Path) -> LabelledImages:
  """The images below ``folder``; each is of the class that its own folder is called.

  Raises:
    ZsljaxError: there are none, or one lies in no folder of a class.
  """
  names = list_images(folder)
  loose = next((name for name in names if "/" not in name), "")
  require(
    not loose,
    f"{folder}/{loose}",
    "an image outside the folders of classes",
    f"{folder}/<class>/{loose}",
  )
  classes = tuple(name.split("/")[-2] for name in names)
  return LabelledImages(str(folder), tuple(names), classes)


def read_labels(path: pathlib.Path, skip_bad: bool = False) -> LabelledImages:
  """Images and their classes from a CSV file ``image,class`` or ``image,class,split``.

  Args:
    path: the file.
    skip_bad: leave out lines that are short, name an image again, or a split that is
      none of ``GIVEN_SPLITS``; else they are an error.

  Raises:
    ZsljaxError: it is no such file, or a line cannot be used.
  """
  lines = [[cell.strip() for cell in line] for line in read_csv(path)]
  header = [cell.lower() for cell in lines[0]] if lines else []
  require(
    header in (["image", "class"], ["image", "class", "split"]),
    f"{path}: line 1",
    repr(",".join(header)[:60]),
    "the header image,class or image,class,split",
  )
  good: dict[str, list[str]] = {}
  bad: list[str] = []
  for number, line in enumerate(lines[1:], 2):
    if not any(line):
      continue
    problem = ""
    if len(line) != len(header) or not all(line):
      problem = f"found {','.join(line)!r}, expected {','.join(header)}"
    elif line[0] in good:
      problem = f"found the image {line[0]!r} again, expected each once"
    elif len(line) == 3 and line[2] not in GIVEN_SPLITS:
      problem = f"found split {line[2]!r}, expected one of {', '.join(GIVEN_SPLITS)}"
    if problem:
      bad.append(f"line {number}: {problem}")
    else:
      good[line[0]] = line
  if bad and not skip_bad:
    raise ZsljaxError(f"{path}: {bad[0]} ({counted(len(bad), 'such line')})")
  require(len(good) > 0, str(path), "no images", "a line for each image")
  return LabelledImages(
    str(path), *zip(*good.values(), strict=True), left_out=tuple(bad)
  )


def build_set(
  images: LabelledImages,
  feature_files: Sequence[pathlib.Path],
  class_file: pathlib.Path,
  name: str,
  *,
  unseen: pathlib.Path | None = None,
  validation: pathlib.Path | None = None,
  word_vectors: pathlib.Path | None = None,
  unknown: str = "refuse",
  seed: int = 0,
  skip_bad: bool = False,
) -> tuple[FeatureSet, list[str]]:
  """Puts images, features and descriptions together, and proposes missing splits.

  Where ``images`` has no splits and ``unseen`` is not given, a fifth of the classes is
  drawn to be unseen; a fifth of each seen class's images is held out for testing, and
  a fifth of the seen classes for validation.

  Args:
    images: names and classes.
    feature_files: see ``read_features``; rows are found by the images' names.
    class_file: see ``read_class_table``.
    name: of the dataset.
    unseen: text file, one unseen class a line.
    validation: text file, one validation class a line.
    word_vectors: a file with a vector for each attribute's name.
    unknown: see ``label_vectors``.
    seed: of all that is drawn.
    skip_bad: leave out classes and images that cannot be used; else they are an error.

  Returns:
    The set, and the images and classes that were left out, with the reasons.

  Raises:
    ZsljaxError: something is missing, or does not fit together.
  """
  require(seed >= 0, "--seed", seed, "0 or more")
  notes: list[str] = []
  table = read_class_table(class_file, skip_bad)
  features = read_features(feature_files, named=True)
  files = [class_file, *feature_files, unseen, validation, word_vectors]
  files.append(pathlib.Path(images.where))
  left_out = [*table.left_out, *images.left_out]
  rows = features.rows_of(images.names, partial=skip_bad)
  left_out += [f"{images.names[i]}: no features" for i in np.flatnonzero(rows < 0)]
  images, rows = images.take(np.flatnonzero(rows >= 0)), rows[rows >= 0]
  images, rows = _with_known_classes(images, rows, table, skip_bad, left_out)
  order = np.argsort(rows, kind="stable")  # Files are best read forwards.
  images, rows = images.take(order), rows[order]
  finite = np.concatenate([finite_rows(part) for part in blocks(features.take(rows))])
  bad = [f"{images.names[i]}: features not finite" for i in np.flatnonzero(~finite)]
  require(
    skip_bad or not bad,
    f"{features.where}: {bad[0] if bad else ''}",
    counted(len(bad), "such image"),
    "finite numbers (--skip_bad leaves them out)",
  )
  left_out += bad
  images, features = images.take(np.flatnonzero(finite)), features.take(rows[finite])
  require(len(features) > 0, features.where, "no usable features of any image", "some")
  present = set(images.classes)
  described = [i for i, known in enumerate(table.names) if known in present]
  if absent := [c for c in table.names if c not in present]:
    notes.append(
      f"Left out, {counted(len(absent), 'class', 'classes')} without an image: "
      f"{some(absent)}. `predict` takes descriptions without images."
    )
  names = tuple(table.names[i] for i in described)
  labels = np.array([names.index(c) for c in images.classes])
  splits = _splits(images, labels, names, unseen, seed, notes)
  encoder = features.encoder
  feature_set = make_feature_set(
    name=dataset_name(name),
    features_kind=dataset_name(
      f"{encoder['network']}_{encoder['output']}_{encoder['size']}"
      if encoder
      else features.paths[0].stem
    ),
    class_embedding=dataset_name(class_file.stem),
    split_version="as_given" if images.splits else f"proposed_{seed}",
    features=features,
    labels=labels,
    class_names=names,
    embeddings=table.values[described],
    attribute_names=table.named_attributes,
    attribute_vectors=_vectors(table, word_vectors, unknown, notes),
    validation_classes=validation and _ids(validation, names),
    where=images.where,
    split_seed=seed,
    notes=notes,
    image_files=np.array(images.names, np.str_),
    encoder=encoder,
    sources=sources_of(class_file)
    | digests(*(path for path in files if path and path.is_file())),
    **splits,
  )
  return feature_set, left_out


def _with_known_classes(
  images: LabelledImages,
  rows: np.ndarray,
  table: ClassTable,
  skip_bad: bool,
  left_out: list[str],
) -> tuple[LabelledImages, np.ndarray]:
  """The images of described classes, called as in the table, and their rows."""
  folded: dict[str, str] = {}
  for name in table.names:
    other = folded.setdefault(_folded(name), name)
    expected = "names that differ in more than case and spaces"
    require(
      other == name, f"{table.path}: classes", f"{other!r} and {name!r}", expected
    )
  known = {c: folded.get(_folded(c)) for c in sorted(set(images.classes))}
  unknown = [c for c, found in known.items() if found is None]
  if unknown and not skip_bad:
    raise ZsljaxError(
      f"{images.where}: found {counted(len(unknown), 'class', 'classes')} (first "
      f"{unknown[0]!r}) that {table.path} does not describe, expected all. "
      f"{did_you_mean(unknown[0], table.names)} --skip_bad leaves their images out."
    )
  left_out += [
    f"{name}: its class {c!r} is not described"
    for name, c in zip(images.names, images.classes, strict=True)
    if known[c] is None
  ]
  kept = [i for i, c in enumerate(images.classes) if known[c]]
  require(len(kept) > 0, images.where, "no image of a described class", "some")
  images = images.take(kept)
  classes = tuple(known[c] for c in images.classes)
  return dataclasses.replace(images, classes=classes), rows[kept]


def _splits(
  images: LabelledImages,
  labels: np.ndarray,
  names: Sequence[str],
  unseen: pathlib.Path | None,
  seed: int,
  notes: list[str],
) -> Mapping[str, np.ndarray]:
  """Rows of the images of each split."""
  if images.splits:
    require(
      unseen is None,
      str(unseen),
      f"unseen classes beside the splits of {images.where}",
      "one of both",
    )
    given = np.array(images.splits)
    return {split: np.flatnonzero(given == split) for split in GIVEN_SPLITS}
  rng = np.random.default_rng(seed)
  if unseen is None:
    require(
      len(names) >= 3,
      images.where,
      counted(len(names), "class", "classes"),
      "at least 3, of which one can be unseen",
    )
    number = max(1, round(_UNSEEN * len(names)))
    chosen = np.sort(rng.choice(len(names), number, replace=False))
    notes.append(
      f"The split was proposed: {number} of {len(names)} classes unseen, and a fifth "
      f"of each seen class's images for testing, drawn with seed {seed}."
    )
  else:
    chosen = _ids(unseen, names)
  held_out = []
  for label in np.setdiff1d(labels, chosen):
    rows = np.flatnonzero(labels == label)
    number = min(max(1, round(_TEST * len(rows))), len(rows) - 1)
    held_out.append(rng.choice(rows, number, replace=False))
  require(len(held_out) > 0, str(unseen), "no class that is seen", "two at least")
  is_unseen = np.isin(labels, chosen)
  test_seen = np.sort(np.concatenate(held_out))
  return {
    "trainval": np.setdiff1d(np.flatnonzero(~is_unseen), test_seen),
    "test_seen": test_seen,
    "test_unseen": np.flatnonzero(is_unseen),
  }


def _ids(path: pathlib.Path, names: Sequence[str]) -> list[int]:
  """Positions in ``names`` of the classes that a text file lists."""
  listed = read_names(path)
  require(len(listed) > 0, str(path), "no names", "one class a line")
  folded = {_folded(name): i for i, name in enumerate(names)}
  for name in listed:
    if _folded(name) not in folded:
      raise ZsljaxError(
        f"{path}: found {name!r}, expected a class with images. "
        f"{did_you_mean(name, names)}"
      )
  return sorted({folded[_folded(name)] for name in listed})


def _vectors(
  table: ClassTable, path: pathlib.Path | None, unknown: str, notes: list[str]
) -> np.ndarray | None:
  """Word vectors of the attributes, ``[A, V]``."""
  if path is None:
    notes.append(
      "The attributes have no word vectors (--word_vectors): msdn, which learns from "
      "them, refuses this set."
    )
    return None
  found = label_vectors(table.attributes, path, unknown)
  notes += [note.replace("Labels", "Attributes", 1) for note in found.notes]
  missing = [a for a in table.attributes if a not in set(found.names)]
  found_none = f"no vector for {some(missing)}"
  expected = f"one for each attribute, or no such columns in {table.path}"
  require(not missing, str(path), found_none, expected)
  return found.vectors


def _folded(name: str) -> str:
  """``name`` without case, and with one space for whatever separates its words."""
  name = unicodedata.normalize("NFC", name)
  return re.sub(r"[\s_\-]+", " ", name).strip().casefold()
