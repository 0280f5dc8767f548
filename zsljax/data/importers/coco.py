"""Importer for COCO with 48 seen and 17 unseen classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import pathlib
from types import MappingProxyType

import numpy as np

from zsljax.data.feature_set import FeatureSet, digests
from zsljax.data.files.features import read_features
from zsljax.data.importers.annotations import annotated_set
from zsljax.data.labels import sparse_labels
from zsljax.errors import require
from zsljax.io.checks import readable, require_file

SEEN = (
  "person bicycle car motorcycle truck boat bench bird horse sheep zebra giraffe "
  "backpack handbag skis kite surfboard bottle spoon bowl banana apple orange broccoli "
  "carrot pizza donut chair bed tv laptop remote microwave oven refrigerator book "
  "clock vase toothbrush train bear suitcase frisbee fork sandwich toilet mouse toaster"
).split()
UNSEEN = (
  "airplane bus cat dog cow elephant umbrella tie snowboard skateboard cup knife cake "
  "couch keyboard sink scissors"
).split()
_VAL2014 = 40_504  # Images.
# Released lists of test images, by the SHA-256 of their sorted ids of 12 digits: 6,392
# images with 2.5702 labels each, and the 2,729 of them that have unseen labels, 1.2074
# of those each.
_RELEASED = {
  "70e2ea1cbb2cbf2fbf4aaf47b02ee8b2327152f6dbf32d84cba99bed1a830dfc": (
    "coco-48-17-lists"
  ),
  "0f6276e6ee28875e70e966c1e3cbdfa0aca8b12092dc4c4eb1e37ebf4e3d6753": (
    "coco-48-17-lists-zsl"
  ),
}
_FIELDS = {
  "images": ("id", "file_name"),
  "annotations": ("image_id", "category_id"),
  "categories": ("id", "name"),
}
_KEPT = {*_FIELDS, *(field for fields in _FIELDS.values() for field in fields)}


def read_coco(
  train: pathlib.Path,
  test: pathlib.Path,
  features: Sequence[pathlib.Path],
  word_vectors: pathlib.Path,
  unknown: str = "refuse",
  name: str = "coco",
  lists: Mapping[str, pathlib.Path] = MappingProxyType({}),
) -> FeatureSet:
  """COCO from two files of annotated instances and features of their images.

  Training images are those of ``train`` with a seen class and no unseen one; test
  images those of ``test`` with any of the 65 classes. This rule and the lists ``SEEN``
  and ``UNSEEN``, of Bansal et al., "Zero-Shot Object Detection" (ECCV 2018), are
  recalled from the literature: their own files were not at hand; the classes are those
  of the released lists of test images. A class is present
  where an instance of it is annotated, crowds included, and absent otherwise.

  Args:
    train: ``instances_train*.json``.
    test: ``instances_val*.json``.
    features: files for ``read_features``, with the images' file names (folder and
      extension may be missing) or ids.
    word_vectors: file for ``label_vectors``, as is ``unknown``.
    name: of the set.
    lists: see ``annotated_set``.

  Raises:
    ZsljaxError: a file is missing or damaged, or they do not fit together.
  """
  opened = read_features(features, named=True)
  label_names, num_seen = SEEN + UNSEEN, len(SEEN)
  train_images, train_present = _instances(train, label_names)
  test_images, test_present = _instances(test, label_names)
  images, present = train_images + test_images, train_present + test_present
  only_seen = [bool(ids) and max(ids) < num_seen for ids in train_present]
  some = [bool(ids) for ids in test_present]
  notes = [
    f"Left out: {kept.count(False)} of {len(kept)} {split} images, with {why}."
    for split, kept, why in (
      ("training", only_seen, "an unseen class, or none of the seen"),
      ("test", some, f"none of the {len(label_names)} classes"),
    )
    if not all(kept)
  ]
  return annotated_set(
    name,
    opened,
    word_vectors,
    unknown,
    where=f"{train} and {test.name}",
    images=[
      [str(i["file_name"]) for i in images],
      [str(i["id"]) for i in images],
      [str(i["id"]).zfill(12) for i in images],
    ],
    train=np.flatnonzero(only_seen),
    test=len(train_images) + np.flatnonzero(some),
    labels=sparse_labels([sorted(ids) for ids in present], len(label_names)),
    label_names=label_names,
    words=label_names,
    seen=np.arange(len(label_names)) < num_seen,
    published="coco-48-17-val2014" if len(test_images) == _VAL2014 else "coco-48-17",
    published_labels=(len(SEEN), len(UNSEEN)),
    sources=digests(train, test),
    lists=lists,
    released=_RELEASED,
    notes=notes,
  )


def _instances(
  path: pathlib.Path, label_names: Sequence[str]
) -> tuple[list[dict], list[set[int]]]:
  """Images of an instances file, and the labels present in each."""
  content = _json(path)
  positions = {label: i for i, label in enumerate(label_names)}
  known = {c["id"]: positions.get(c["name"]) for c in content["categories"]}
  missing = [label for label, i in positions.items() if i not in known.values()]
  require(
    not missing,
    f"{path}: categories",
    f"no {', '.join(missing[:5])}",
    f"COCO's {len(label_names)} classes",
  )
  present = {image["id"]: set() for image in content["images"]}
  require(
    len(present) == len(content["images"]),
    f"{path}: images",
    f"{len(content['images'])} with {len(present)} ids",
    "an id of its own for each",
  )
  for annotation in content["annotations"]:
    image, category = annotation["image_id"], annotation["category_id"]
    require(
      image in present and category in known,
      f"{path}: annotations",
      f"image_id {image} with category_id {category}",
      "those of an image and a category in the file",
    )
    if known[category] is not None:
      present[image].add(known[category])
  return content["images"], list(present.values())


def _json(path: pathlib.Path) -> dict[str, list[dict]]:
  """The fields that are needed; outlines and the like are let go while reading."""
  require_file(path, "COCO's instances, a .json file")
  with readable(path), path.open("rb") as file:
    content = json.load(
      file, object_hook=lambda item: {k: v for k, v in item.items() if k in _KEPT}
    )
  for part, fields in _FIELDS.items():
    items = content.get(part) if isinstance(content, dict) else None
    require(
      isinstance(items, list)
      and all(
        isinstance(i, dict) and all(isinstance(i.get(f), int | str) for f in fields)
        for i in items
      ),
      f"{path}: {part}",
      "nothing" if items is None else "other content",
      f"a list of objects with {' and '.join(fields)}",
    )
  return content
