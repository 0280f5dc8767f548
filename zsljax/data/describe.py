"""What a stored dataset holds, in words."""

import textwrap

import numpy as np

from zsljax.data.feature_set import SPLITS
from zsljax.data.store import StoredDataset


def describe(dataset: StoredDataset) -> str:
  """A page on the dataset: sizes, splits, classes, sources, oddities."""
  meta, classes = dataset.metadata, dataset.classes
  seen = int(np.sum(classes.seen))
  held_out = len(meta["validation_classes"])
  shape = " x ".join(map(str, dataset.feature_shape))
  sizes = {split: dataset.size(split) for split in SPLITS}
  stored = meta["storage_dtype"]
  if stored != meta["source_dtype"]:
    stored += f" (source: {meta['source_dtype']})"
  width = classes.embeddings.shape[1]
  described = f"{meta['class_embedding']}, {width} numbers a class"
  if classes.attribute_vectors is not None:
    width = classes.attribute_vectors.shape[1]
    described += f"; each attribute by a word vector of {width}"
  lines = [
    f"{meta['name']}: {sum(sizes.values())} images, {meta['features']} features "
    f"of {shape}, stored as {stored}",
    f"classes     {len(classes)}: {seen} seen (of which {held_out} for "
    f"validation), {len(classes) - seen} unseen",
    f"described   by {described}",
    f"split       {meta['split_version']}",
    f"  trainval      {sizes['train'] + sizes['val']:>8} = train + val",
    f"    train       {sizes['train']:>8}",
    f"    val         {sizes['val']:>8}  validation classes, and a fifth of the "
    "other images",
    f"  test_seen     {sizes['test_seen']:>8}",
    f"  test_unseen   {sizes['test_unseen']:>8}",
    *(f"source      {digest[:16]}  {file}" for file, digest in meta["sources"].items()),
    f"fingerprint {dataset.fingerprint[:16]}",
  ]
  for note in meta["notes"]:
    lines += textwrap.wrap(f"note: {note}", 88, subsequent_indent="      ")
  lines.append(f"stored in {dataset.folder}")
  return "\n".join(lines)
