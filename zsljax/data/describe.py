"""Description of a stored dataset, in words."""

from collections.abc import Sequence
import textwrap

import numpy as np

from zsljax.data.store import StoredDataset

# Split ``val`` of a set with one label, and with several labels an image.
_VAL = {
  False: "validation classes, and a fifth of the other images",
  True: "scored with the validation classes as the unseen ones",
}
# Up to this many classes are named.
_LISTED = 20


def describe(dataset: StoredDataset, odd: Sequence[str] = ()) -> str:
  """Writes a page on the dataset: sizes, splits, classes, sources, notes.

  Args:
    dataset: the stored set.
    odd: further sentences, see ``data_warnings``.
  """
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
  labels = []
  if widths := meta["label_widths"]:
    absences = "annotated" if "absent" in widths else "whatever is not present"
    most = f"several an image, {widths['labels']} at the most"
    labels = [f"labels      {most}; absent: {absences}"]
  lines = [
    f"{meta['name']}: {sum(sizes.values())} images, {meta['features']} features "
    f"of {shape}, stored as {stored}",
    *labels,
    f"classes     {len(classes)}: {seen} seen (of which {held_out} for "
    f"validation), {len(classes) - seen} unseen",
    *_listed("unseen", classes.names, ~np.asarray(classes.seen)),
    *_listed(
      "validation", classes.names, np.isin(classes.ids, meta["validation_classes"])
    ),
    f"described   by {described}",
    f"split       {meta['split_version']}",
    f"  trainval      {sizes['train'] + sizes['val']:>8} = train + val",
    f"    train       {sizes['train']:>8}",
    f"    val         {sizes['val']:>8}  {_VAL[dataset.multi_label]}",
    *(f"  {split:<12}  {sizes[split]:>8}" for split in dataset.test_splits),
    *(f"source      {digest[:16]}  {file}" for file, digest in meta["sources"].items()),
    f"fingerprint {dataset.fingerprint[:16]}",
  ]
  if encoder := meta["encoder"]:
    lines.append(
      f"encoder     {encoder['network']}, {encoder['size']} pixels, "
      f"{encoder['output']}, weights {encoder['weights_sha256'][:16]}"
    )
  for head, sentences in (("note", meta["notes"]), ("odd", odd)):
    for sentence in sentences:
      indent = " " * (len(head) + 2)
      lines += textwrap.wrap(f"{head}: {sentence}", 88, subsequent_indent=indent)
  kept = "nothing was written: already " if dataset.was_there else ""
  lines.append(f"{kept}stored in {dataset.folder}")
  return "\n".join(lines)


def _listed(head: str, names: Sequence[str], which: np.ndarray) -> list[str]:
  """Names the classes that ``which`` [C] marks, where they are few enough to read."""
  chosen = np.flatnonzero(which)
  if not 0 < len(chosen) <= _LISTED:
    return []
  text = f"{head:<12}{', '.join(names[i] for i in chosen)}"
  return textwrap.wrap(text, 88, subsequent_indent=" " * 12)
