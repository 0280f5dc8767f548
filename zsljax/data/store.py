"""Storing a FeatureSet as TFRecord shards through TFDS, and opening it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import io
import itertools
import os
import pathlib
import re
import shutil
import tempfile
from typing import Any, NamedTuple

from absl import logging
import ml_dtypes
import numpy as np

from zsljax import __version__
from zsljax.classes import ClassSpace
from zsljax.data import beam
from zsljax.data.feature_set import MULTI_LABEL_SPLITS, SPLITS, FeatureSet, record_of
from zsljax.errors import ZsljaxError, did_you_mean, line_of, require, require_known
from zsljax.io.checks import readable
from zsljax.io.checksums import AS_WRITTEN, Checksums
from zsljax.io.files import locked, write_json
from zsljax.io.json_files import object_of, read_json
from zsljax.io.progress import task_bar
from zsljax.numerics import LARGEST

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
_DESCRIPTION = (_METADATA_FILE, "dataset_info.json", "features.json")
# Fields that tell a set from others of its name: the fingerprint alone knows neither
# the version of a split nor the validation classes.
_IDENTITY = ("split_version", "validation_classes", "fingerprint")
# Label, source row and place of every record, in stored order.
_INDEX_FILE = "index.npz"
# The images' names by source row, where they have names.
_IMAGES_FILE = "images.npz"
_METADATA = object_of(schema={"const": SCHEMA})
# Records of this many images are in memory while the index is made.
_INDEXED_TOGETHER = 32
# A TFRecord carries 16 bytes of lengths and checksums beside its content.
_RECORD_OVERHEAD = 16


@functools.cache
def tensorflow():
  """Imports TensorFlow and TFDS, late and kept off the accelerators."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  # It only reads files here, and would announce its faster arithmetic.
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
  # Else it imports all of Keras, and with that scikit-learn and matplotlib.
  asked = os.environ.get("TF_USE_LEGACY_KERAS")
  os.environ["TF_USE_LEGACY_KERAS"] = "1"
  import tensorflow as tf

  if asked is None:
    del os.environ["TF_USE_LEGACY_KERAS"]
  else:
    os.environ["TF_USE_LEGACY_KERAS"] = asked
  import tensorflow_datasets as tfds

  tf.config.set_visible_devices([], "GPU")
  tfds.disable_progress_bar()  # `prepare` shows its own.
  return tf, tfds


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
  content, nothing is written. TFDS orders the records of a split by a hash of their
  rows; the same set is always stored in the same order.

  Args:
    feature_set: the set to store.
    dest: TFDS's ``data_dir``.
    storage: precision of the stored features, a key of ``STORAGE``.
    overwrite: replace a set of the same name that is damaged or has other content.
    beam_options: Beam's ``PipelineOptions``: its workers write the same records in the
      same order, cut into shards elsewhere. This process writes them when None.

  Raises:
    ZsljaxError: another set stands there, or it cannot be written.
  """
  require(storage in STORAGE, "storage", repr(storage), f"one of {', '.join(STORAGE)}")
  for field in ("name", "features_kind", "class_embedding"):  # Parts of the folder.
    text = getattr(feature_set, field)
    plain = re.fullmatch(r"\w[\w.-]*", text)
    require(bool(plain), f"dataset: {field}", repr(text), "letters, digits and _ . -")
  dtype = STORAGE[storage] or feature_set.features.dtype
  limit = min(float(ml_dtypes.finfo(dtype).max), LARGEST)
  require(
    feature_set.largest <= limit,
    f"{feature_set.name}: features",
    f"numbers up to {feature_set.largest:g}",
    f"at most {limit:g}, which systems can compute with in {dtype}",
  )
  variant = f"{feature_set.features_kind}_{feature_set.class_embedding}"
  if storage != "source":
    variant += f"_{storage}"
  folder = dest.expanduser() / feature_set.name / variant / VERSION
  metadata = _metadata(feature_set, dtype)
  with locked(folder.parents[1] / ".lock"):
    if folder.exists():
      try:
        stored = StoredDataset.open(folder)
        hint = "as imported now: choose another --dest, or replace it with --overwrite"
        require_same(str(folder), stored.metadata, metadata, hint)
        _require_same_names(stored, feature_set, hint)
        return dataclasses.replace(stored, was_there=True)
      except ZsljaxError:
        if not overwrite:
          raise
    for left in folder.parents[1].glob(".scratch*"):  # Of imports that were killed.
      shutil.rmtree(left, ignore_errors=True)
    _write(feature_set, folder, dtype, metadata, beam_options)
    return StoredDataset.open(folder)


def require_same(
  where: str, found: Mapping[str, Any], expected: Mapping[str, Any], hint: str
) -> None:
  """Raises unless the metadata of two sets are of the same data and split."""
  for field in _IDENTITY:
    same = found[field] == expected[field]
    require(same, f"{where}: {field}", found[field], f"{expected[field]}, {hint}")


def _require_same_names(stored: StoredDataset, now: FeatureSet, hint: str) -> None:
  """Raises unless names and encoder, which no fingerprint knows, are the same."""
  images = [] if now.image_files is None else now.image_files.tolist()
  for field, found, expected in (
    ("class names", stored.classes.names, now.classes.names),
    ("attribute names", stored.classes.attribute_names, now.classes.attribute_names),
    ("names of images", stored.source_image_files().tolist(), images),
    ("encoder", [stored.metadata["encoder"]], [now.encoder]),
  ):
    for old, new in itertools.zip_longest(found, expected):
      expects = f"{new!r}, {hint}"
      require(old == new, f"{stored.folder}: {field}", repr(old), expects)


def _metadata(feature_set: FeatureSet, dtype: np.dtype) -> dict[str, Any]:
  """Describes a set that is stored in ``dtype``, as JSON values."""
  return {
    "schema": SCHEMA,
    "zsljax": __version__,
    "name": feature_set.name,
    "features": feature_set.features_kind,
    "class_embedding": feature_set.class_embedding,
    "split_version": feature_set.split_version,
    "fingerprint": feature_set.fingerprint(dtype),
    "sources": dict(feature_set.sources),
    "source_dtype": str(feature_set.features.dtype),
    "storage_dtype": str(dtype),
    "feature_shape": list(feature_set.features.shape[1:]),
    "validation_classes": list(feature_set.validation_classes),
    "label_widths": feature_set.label_widths,
    "notes": list(feature_set.notes),
    "named_images": feature_set.image_files is not None,
    "encoder": feature_set.encoder and dict(feature_set.encoder),
  }


def _write(
  feature_set: FeatureSet,
  folder: pathlib.Path,
  dtype: np.dtype,
  metadata: Mapping[str, Any],
  beam_options: Any,
) -> None:
  """Writes a set beside ``folder``, and moves it there when it is whole.

  Raises:
    ZsljaxError: it cannot be written.
  """
  tf, tfds = tensorflow()
  number = tfds.features.Scalar(np.int64)
  shape = feature_set.features.shape[1:]
  labels = dict.fromkeys(feature_set.label_widths, tfds.features.Sequence(np.int64))
  features = {
    "features": tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes"),
    **(labels or {"label": number}),
    "row": number,
  }
  try:
    with contextlib.ExitStack() as stack:
      scratch = tempfile.TemporaryDirectory(
        prefix=".scratch", dir=folder.parents[1], ignore_cleanup_errors=True
      )
      scratch = pathlib.Path(stack.enter_context(scratch))
      if beam_options is None:
        examples = {s: _examples(feature_set, dtype, s) for s in feature_set.splits}
      else:
        examples = beam.made_by_workers(feature_set, dtype, scratch)
        stack.enter_context(beam.failures())
      stack.enter_context(_quiet())
      builder = tfds.dataset_builders.AdhocBuilder(
        name=feature_set.name,
        version=VERSION,
        config=folder.parent.name,
        data_dir=scratch / "set",
        features=tfds.features.FeaturesDict(features),
        split_datasets=examples,
        description=f"{feature_set.name}: {feature_set.features_kind} features, "
        f"classes described by {feature_set.class_embedding}.",
      )
      config = tfds.download.DownloadConfig(
        try_download_gcs=False, compute_stats="skip", beam_options=beam_options
      )
      builder.download_and_prepare(download_config=config)
      written = scratch / "set" / folder.relative_to(folder.parents[2])
      write_json(written / _METADATA_FILE, metadata)
      feature_set.classes.save(written / _CLASSES_FILE)
      if feature_set.image_files is not None:
        names = np.char.encode(feature_set.image_files, "utf-8")
        np.savez(written / _IMAGES_FILE, image_files=names)
      _write_index(written)
      Checksums.write(written)
      folder.parent.mkdir(exist_ok=True)
      if folder.exists():
        os.rename(folder, scratch / "replaced")
      os.rename(written, folder)
  except (OSError, RuntimeError, tf.errors.OpError) as error:
    raise ZsljaxError(
      f"{folder}: could not be written ({line_of(error)}); nothing of it was kept"
    ) from error


def _examples(
  feature_set: FeatureSet, dtype: np.dtype, split: str
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields the keyed records of a split, read forwards."""
  rows, lists = feature_set.splits[split], tuple(feature_set.label_widths)
  with task_bar(len(rows), f"writing {split}", "images") as bar:
    for row in np.sort(rows):
      yield record_of(feature_set.features, feature_set.labels, lists, row, dtype)
      bar.update()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps TFDS from talking of downloads, of which there are none."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logging.set_verbosity(verbosity)


