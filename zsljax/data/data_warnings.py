"""Oddities of a stored dataset: allowed, but worth knowing before training."""

from __future__ import annotations

from collections.abc import Iterator
import hashlib

import numpy as np

from zsljax.classes import ClassSpace
from zsljax.data.pipeline import evaluation_batches
from zsljax.data.store import StoredDataset
from zsljax.errors import counted, some

_ALIKE = 0.999
_FEW = 5
_UNEVEN = 10
_BATCH = 256


def data_warnings(dataset: StoredDataset) -> list[str]:
  """Returns a sentence for each oddity; reads all features once."""
  return [
    *_of_classes(dataset.classes),
    *(() if dataset.multi_label else _of_counts(dataset)),
    *_of_features(dataset),
  ]


def _of_classes(classes: ClassSpace) -> Iterator[str]:
  """Warns of classes and attributes that say too little."""
  embeddings = np.asarray(classes.embeddings, np.float64)
  lengths = np.linalg.norm(embeddings, axis=1)
  if (zero := np.flatnonzero(lengths == 0)).size:
    yield f"Classes described by nothing but zeros: {_named(classes, zero)}."
  units = embeddings / np.maximum(lengths, 1e-300)[:, None]
  pairs = np.argwhere(np.triu(units @ units.T > _ALIKE, 1))
  if len(pairs):
    first = " and ".join(classes.names[i] for i in pairs[0])
    yield (
      f"{counted(len(pairs), 'pair of classes has', 'pairs of classes have')} almost "
      f"the same description (cosine above {_ALIKE}; the first: {first}): no system "
      "can tell them apart."
    )
  attributes = classes.attributes
  seen = np.asarray(classes.seen)
  for of, rows in (("all classes", embeddings), ("seen classes", embeddings[seen])):
    same = np.flatnonzero(np.ptp(rows, axis=0) == 0)
    if same.size:
      yield (
        f"{counted(same.size, 'attribute is', 'attributes are')} the same for {of}, "
        "which says nothing of them: "
        f"{some([attributes[i] for i in same])}."
      )
      break


def _of_counts(dataset: StoredDataset) -> Iterator[str]:
  """Warns of classes with few images, and of very uneven numbers of them."""
  classes = dataset.classes
  for splits, of, wanted in (
    (("train", "val"), "training", np.asarray(classes.seen)),
    (dataset.test_splits, "test", np.ones(len(classes), bool)),
  ):
    labels = dataset.labels(splits)
    counts = np.array([np.sum(labels == i) for i in classes.ids])
    if (few := np.flatnonzero(wanted & (counts > 0) & (counts < _FEW))).size:
      yield f"Classes with fewer than {_FEW} {of} images: {_named(classes, few)}."
    counts = counts[counts > 0]
    if of == "training" and counts.max() > _UNEVEN * counts.min():
      yield (
        f"Seen classes have from {counts.min()} to {counts.max()} training images: "
        "class_balanced sampling (config.data.sampling) evens them."
      )


def _of_features(dataset: StoredDataset) -> Iterator[str]:
  """Warns of doubles, dead dimensions, and lengths that differ much."""
  places: dict[bytes, tuple[str, list[int]]] = {}
  across = contradicting = doubles = 0
  lengths, low, high = [], None, None
  for split in dataset.splits:
    for batch in evaluation_batches(dataset, (split,), _BATCH):
      rows = batch["features"][batch["mask"]].astype(np.float32)
      rows = rows.reshape(len(rows), -1, rows.shape[-1])
      lengths.append(np.linalg.norm(rows.mean(1), axis=1))
      flat = rows.reshape(-1, rows.shape[-1])
      low = flat.min(0) if low is None else np.minimum(low, flat.min(0))
      high = flat.max(0) if high is None else np.maximum(high, flat.max(0))
      for row, label in zip(rows, batch["labels"][batch["mask"]], strict=True):
        own = split.startswith("test"), np.atleast_1d(label).tolist()
        first = places.setdefault(hashlib.sha256(row).digest(), own)
        if first is not own:
          doubles += 1
          across += first[0] != own[0]
          contradicting += first[1] != own[1]
  if doubles:
    yield (
      f"{counted(doubles, 'image has', 'images have')} the very features of another: "
      f"{across} of them a test image those of a training image, {contradicting} with "
      "another label."
    )
  if (dead := np.flatnonzero(low == high)).size:
    yield f"{dead.size} of {len(low)} feature dimensions never change."
  lengths = np.concatenate(lengths)
  if lengths.max() > _UNEVEN * max(np.median(lengths), 1e-30):
    yield (
      f"Feature vectors differ in length: median {np.median(lengths):.3g}, largest "
      f"{lengths.max():.3g}."
    )


def _named(classes: ClassSpace, places: np.ndarray) -> str:
  """Returns the number of some classes, and the first of their names."""
  return f"{len(places)} ({some([classes.names[i] for i in places])})"
