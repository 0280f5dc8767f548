"""What a stored dataset holds, in words."""

import textwrap

import numpy as np

from zsljax.data.store import StoredDataset

_VAL = {
  False: "validation classes, and a fifth of the other images",
  True: "scored with the validation classes as the unseen ones",
}


def describe(dataset: StoredDataset) -> str:
  """A page on the dataset: sizes, splits, classes, sources, oddities."""
  meta, classes = dataset.metadata, dataset.classes
  seen = int(np.sum(classes.seen))
  held_out = len(meta["validation_classes"])
  shape = " x ".join(map(str, dataset.feature_shape))
  sizes = {split: dataset.size(split) for split in dataset.splits}
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
    *(_labels(dataset) if dataset.multi_label else ()),
    f"classes     {len(classes)}: {seen} seen (of which {held_out} for "
    f"validation), {len(classes) - seen} unseen",
    f"described   by {described}",
    f"split       {meta['split_version']}",
    f"  trainval      {sizes['train'] + sizes['val']:>8} = train + val",
    f"    train       {sizes['train']:>8}",
    f"    val         {sizes['val']:>8}  {_VAL[dataset.multi_label]}",
    *(f"  {split:<12}  {sizes[split]:>8}" for split in dataset.test_splits),
    *(f"source      {digest[:16]}  {file}" for file, digest in meta["sources"].items()),
    f"fingerprint {dataset.fingerprint[:16]}",
  ]
  for note in meta["notes"]:
    lines += textwrap.wrap(f"note: {note}", 88, subsequent_indent="      ")
  lines.append(f"stored in {dataset.folder}")
  return "\n".join(lines)


def _labels(dataset: StoredDataset) -> list[str]:
  widths = dataset.metadata["label_widths"]
  absences = "annotated" if "absent" in widths else "whatever is not present"
  return [
    f"labels      several an image, {widths['labels']} at the most; absent: {absences}"
  ]