def _write_index(folder: pathlib.Path) -> None:
  """Lists each shard's records in a file, so that single ones can be read."""
  tf, _ = tensorflow()
  fields = {
    "row": tf.io.FixedLenFeature((), tf.int64),
    # -1 in multi-label sets, whose records have none.
    "label": tf.io.FixedLenFeature((), tf.int64, default_value=-1),
  }

  def entries(records):
    found = tf.io.parse_example(records, fields)
    return tf.strings.length(records), found["row"], found["label"]

  index = {}
  for path in sorted(folder.glob("*.tfrecord-*")):
    batches = tf.data.TFRecordDataset(str(path)).batch(_INDEXED_TOGETHER).map(entries)
    parts = zip(*arrays_of(batches), strict=True)
    lengths, rows, labels = map(np.concatenate, parts)
    ends = np.cumsum(lengths.astype(np.int64) + _RECORD_OVERHEAD)
    index[f"{path.name}:offset"] = np.append(0, ends[:-1])
    index[f"{path.name}:row"] = rows
    index[f"{path.name}:label"] = labels
  np.savez(folder / _INDEX_FILE, **index)


class Piece(NamedTuple):
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
    folder: holds the shards.
    metadata: as written by ``prepare``.
    classes: all classes.
    checksums: of all files.
    was_there: ``prepare`` found it, and wrote nothing.
  """

  folder: pathlib.Path
  metadata: dict[str, Any] = dataclasses.field(repr=False)
  classes: ClassSpace = dataclasses.field(repr=False)
  _info: Any = dataclasses.field(repr=False)
  checksums: Checksums = dataclasses.field(repr=False)
  was_there: bool = False

  @classmethod
  def open(cls, folder: pathlib.Path) -> StoredDataset:
    """Opens one stored set after checking its description and the sizes of all files.

    Raises:
      ZsljaxError: a file is missing, or other than it was written.
    """
    folder = pathlib.Path(folder)
    checksums = Checksums.open(folder)
    checksums.check([*_DESCRIPTION, _CLASSES_FILE])
    metadata = read_json(folder / _METADATA_FILE, _METADATA, AS_WRITTEN)
    with readable(folder / "dataset_info.json", AS_WRITTEN):
      info = tensorflow()[1].builder_from_directory(folder).info
    path = folder / _CLASSES_FILE
    with readable(path, AS_WRITTEN):
      classes = ClassSpace.load(path)
    return cls(folder, metadata, classes, info, checksums)

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
    """Shape of one example's features: ``(D,)`` or ``(R, D)``."""
    return tuple(self.metadata["feature_shape"])

  @property
  def multi_label(self) -> bool:
    """True where an image has any number of labels."""
    return bool(self.metadata["label_widths"])

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the stored splits."""
    return MULTI_LABEL_SPLITS if self.multi_label else SPLITS

  @property
  def test_splits(self) -> tuple[str, ...]:
    """Names of the splits of the test images."""
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
    """Returns the number of examples in the splits together."""
    return sum(self._info.splits[split].num_examples for split in splits)

  def training_splits(self, train_split: str) -> tuple[str, ...]:
    """Returns the stored splits that ``config.data.train_split`` means."""
    require(
      train_split in ("trainval", "train"),
      "config.data.train_split",
      repr(train_split),
      "trainval, or train (which holds out the validation classes and images)",
    )
    return ("train", "val") if train_split == "trainval" else ("train",)

  def training_classes(self, train_split: str) -> ClassSpace:
    """Returns all classes for ``trainval``; for ``train`` the validation fold."""
    if self.training_splits(train_split) == ("train",):
      return self.classes.validation_fold(self.metadata["validation_classes"])
    return self.classes

  def pieces(
    self, splits: tuple[str, ...], host: int = 0, num_hosts: int = 1
  ) -> list[Piece]:
    """Returns one host's even share of the splits' records, as pieces of files."""
    share = tensorflow()[1].even_splits("+".join(splits), num_hosts)[host]
    pieces, start = [], 0
    for i in self._info.splits[share].file_instructions:
      count = i.examples_in_shard if i.take == -1 else i.take
      pieces.append(Piece(str(i.filename), i.skip, count, start))
      start += count
    return pieces

  def share(self, splits: tuple[str, ...], host: int = 0, num_hosts: int = 1) -> int:
    """Counts the records in ``pieces``; hosts differ by up to one for each split."""
    return sum(piece.count for piece in self.pieces(splits, host, num_hosts))

  def labels(
    self, splits: tuple[str, ...], host: int = 0, num_hosts: int = 1
  ) -> np.ndarray:
    """Reads the class ids of one host's share, in stored order, without features."""
    return self._entries("label", self.pieces(splits, host, num_hosts))

  def source_rows(
    self, splits: tuple[str, ...], host: int = 0, num_hosts: int = 1
  ) -> np.ndarray:
    """Reads the source's row of each image of one host's share, in stored order."""
    return self._entries("row", self.pieces(splits, host, num_hosts))

  def image_files(self, splits: tuple[str, ...]) -> np.ndarray | None:
    """Reads the images' names in stored order, texts; None where they have none."""
    if not self.metadata["named_images"]:
      return None
    return self.source_image_files()[self.source_rows(splits)]

  def source_image_files(self) -> np.ndarray:
    """Reads the names of all images of the source, by row; of some sets none."""
    if not self.metadata["named_images"]:
      return np.empty(0, np.str_)
    names = self._arrays(_IMAGES_FILE, ["image_files"])["image_files"]
    return np.char.decode(names, "utf-8")

  def features_of(self, splits: tuple[str, ...], images: np.ndarray) -> np.ndarray:
    """Reads features of images, by their places in the stored order of ``splits``."""
    paths, offsets = self.single_records(splits)
    places = tensorflow()[0].data.Dataset.from_tensor_slices(
      (paths[images], offsets[images])
    )
    records = list(arrays_of(places.flat_map(record_at)))
    return self.decode(records)["features"].numpy()

  def single_records(
    self, splits: tuple[str, ...], host: int = 0, num_hosts: int = 1
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns file and byte offset of each record of one host's share, in order."""
    pieces = self.check(self.pieces(splits, host, num_hosts))
    paths = np.repeat([p.path for p in pieces], [p.count for p in pieces])
    return paths, self._entries("offset", pieces)

  def _entries(self, field: str, pieces: list[Piece]) -> np.ndarray:
    """Reads a field of the index for all records of some pieces."""
    names = [f"{pathlib.Path(piece.path).name}:{field}" for piece in pieces]
    index = self._arrays(_INDEX_FILE, names)
    return np.concatenate(
      [
        index[name][piece.first : piece.first + piece.count]
        for name, piece in zip(names, pieces, strict=True)
      ]
    )

  def check(self, pieces: list[Piece]) -> list[Piece]:
    """Returns ``pieces``, whose files have the content that was written.

    A file is hashed before it is read for the first time; then its size and times tell
    that it is the same.

    Raises:
      ZsljaxError: a file has other content.
    """
    self.checksums.check(dict.fromkeys(pathlib.Path(p.path).name for p in pieces))
    return pieces

  def _arrays(self, file: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads arrays of an ``.npz`` beside the shards."""
    self.checksums.check([file])
    path = self.folder / file
    with readable(path, AS_WRITTEN), np.load(path, allow_pickle=False) as arrays:
      return {name: arrays[name] for name in names}

  def decode(self, records):
    """Parses serialized records [B], all at once, into a dict of tensors [B, ...].

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


def arrays_of(dataset) -> Iterator[Any]:
  """Iterates over a tf.data dataset as NumPy arrays.

  Nothing is tuned while it runs: the thread that would do so looks up to a minute late
  for the end.
  """
  options = tensorflow()[0].data.Options()
  options.autotune.enabled = False
  return dataset.with_options(options).as_numpy_iterator()


def record_at(path, offset):
  """Returns a dataset of the one record that begins at a byte of a file."""
  tf, _ = tensorflow()
  records = tf.raw_ops.TFRecordDatasetV2(
    filenames=[path],
    compression_type="",
    buffer_size=tf.constant(2**18, tf.int64),
    byte_offsets=[offset],
  )
  spec = tf.TensorSpec((), tf.string)
  return tf.data.experimental.from_variant(records, spec).take(1)


def variants(root: pathlib.Path, name: str) -> list[StoredDataset]:
  """Opens all stored forms (features, class embedding) of a set below ``root``."""
  return [StoredDataset.open(folder) for folder in _folders(root.expanduser(), name)]


def _folders(root: pathlib.Path, name: str) -> list[pathlib.Path]:
  """Finds the folders of all stored forms of a set below ``root``."""
  return [p.parent for p in sorted(root.glob(f"{name}/*/{VERSION}/dataset_info.json"))]


def only_below(folder: pathlib.Path) -> StoredDataset:
  """Opens the one set that is stored in ``folder`` or below.

  Raises:
    ZsljaxError: there is none, or several.
  """
  found = all_below(folder)
  names = ", ".join(str(dataset.folder) for dataset in found)
  expected = f"the folder of one: {names}"
  require(len(found) == 1, str(folder), f"{len(found)} datasets", expected)
  return found[0]


def all_below(folder: pathlib.Path) -> list[StoredDataset]:
  """Opens every set that is stored in ``folder`` or below.

  Raises:
    ZsljaxError: there is none.
  """
  folder = folder.expanduser()
  paths = sorted(folder.rglob("dataset_info.json"))
  found = [x for x in paths if "/.scratch" not in f"/{x.relative_to(folder)}"]
  expected = "the --dest of an import, or below"
  require(len(found) > 0, str(folder), "no stored dataset", expected)
  return [StoredDataset.open(path.parent) for path in found]


def find(
  root: pathlib.Path, name: str, features: str | None, axes: int = 1
) -> StoredDataset:
  """Opens the stored set ``name`` below ``root``.

  Args:
    root: the ``--dest`` of the import.
    name: name of the dataset.
    features: the middle folder's name (features and class embedding); needed
      only where several stand there, or more than one with ``axes``.
    axes: of an image's features that go before others: 1 pooled, 2 regions.

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
      f"{did_you_mean(name, others)} Import one with `zsljax data`."
    )
  if features is None and len(here) > 1:
    fitting = [one for one in variants(root, name) if len(one.feature_shape) == axes]
    if len(fitting) == 1:
      return fitting[0]
  require(
    features is not None or len(here) == 1,
    "config.data.features",
    "nothing",
    f"one of {', '.join(here)}: {root} holds {name} in several forms",
  )
  features = features or next(iter(here))
  what = f"{root} holds no {name} with"
  require_known(features, here, "config.data.features", what)
  return StoredDataset.open(here[features])
