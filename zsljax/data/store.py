"""Storing a FeatureSet as TFRecord shards through TFDS, and opening it again."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import io
import json
import os
import pathlib
import shutil
import struct
import tempfile
from typing import Any

from absl import logging
import ml_dtypes
import numpy as np
import scipy.sparse

from zsljax import __version__
from zsljax.classes import ClassSpace
from zsljax.data.feature_set import MULTI_LABEL_SPLITS, SPLITS, FeatureSet, Rows
from zsljax.data.labels import ABSENT, PRESENT, ids_where
from zsljax.errors import ZsljaxError, did_you_mean, require
from zsljax.io.files import locked
from zsljax.io.progress import task_bar

SCHEMA = 4
VERSION = "1.0.0"
STORAGE = {
  "source": None,
  "float32": np.dtype(np.float32),
  "float16": np.dtype(np.float16),
  "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_CLASSES_FILE = "classes.npz"
_METADATA_FILE = "metadata.json"
# Label, source row and place of every record, in stored order.
_INDEX_FILE = "index.npz"
# The images' names by source row, where they have names.
_IMAGES_FILE = "images.npz"
# What the two kinds of label lists of a multi-label set hold.
_VALUES = {"labels": PRESENT, "absent": ABSENT}
# Records of this many images are in memory while the index is made.
_INDEXED_TOGETHER = 32
# A TFRecord carries 16 bytes of lengths and checksums beside its content.
RECORD_OVERHEAD = 16


@functools.cache
def tensorflow():
  """TensorFlow and TFDS, imported late and kept off the accelerators."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  # It only reads files here, and would announce its faster arithmetic.
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  import tensorflow as tf
  import tensorflow_datasets as tfds

  tf.config.set_visible_devices([], "GPU")
  tfds.disable_progress_bar()  # `prepare` shows its own.
  return tf, tfds


@contextlib.contextmanager
def _quiet():
  """Keeps TFDS from talking of downloads, of which there are none."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _small_buffer() -> Iterator[None]:
  """Lets TFDS hold 256 MiB of what it shuffles, not 1000, before it uses the disk.

  The order of the records is the same. TFDS has no setting for it.
  """
  from tensorflow_datasets.core import shuffle

  usual = shuffle.MAX_MEM_BUFFER_SIZE
  shuffle.MAX_MEM_BUFFER_SIZE = 2**28
  try:
    yield
  finally:
    shuffle.MAX_MEM_BUFFER_SIZE = usual


def prepare(
  feature_set: FeatureSet,
  dest: pathlib.Path,
  storage: str = "source",
  overwrite: bool = False,
  beam_options: Any = None,
) -> StoredDataset:
  """Writes the set as TFRecord shards below ``dest`` with a TFDS builder.

  The folder is ``dest/<name>/<features>_<class embedding>[_<storage>]/1.0.0``.
  It appears when all of it is written. Where it stands already with the same
  content, nothing is written.

  Args:
    feature_set: what to store.
    dest: TFDS's ``data_dir``.
    storage: precision of the stored features, a key of ``STORAGE``.
    overwrite: replace a set of the same name that is damaged or has other content.
    beam_options: Beam's ``PipelineOptions``: its workers write the shards, with the
      same records in the same order. This process writes them when None.

  Raises:
    ZsljaxError: another set stands there, or it cannot be written.
  """
  require(storage in STORAGE, "storage", repr(storage), f"one of {', '.join(STORAGE)}")
  folder = (
    dest.expanduser() / feature_set.name / _variant(feature_set, storage) / VERSION
  )
  dtype = STORAGE[storage] or feature_set.features.dtype
  fingerprint = feature_set.fingerprint(dtype)
  tf, tfds = tensorflow()
  with locked(folder.parents[1] / ".lock"):
    if folder.exists():
      try:
        stored = StoredDataset.open(folder)
      except ZsljaxError:
        if not overwrite:
          raise
      else:
        if stored.fingerprint == fingerprint:
          return stored
        if not overwrite:
          raise ZsljaxError(
            f"{folder}: found another dataset of the same name (fingerprint "
            f"{stored.fingerprint[:12]}), expected {fingerprint[:12]} or an empty "
            "place: choose another --dest, or replace it with --overwrite"
          )
    _check_range(feature_set, dtype)
    # Before the builder exists: it would take over what it finds in the folder.
    with _replaced(folder):
      try:
        builder = _builder(feature_set, dest, storage, fingerprint)
        with _quiet(), _small_buffer(), tempfile.TemporaryDirectory() as no_downloads:
          builder.download_and_prepare(
            download_dir=no_downloads,
            download_config=tfds.download.DownloadConfig(
              try_download_gcs=False, compute_stats="skip", beam_options=beam_options
            ),
          )
      except (OSError, RuntimeError, tf.errors.OpError) as error:
        raise ZsljaxError(
          f"{folder}: could not be written ({error}); nothing of it was kept"
        ) from error
    return StoredDataset.open(folder)


def _variant(feature_set: FeatureSet, storage: str) -> str:
  """The middle folder's name: features, class embedding, precision."""
  name = f"{feature_set.features_kind}_{feature_set.class_embedding}"
  return name if storage == "source" else f"{name}_{storage}"


