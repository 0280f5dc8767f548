"""Description of exported files in Croissant, which other libraries read.

References:
  Akhtar et al., "Croissant: A Metadata Format for ML-Ready Datasets" (NeurIPS 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
import json
import pathlib
from typing import Any

from zsljax.data.files.class_table import write_class_table
from zsljax.data.store import StoredDataset
from zsljax.errors import ZsljaxError, require
from zsljax.io.checksums import sha256_of
from zsljax.io.files import write_csv, write_json

_KINDS = {".mat": "application/x-matlab-data", ".csv": "text/csv"}


def write_croissant(
  dataset: StoredDataset,
  files: Sequence[pathlib.Path],
  dest: pathlib.Path,
  license: str | None = None,
) -> list[pathlib.Path]:
  """Writes ``images.csv``, ``classes.csv`` and ``croissant.json``, which says it all.

  Record sets are ``images``, the image, class and split of each, in stored order, and
  ``classes``, the numbers that describe each; the pair of .mat files is listed with its
  hashes.

  Args:
    dataset: that was exported.
    files: the exported ones.
    dest: folder of all files.
    license: a name or URL; None where nobody has said it.

  Raises:
    ZsljaxError: the library ``mlcroissant`` is missing, or a file is there already.
  """
  try:
    import mlcroissant as mlc
  except ImportError as error:
    raise ZsljaxError(
      "mlcroissant: found no such library, expected it: install zsljax[croissant]"
    ) from error
  images, table, page = (
    dest / name for name in ("images.csv", "classes.csv", "croissant.json")
  )
  for path in (images, table, page):
    require(not path.exists(), str(path), "a file", "none: it would be replaced")
  classes, meta = dataset.classes, dataset.metadata
  attributes = classes.attributes
  rows = [("image", "class", "split")]
  for split in dataset.splits:
    names = dataset.image_files((split,))
    places = dataset.source_rows((split,))
    names = [f"row {row}" for row in places] if names is None else names
    labels = classes.columns(dataset.labels((split,)))
    rows += [(x, classes.names[c], split) for x, c in zip(names, labels, strict=True)]
  write_csv(images, rows)
  write_class_table(table, classes.names, attributes, classes.embeddings)

  def field(of: pathlib.Path, column: str, kind: Any, about: str) -> Any:
    source = mlc.Source(file_object=of.name, extract=mlc.Extract(column=column))
    name = f"{of.stem}/{column}"
    return mlc.Field(
      id=name, name=name, description=about, data_types=kind, source=source
    )

  text, number = mlc.DataType.TEXT, mlc.DataType.FLOAT
  described = mlc.Metadata(
    name=meta["name"],
    description=f"{meta['name']} for zero-shot learning: {meta['features']} features, "
    f"classes by {meta['class_embedding']}, split {meta['split_version']}, fingerprint "
    f"{meta['fingerprint']}.",
    license=None if license is None else [license],
    distribution=[
      mlc.FileObject(
        id=path.name,
        name=path.name,
        content_url=path.name,
        content_size=f"{path.stat().st_size} B",
        encoding_formats=[_KINDS[path.suffix]],
        sha256=sha256_of(path),
      )
      for path in (*files, images, table)
    ],
    record_sets=[
      mlc.RecordSet(
        id="images",
        name="images",
        fields=[
          field(images, "image", text, "the image's file, or its row in the source"),
          field(images, "class", text, "the name of its class"),
          field(images, "split", text, f"one of {', '.join(dataset.splits)}"),
        ],
      ),
      mlc.RecordSet(
        id="classes",
        name="classes",
        fields=[
          field(table, "class", text, "the name"),
          *(field(table, name, number, "of the description") for name in attributes),
        ],
      ),
    ],
  )
  write_json(page, json.loads(json.dumps(described.to_json(), default=str)))
  return [images, table, page]