def _check_range(feature_set: FeatureSet, dtype: np.dtype) -> None:
  if dtype != feature_set.features.dtype:
    limit = float(ml_dtypes.finfo(dtype).max)
    require(
      feature_set.largest <= limit,
      f"{feature_set.name}: features",
      f"numbers up to {feature_set.largest:g}",
      f"at most {limit:g}, what {dtype} holds: choose another storage",
    )


@contextlib.contextmanager
def _replaced(folder: pathlib.Path) -> Iterator[None]:
  """Sets a stored set aside while another is written; puts it back on failure."""
  aside = folder.with_name(folder.name + ".replaced")
  if folder.exists():
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)
  try:
    yield
  except BaseException:
    if aside.exists() and not folder.exists():
      os.rename(aside, folder)
    raise
  shutil.rmtree(aside, ignore_errors=True)


def _builder(
  feature_set: FeatureSet, dest: pathlib.Path, storage: str, fingerprint: str
):
  """The TFDS builder of one feature set."""
  tfds = tensorflow()[1]
  dtype = STORAGE[storage] or feature_set.features.dtype
  config = _variant(feature_set, storage)

  class Metadata(tfds.core.MetadataDict):
    """What the shards do not hold: the classes, and where all comes from."""

    def save_metadata(self, data_dir):
      folder = pathlib.Path(data_dir)
      feature_set.classes.save(folder / _CLASSES_FILE)
      _write_index(folder)
      if feature_set.image_files is not None:
        with (folder / _IMAGES_FILE).open("wb") as file:
          np.savez(file, image_files=np.char.encode(feature_set.image_files, "utf-8"))
      super().save_metadata(data_dir)

  class FeatureSetBuilder(tfds.dataset_builders.AdhocBuilder, skip_registration=True):
    """One set of precomputed features, in shards."""

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        description=self._description,
        features=self._feature_spec,
        metadata=Metadata(
          schema=SCHEMA,
          zsljax=__version__,
          name=feature_set.name,
          features=feature_set.features_kind,
          class_embedding=feature_set.class_embedding,
          split_version=feature_set.split_version,
          fingerprint=fingerprint,
          sources=dict(feature_set.sources),
          source_dtype=str(feature_set.features.dtype),
          storage_dtype=str(dtype),
          feature_shape=list(feature_set.features.shape[1:]),
          validation_classes=list(feature_set.validation_classes),
          label_widths=widths,
          notes=list(feature_set.notes),
          named_images=feature_set.image_files is not None,
          encoder=feature_set.encoder and dict(feature_set.encoder),
        ),
      )

    def _generate_splits(self, dl_manager, download_config):
      if download_config.beam_options is None:
        return super()._generate_splits(dl_manager, download_config)
      from zsljax.data.beam import write_splits

      return write_splits(self, feature_set, records, download_config)

  widths = _label_widths(feature_set)
  records = Records(feature_set.features, feature_set.labels, tuple(widths), dtype)
  if widths:
    label_features = dict.fromkeys(widths, tfds.features.Sequence(np.int64))
  else:
    label_features = {"label": tfds.features.Scalar(np.int64)}

  def examples(split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = np.sort(feature_set.splits[split])  # Read forwards; TFDS shuffles.
    with task_bar(len(rows), f"writing {split}", "images") as bar:
      for row in rows:
        yield records[row]
        bar.update()

  with _quiet():
    return FeatureSetBuilder(
      name=feature_set.name,
      version=VERSION,
      config=tfds.core.BuilderConfig(name=config, version=VERSION),
      data_dir=dest.expanduser(),
      description=f"{feature_set.name}: {feature_set.features_kind} features, "
      f"classes described by {feature_set.class_embedding}.",
      features=tfds.features.FeaturesDict(
        {
          "features": tfds.features.Tensor(
            shape=feature_set.features.shape[1:], dtype=dtype, encoding="bytes"
          ),
          **label_features,
          "row": tfds.features.Scalar(np.int64),
        }
      ),
      split_datasets={split: examples(split) for split in feature_set.splits},
    )


@dataclasses.dataclass(frozen=True)
class Records:
  """What is stored of each image, by its row.

  Attributes:
    features: of all images.
    labels: of all images, as in ``FeatureSet``.
    lists: kinds of label lists that an image has; none where it has one label.
    dtype: precision of the stored features.
  """

  features: Rows
  labels: np.ndarray | scipy.sparse.csr_array
  lists: tuple[str, ...]
  dtype: np.dtype

  def __getitem__(self, row: int) -> tuple[int, dict[str, Any]]:
    """The key that TFDS shuffles by, and the record."""
    if self.lists:
      labels = {name: ids_where(self.labels, row, _VALUES[name]) for name in self.lists}
    else:
      labels = {"label": np.int64(self.labels[row])}
    features = self.features[row].astype(self.dtype)
    return int(row), {"features": features, **labels, "row": np.int64(row)}


def _label_widths(feature_set: FeatureSet) -> dict[str, int]:
  """The most labels of one image, for each kind; empty with one label an image.

  Absences are a kind where at least one is annotated.
  """
  if not feature_set.multi_label:
    return {}
  most = {
    name: int((feature_set.labels == value).sum(1).max(initial=0))
    for name, value in _VALUES.items()
  }
  return {name: width for name, width in most.items() if width or name == "labels"}


def _write_index(folder: pathlib.Path) -> None:
  """Lists each shard's records, so that single ones can be read."""
  tf, _ = tensorflow()
  fields = {
    "row": tf.io.FixedLenFeature((), tf.int64),
    # -1 in multi-label sets, whose records have none.
    "label": tf.io.FixedLenFeature((), tf.int64, default_value=-1),
  }

  def entries(records):
    found = tf.io.parse_example(records, fields)
    return tf.strings.length(records), found["row"], found["label"]

  arrays = {}
  for path in sorted(folder.glob("*.tfrecord-*")):
    batches = tf.data.TFRecordDataset(str(path)).batch(_INDEXED_TOGETHER).map(entries)
    parts = zip(*batches.as_numpy_iterator(), strict=True)
    lengths, rows, labels = map(np.concatenate, parts)
    ends = np.cumsum(lengths.astype(np.int64) + RECORD_OVERHEAD)
    arrays[f"{path.name}:offset"] = np.append(0, ends[:-1])
    arrays[f"{path.name}:row"] = rows
    arrays[f"{path.name}:label"] = labels
  with (folder / _INDEX_FILE).open("wb") as file:
    np.savez(file, **arrays)


@dataclasses.dataclass(frozen=True)
class Piece:
  """Consecutive records of one shard file: ``count`` from ``first`` on.

  ``start`` is the place of the first in the list of all pieces' records.
  """

  path: str
  first: int
  count: int
  start: int


@dataclasses.dataclass(frozen=True)
class StoredDataset:
  """A set on disk: its classes, its description, and where its records are.

  Attributes:
    folder: that holds the shards.
    metadata: as written by ``prepare``.
    classes: all classes.
  """

  folder: pathlib.Path
  metadata: dict[str, Any] = dataclasses.field(repr=False)
  classes: ClassSpace = dataclasses.field(repr=False)
  _info: Any = dataclasses.field(repr=False)

  @classmethod
  def open(cls, folder: pathlib.Path) -> StoredDataset:
    """Opens one stored set after checking that it is whole.

    Raises:
      ZsljaxError: a file is missing or has another size than was written.
    """
    folder = pathlib.Path(folder)
    _, tfds = tensorflow()
    for file in (
      _METADATA_FILE,
      "dataset_info.json",
      "features.json",
      _CLASSES_FILE,
      _INDEX_FILE,
    ):
      if not (folder / file).is_file():
        raise ZsljaxError(
          f"{folder}: no {file}, expected a dataset stored by `zsljax data`"
        )
      if file == _METADATA_FILE:
        metadata = _read_metadata(folder / file)
    with _readable(folder / "dataset_info.json"):
      info = tfds.builder_from_directory(folder).info
      parts = [info.splits[split] for split in _splits_of(metadata)]
    for split in parts:
      _check_size(folder, split)
    path = folder / _CLASSES_FILE
    with _readable(path):
      classes = ClassSpace.load(path)
    return cls(folder, metadata, classes, info)

  @property
  def variant(self) -> str:
    """Features and class embedding, as ``config.data.features`` names them."""
    return self.folder.parent.name

  @property
  def fingerprint(self) -> str:
    """SHA-256 of what is trained on, as ``FeatureSet.fingerprint``."""
    return self.metadata["fingerprint"]

  @property
  def feature_shape(self) -> tuple[int, ...]:
    """Of one example: ``(D,)`` or ``(R, D)``."""
    return tuple(self.metadata["feature_shape"])

  @property
  def multi_label(self) -> bool:
    """Whether an image has any number of labels."""
    return bool(self.metadata["label_widths"])

  @property
  def splits(self) -> tuple[str, ...]:
    """The stored splits."""
    return _splits_of(self.metadata)

  @property
  def test_splits(self) -> tuple[str, ...]:
    """Those of the test images."""
    return tuple(split for split in self.splits if split.startswith("test"))

  @property
  def storage_dtype(self) -> np.dtype:
    """Precision of the stored features."""
    return np.dtype(self.metadata["storage_dtype"])

  @property
  def row_bytes(self) -> int:
    """Size of one example in memory: features as stored, and padded label lists."""
    features = int(np.prod(self.feature_shape)) * self.storage_dtype.itemsize
    return features + 4 * sum(self.metadata["label_widths"].values())

  def size(self, *splits: str) -> int:
    """Number of examples in the splits together."""
    return sum(self._info.splits[split].num_examples for split in splits)

  def training_splits(self, train_split: str) -> tuple[str, ...]:
    """The stored splits that ``config.data.train_split`` means."""
    if train_split == "trainval":
      return ("train", "val")
    if train_split == "train":
      return ("train",)
    raise ZsljaxError(
      f"config.data.train_split: found {train_split!r}, expected trainval, or "
      "train (which holds out the validation classes and images)"
    )

  def training_classes(self, train_split: str) -> ClassSpace:
    """All classes for ``trainval``; for ``train`` the validation fold."""
    if self.training_splits(train_split) == ("train",):
      return self.classes.validation_fold(self.metadata["validation_classes"])
    return self.classes

  def pieces(
    self, splits: tuple[str, ...], host: int = 0, num_hosts: int = 1
  ) -> list[Piece]:
    """One host's even share of the splits' records, as pieces of files."""
    _, tfds = tensorflow()
    share = tfds.even_splits("+".join(splits), num_hosts)[host]
    pieces, start = [], 0
    for i in self._info.splits[share].file_instructions:
      count = i.examples_in_shard if i.take == -1 else i.take
      pieces.append(Piece(str(i.filename), i.skip, count, start))
      start += count
    return pieces

  def share(self, splits: tuple[str, ...], host: int = 0, num_hosts: int = 1) -> int:
    """Number of records in ``pieces``; hosts differ by up to one for each split."""
    return sum(piece.count for piece in self.pieces(splits, host, num_hosts))

  def labels(
    self, splits: tuple[str, ...], host: int = 0, num_hosts: int = 1
  ) -> np.ndarray:
    """Class ids of one host's share, in stored order, without reading features."""
    return self._entries("label", self.pieces(splits, host, num_hosts))

  def source_rows(self, splits: tuple[str, ...]) -> np.ndarray:
    """Which row of the source each image of ``splits`` was, in stored order."""
    return self._entries("row", self.pieces(splits))

  def image_files(self, splits: tuple[str, ...]) -> np.ndarray | None:
    """The images' names in stored order, texts; None where they have none."""
    if not self.metadata["named_images"]:
      return None
    path = self.folder / _IMAGES_FILE
    with _readable(path), path.open("rb") as file, np.load(file) as arrays:
      names = arrays["image_files"]
    return np.char.decode(names[self.source_rows(splits)], "utf-8")

  def features_of(self, splits: tuple[str, ...], images: np.ndarray) -> np.ndarray:
    """Features of some images, by their places in the stored order of ``splits``."""
    paths, offsets = self.single_records(splits)
    records = [_record_at(paths[i], offsets[i]) for i in images]
    return self.decode(records)["features"].numpy()

  def single_records(
    self, splits: tuple[str, ...], host: int = 0, num_hosts: int = 1
  ) -> tuple[np.ndarray, np.ndarray]:
    """File and byte offset of each record of one host's share, in stored order."""
    pieces = self.pieces(splits, host, num_hosts)
    paths = np.repeat([p.path for p in pieces], [p.count for p in pieces])
    return paths, self._entries("offset", pieces)

  def _entries(self, field: str, pieces: list[Piece]) -> np.ndarray:
    path = self.folder / _INDEX_FILE
    with _readable(path), path.open("rb") as file, np.load(file) as index:
      return np.concatenate(
        [
          index[f"{pathlib.Path(p.path).name}:{field}"][p.first : p.first + p.count]
          for p in pieces
        ]
      )

  def decode(self, records):
    """Serialized records [B], all at once, as a dict of tensors [B, ...].

    Labels of a multi-label set are padded with -1 to the width of the whole set.
    """
    tf, _ = tensorflow()
    widths = self.metadata["label_widths"]
    padded = tf.io.FixedLenSequenceFeature((), tf.int64, True, default_value=-1)
    spec = self._info.features.tf_example_spec | dict.fromkeys(widths, padded)
    examples = tf.io.parse_example(records, spec)
    for name, width in widths.items():
      missing = width - tf.shape(examples[name])[1]
      paddings = [[0, 0], [0, missing]]
      examples[name] = tf.pad(examples[name], paddings, constant_values=-1)
    features = tf.io.decode_raw(examples["features"], tf.as_dtype(self.storage_dtype))
    examples["features"] = tf.reshape(features, (-1, *self.feature_shape))
    return examples


def _record_at(path: str, offset: int) -> bytes:
  """The content of the TFRecord that begins at ``offset``."""
  with open(path, "rb") as file:
    file.seek(offset)
    (length,) = struct.unpack("<Q4x", file.read(12))
    return file.read(length)


def _splits_of(metadata: dict[str, Any]) -> tuple[str, ...]:
  return MULTI_LABEL_SPLITS if metadata["label_widths"] else SPLITS


def variants(root: pathlib.Path, name: str) -> list[StoredDataset]:
  """All stored forms (features, class embedding) of the set ``name`` below ``root``."""
  return [StoredDataset.open(folder) for folder in _folders(root, name)]


def _folders(root: pathlib.Path, name: str) -> list[pathlib.Path]:
  return [p.parent for p in sorted(root.glob(f"{name}/*/{VERSION}/dataset_info.json"))]


def all_below(folder: pathlib.Path) -> list[StoredDataset]:
  """Every set that is stored in ``folder`` or below.

  Raises:
    ZsljaxError: there is none.
  """
  folder = folder.expanduser()
  found = sorted(folder.rglob("dataset_info.json"))
  require(
    len(found) > 0,
    str(folder),
    "no stored dataset",
    "the --dest of an import, or below",
  )
  return [StoredDataset.open(path.parent) for path in found]


def find(root: pathlib.Path, name: str, features: str | None) -> StoredDataset:
  """The stored set ``name`` below ``root``.

  Args:
    root: the ``--dest`` of the import.
    name: of the dataset.
    features: the middle folder's name (features and class embedding); needed
      only where several stand there.

  Raises:
    ZsljaxError: none or several fit.
  """
  root = root.expanduser()
  require(root.is_dir(), "config.data.dir", f"no folder {root}", "that of an import")
  here = {folder.parent.name: folder for folder in _folders(root, name)}
  if not here:
    others = {folder.parents[1].name for folder in _folders(root, "*")}
    raise ZsljaxError(
      f"config.data.dir: {root} holds no dataset {name!r}. "
      f"{did_you_mean(name, others)} Import one with `python -m zsljax data`."
    )
  if features is None:
    require(
      len(here) == 1,
      "config.data.features",
      "nothing",
      f"one of {', '.join(here)}: {root} holds {name} in several forms",
    )
    features = next(iter(here))
  if features not in here:
    raise ZsljaxError(
      f"config.data.features: {root} holds no {name} with {features!r}. "
      f"{did_you_mean(features, here)}"
    )
  return StoredDataset.open(here[features])


@contextlib.contextmanager
def _readable(path: pathlib.Path):
  """Says which file is damaged, whatever the reader raises on it."""
  try:
    yield
  except Exception as error:  # JSON, protobuf, zip and TFDS have each their own.
    raise ZsljaxError(
      f"{path}: not readable ({error}), expected the file as written: import the "
      "set again with --overwrite"
    ) from error


def _read_metadata(path: pathlib.Path) -> dict[str, Any]:
  with _readable(path):
    metadata = json.loads(path.read_text())
  require(
    metadata.get("schema") == SCHEMA,
    f"{path}: schema",
    metadata.get("schema"),
    f"{SCHEMA}: import the set again",
  )
  return metadata


def _check_size(folder: pathlib.Path, split) -> None:
  expected = int(split.num_bytes) + RECORD_OVERHEAD * split.num_examples
  found = 0
  for path in split.filepaths:
    if not path.exists():
      raise ZsljaxError(
        f"{path}: missing, expected {len(split.filepaths)} shards of "
        f"{split.name}: import the set again"
      )
    found += path.stat().length
  require(
    found == expected,
    f"{folder}: shards of {split.name}",
    f"{found} bytes",
    f"{expected}, as written: a file is damaged, import the set again",
  )
