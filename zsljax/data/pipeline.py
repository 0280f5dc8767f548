"""From shards to batches on the host: seeded order, exact resume, padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib

import numpy as np

from zsljax.data.store import Piece, StoredDataset, tensorflow
from zsljax.errors import ZsljaxError, in_bytes, require
from zsljax.io.progress import task_bar

# One batch: features [B, ...], labels [B], mask [B]; of a multi-label set labels
# [B, M] and, where absences are annotated, absent [B, Q].
HostBatch = dict[str, np.ndarray]

CACHE_MODES = ("auto", "device", "host", "none")
SAMPLINGS = ("epochs", "independent", "class_balanced")
# With cache "auto": a split up to this size is held in memory.
CACHE_LIMIT = 4 * 2**30
_SHUFFLE_BYTES = 2**30
# Rows from this size on are read one by one in a random order: as fast as streaming
# them through a shuffle buffer, without the memory for it.
_LARGE_ROW = 2**18
# Batches made ahead, in bytes, and at the most in number.
_AHEAD_BYTES, _AHEAD = 2**28, 4
_FILES_AT_ONCE = 4
_BLOCK = 16


@dataclasses.dataclass(frozen=True)
class TrainingData:
  """The batches of a training run, a pure function of seed and step.

  Held in memory or streamed, the batches are the same. ``sampling`` says how they
  are drawn:

  ``epochs``: an epoch visits each image once, in a seeded order, and drops the
  incomplete batch at its end. Rows of 256 KiB or more are read one by one; smaller ones
  stream from the shard files, in a seeded order, through a seeded shuffle buffer.

  ``independent``: each batch is a draw without replacement of its own, as in the
  released MSDN code; "epoch" is only a number of steps.

  ``class_balanced``: each batch is a draw of classes without replacement, and of one
  image of each; it has as many images as there are classes, if they are fewer than
  ``batch_size``. Classes without training images are never drawn.

  Attributes:
    store: the dataset.
    train_split: ``trainval`` or ``train``.
    batch_size: over all hosts; 0 is one batch of everything, in stored order.
    seed: of the order.
    cache: ``host`` holds the split in memory, ``device`` on the devices, ``none``
      reads from the files; ``auto`` is ``device`` where the devices have room, else
      ``host`` up to ``CACHE_LIMIT`` bytes a host, if they are free, else ``none``.
    sampling: of ``SAMPLINGS``.
    host: index of this process.
    num_hosts: number of processes.
    device_limit: bytes that each device has room for.
    multiple_of: the devices that share a batch: the rows of a batch of everything are
      padded to a multiple of this.
  """

  store: StoredDataset
  train_split: str
  batch_size: int
  seed: int
  cache: str = "auto"
  sampling: str = "epochs"
  host: int = 0
  num_hosts: int = 1
  device_limit: int = 0
  multiple_of: int = 1

  def __post_init__(self):
    require(
      self.cache in CACHE_MODES,
      "config.data.cache",
      repr(self.cache),
      f"one of {', '.join(CACHE_MODES)}",
    )
    require(
      self.sampling in SAMPLINGS,
      "config.data.sampling",
      repr(self.sampling),
      f"one of {', '.join(SAMPLINGS)}",
    )
    require(
      self.sampling != "class_balanced" or not self.store.multi_label,
      "config.data.sampling",
      "'class_balanced' with several labels an image",
      "epochs or independent",
    )
    require(
      self.batch_size > 0 or self.sampling == "epochs",
      "config.data.sampling",
      f"{self.sampling!r} with config.batch_size=0",
      "epochs, or a batch_size",
    )
    require(
      self.batch_size >= 0 and self.batch_size % self.num_hosts == 0,
      "config.batch_size",
      self.batch_size,
      f"0 (everything at once) or a multiple of the {self.num_hosts} hosts",
    )
    fewest = min(self._shares)
    require(
      self.batch_size // self.num_hosts <= fewest,
      "config.batch_size",
      self.batch_size,
      f"at most {fewest * self.num_hosts}, the images of {self.train_split}",
    )

  @property
  def num_examples(self) -> int:
    """N, over all hosts."""
    return self.store.size(*self._splits)

  @property
  def size_bytes(self) -> int:
    """Of this host's share."""
    return self.store.row_bytes * self._shares[self.host]

  @property
  def rows_per_batch(self) -> int:
    """Images in a batch, over all hosts."""
    if self.sampling == "class_balanced":
      return min(self.batch_size, len(self._classes)) // self.num_hosts * self.num_hosts
    return self.batch_size or self.num_examples

  @property
  def steps_per_epoch(self) -> int:
    """Batches in one pass over the training set, the same on every host."""
    if not self.batch_size:
      return 1
    return min(self._shares) // self._local_batch

  def total_steps(self, epochs: int) -> int:
    """Batches in ``epochs`` passes.

    When batches are drawn independently nothing ends with a pass, and the released
    code's count is taken: images times epochs over the batch size, rounded down.
    """
    if self.sampling == "epochs":
      return epochs * self.steps_per_epoch
    return epochs * self.num_examples // self.batch_size

  @property
  def host_rows(self) -> int:
    """Images of the host with the most."""
    return max(self._shares)

  @functools.cached_property  # Decided once, as free memory changes.
  def placement(self) -> str:
    """Where the features are between steps.

    ``device``: all on every device; ``split``: each device has a part; ``host``; or
    ``none``.
    """
    if not self.batch_size:
      return "host"
    if self.cache in ("host", "none"):
      return self.cache
    size, asked = self.host_rows * self.store.row_bytes, self.cache == "device"
    if not asked and max(size, self.size_bytes) > available_memory():
      return "none"
    split = self.num_hosts > 1 or self.multiple_of > 1 and size > self.device_limit
    parts = self.multiple_of // self.num_hosts if split else 1
    if asked or size <= parts * self.device_limit:
      return "split" if split else "device"
    return "host" if size <= CACHE_LIMIT else "none"

  def table(self) -> HostBatch:
    """Features and labels of this host's share, in stored order.

    Raises:
      ZsljaxError: it does not fit into the memory that is free.
    """
    free = available_memory()
    require(
      self.size_bytes <= free,
      "config.data.cache",
      f"{self.placement!r} with {in_bytes(self.size_bytes)} of features",
      f"none: {in_bytes(free)} are free in this host's memory",
    )
    return load(self.store, self._splits, self.host, self.num_hosts)

  def rows(self, start_step: int = 0) -> Iterator[np.ndarray]:
    """Rows of the table for each batch from ``start_step`` on, without end."""
    if not self.batch_size:
      yield from itertools.repeat(np.arange(self._shares[self.host]))
    if self.sampling != "epochs":
      yield from map(self._drawn, itertools.count(start_step))
    size, steps = self._local_batch, self.steps_per_epoch
    first, skip = divmod(start_step, steps)
    for order in self._orders(first):
      for step in range(skip, steps):
        yield order[step * size : (step + 1) * size]
      skip = 0

  def batches(self, start_step: int = 0) -> Iterator[HostBatch]:
    """This host's batches from ``start_step`` on, without end."""
    if self.placement == "none":
      return self._streamed(start_step)
    return self._from_table(start_step)

  @property
  def _splits(self) -> tuple[str, ...]:
    return self.store.training_splits(self.train_split)

  @property
  def _local_batch(self) -> int:
    return self.batch_size // self.num_hosts

  @functools.cached_property
  def _shares(self) -> list[int]:
    """The images of each host."""
    return [
      self.store.share(self._splits, host, self.num_hosts)
      for host in range(self.num_hosts)
    ]

  @functools.cached_property
  def _classes(self) -> np.ndarray:
    """Ids of the classes with training images, the same on every host."""
    return np.unique(self.store.labels(self._splits))

  def _from_table(self, start_step: int) -> Iterator[HostBatch]:
    table = self.table()
    if not self.batch_size:
      rows = -(-max(self._shares) // self.multiple_of)
      everything = pad(_with_mask(table), rows * self.multiple_of)
      yield from itertools.repeat(everything)
    for rows in self.rows(start_step):
      yield _with_mask({k: v[rows] for k, v in table.items()})

  def _streamed(self, start_step: int) -> Iterator[HostBatch]:
    if self.sampling != "epochs" or self._large_rows:
      yield from self._read_singly(start_step)
    size, steps = self._local_batch, self.steps_per_epoch
    for epoch in itertools.count(start_step // steps):
      skip = max(0, start_step - epoch * steps)
      records = self._shuffled(_records, *self._draw(epoch))
      records = records.skip(skip * size).take((steps - skip) * size)
      yield from self._decoded(records, size)

  def _read_singly(self, start_step: int) -> Iterator[HostBatch]:
    """The drawn batches, each record read from its place in its file."""
    tf, _ = tensorflow()
    paths, offsets = self.store.single_records(self._splits, self.host, self.num_hosts)
    size = self._local_rows
    drawn = tf.data.Dataset.from_generator(
      lambda: itertools.chain.from_iterable(
        zip(paths[rows], offsets[rows], strict=True) for rows in self.rows(start_step)
      ),
      output_signature=(tf.TensorSpec((), tf.string), tf.TensorSpec((), tf.int64)),
    )
    records = drawn.interleave(
      _record_at,
      cycle_length=size,
      block_length=1,
      num_parallel_calls=tf.data.AUTOTUNE,
      deterministic=True,
    )
    yield from self._decoded(records, size)

  def _decoded(self, records, size: int) -> Iterator[HostBatch]:
    batches = _decode(self.store, records.batch(size, drop_remainder=True), size)
    for batch in _numpy(batches, self.store):
      yield _with_mask(_columns(batch))

  @property
  def _large_rows(self) -> bool:
    return self.store.row_bytes >= _LARGE_ROW

  @property
  def _local_rows(self) -> int:
    return self.rows_per_batch // self.num_hosts

  def _drawn(self, step: int) -> np.ndarray:
    """Rows of one batch of this host's share, a function of seed, step and host."""
    if self.sampling == "independent":
      rng = np.random.default_rng([self.seed, step, self.host])
      return rng.choice(self._shares[self.host], self._local_batch, replace=False)
    rng = np.random.default_rng([self.seed, step])  # The same classes on every host.
    classes = rng.choice(self._classes, self.rows_per_batch, replace=False)
    rng = np.random.default_rng([self.seed, step, self.host])
    size = self._local_rows
    mine = classes[self.host * size : (self.host + 1) * size]
    return np.array([rng.choice(self._rows_of[label]) for label in mine])

  @functools.cached_property
  def _rows_of(self) -> dict[int, np.ndarray]:
    """This host's rows of each class."""
    labels = self.store.labels(self._splits, self.host, self.num_hosts)
    rows = {int(c): np.flatnonzero(labels == c) for c in self._classes}
    empty = [c for c, of_class in rows.items() if not of_class.size]
    require(
      not empty,
      "config.data.sampling",
      f"class_balanced, but class {empty[0] if empty else ''} has no image in the "
      f"share of host {self.host}",
      f"at least {self.num_hosts} training images in every class",
    )
    return rows

  def _orders(self, epoch: int) -> Iterator[np.ndarray]:
    """The rows of the table as each epoch from one on visits them."""
    if self._large_rows:
      for each in itertools.count(epoch):
        rng = np.random.default_rng([self.seed, each, self.host])
        yield rng.permutation(self._shares[self.host])
    tf, _ = tensorflow()
    # One graph for all epochs: to make one takes longer than to shuffle.
    draws = tf.data.Dataset.from_generator(
      lambda: map(self._draw, itertools.count(epoch)),
      output_signature=(tf.TensorSpec(None, tf.int64), tf.TensorSpec((), tf.int64)),
    )
    orders = draws.flat_map(
      lambda pieces, seed: self._shuffled(_indices, pieces, seed).batch(
        self.num_examples
      )
    )
    yield from orders.prefetch(1).as_numpy_iterator()

  def _draw(self, epoch: int) -> tuple[np.ndarray, int]:
    """The order of the pieces of files in one epoch, and the seed of its shuffling."""
    rng = np.random.default_rng([self.seed, epoch])
    order = rng.permutation(len(self._pieces))
    return order, int(rng.integers(2**31))

  @functools.cached_property
  def _pieces(self) -> list[Piece]:
    return self.store.pieces(self._splits, self.host, self.num_hosts)

  def _shuffled(self, read: Callable, pieces, seed):
    """One epoch's order, see ``_draw``, of what ``read`` takes from pieces of files."""
    rows = self._shares[self.host]
    buffer = min(rows, max(_SHUFFLE_BYTES // self.store.row_bytes, 1))
    tf, _ = tensorflow()
    return (
      _files(self._pieces, pieces)
      .interleave(
        read,
        cycle_length=min(_FILES_AT_ONCE, len(self._pieces)),
        block_length=_BLOCK,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
      )
      .shuffle(buffer, seed=seed)
    )


def evaluation_batches(
  store: StoredDataset,
  splits: tuple[str, ...],
  batch_size: int,
  host: int = 0,
  num_hosts: int = 1,
) -> Iterator[HostBatch]:
  """All examples once, in stored order; the last batch is padded and masked.

  Every host yields the same number of batches of ``batch_size / num_hosts``
  rows.
  """
  size = batch_size // num_hosts
  most = max(store.share(splits, h, num_hosts) for h in range(num_hosts))
  rows = _stored_order(store, splits, host, num_hosts, size)
  left = -(-most // size)
  with task_bar(left, f"reading {' and '.join(splits)}", "batches") as bar:
    for batch in _numpy(rows, store):
      left -= 1
      yield pad(_with_mask(_columns(batch)), size)
      bar.update()
  yield from itertools.repeat(pad(_with_mask(_rows_of_zeros(store, 0)), size), left)


def load(
  store: StoredDataset,
  splits: tuple[str, ...],
  host: int = 0,
  num_hosts: int = 1,
) -> HostBatch:
  """Features and labels of one host's share of the splits, in stored order."""
  rows = _stored_order(store, splits, host, num_hosts, batch_size=256)
  total = store.share(splits, host, num_hosts)
  table = _rows_of_zeros(store, total)
  at = 0
  with task_bar(total, f"reading {' and '.join(splits)}", "images") as bar:
    for batch in _numpy(rows, store):
      batch = _columns(batch)
      for key, value in batch.items():
        table[key][at : at + len(value)] = value
      at += len(batch["labels"])
      bar.update(len(batch["labels"]))
  return table


def pad(batch: HostBatch, rows: int) -> HostBatch:
  """``batch`` with rows of zeros at its end, masked out, up to ``rows``."""
  missing = rows - len(batch["mask"])
  return {
    key: np.pad(value, [(0, missing)] + [(0, 0)] * (value.ndim - 1))
    if missing
    else value
    for key, value in batch.items()
  }


def _stored_order(store, splits, host, num_hosts, batch_size):
  records = _files(store.pieces(splits, host, num_hosts)).flat_map(_records)
  return _decode(store, records.batch(batch_size), batch_size)


def _decode(store: StoredDataset, batches, batch_size: int):
  """Serialized batches as tensors, some of them ahead."""
  ahead = _AHEAD_BYTES // (batch_size * store.row_bytes)
  ahead = min(max(ahead, 1), _AHEAD)
  tf, _ = tensorflow()
  parallel = tf.data.AUTOTUNE if ahead == _AHEAD else ahead
  return batches.map(store.decode, parallel, deterministic=True).prefetch(ahead)


def _numpy(dataset, store: StoredDataset):
  """The batches of a tf.data dataset; a damaged record is named."""
  tf, _ = tensorflow()
  try:
    yield from dataset.as_numpy_iterator()
  except tf.errors.OpError as error:
    reason = error.message.split("}} ")[-1].split(" [Op:")[0]
    raise ZsljaxError(
      f"{store.folder}: a record cannot be read ({reason}); the shards are damaged, "
      "import the dataset again with --overwrite"
    ) from error


def _files(pieces: list[Piece], order=None):
  """The fields of each piece, in an order, for ``_records`` and ``_indices``."""
  tf, _ = tensorflow()
  fields = (
    np.array([piece.path for piece in pieces], np.str_),
    np.array([piece.first for piece in pieces], np.int64),
    np.array([piece.count for piece in pieces], np.int64),
    np.array([piece.start for piece in pieces], np.int64),
  )
  if order is not None:
    fields = tuple(tf.gather(field, order) for field in fields)
  return tf.data.Dataset.from_tensor_slices(fields)


def _records(path, first, count, start):
  del start
  tf, _ = tensorflow()
  return tf.data.TFRecordDataset(path).skip(first).take(count)


def _indices(path, first, count, start):
  """Stands for ``_records`` of a table that holds the pieces one by one."""
  del path, first
  tf, _ = tensorflow()
  return tf.data.Dataset.range(start, start + count)


def _record_at(path, offset):
  """The record that begins at a byte of a file."""
  tf, _ = tensorflow()
  records = tf.raw_ops.TFRecordDatasetV2(
    filenames=[path],
    compression_type="",
    buffer_size=tf.constant(2**18, tf.int64),
    byte_offsets=[offset],
  )
  spec = tf.TensorSpec((), tf.string)
  return tf.data.experimental.from_variant(records, spec).take(1)


def available_memory() -> int:
  """Bytes of memory that a process can still take; a container's limit counts."""
  try:
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if "MemAvailable" in line)
    free = 1024 * int(kilobytes)
  except (OSError, StopIteration):
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  with contextlib.suppress(OSError, ValueError):  # "max" is no limit.
    group = pathlib.Path("/sys/fs/cgroup")
    limit = int((group / "memory.max").read_text())
    free = min(free, limit - int((group / "memory.current").read_text()))
  return free


def _columns(example: dict[str, np.ndarray]) -> HostBatch:
  names = {"label": "labels", "labels": "labels", "absent": "absent"}
  ids = {names[k]: v.astype(np.int32) for k, v in example.items() if k in names}
  return {"features": example["features"], **ids}


def _rows_of_zeros(store: StoredDataset, rows: int) -> HostBatch:
  """A table of the set's columns, to be filled."""
  widths = store.metadata["label_widths"]
  labels = {name: (rows, width) for name, width in widths.items()}
  return {
    "features": np.zeros((rows, *store.feature_shape), store.storage_dtype),
    **{
      k: np.zeros(shape, np.int32) for k, shape in (labels or {"labels": rows}).items()
    },
  }


def _with_mask(batch: HostBatch) -> HostBatch:
  return {**batch, "mask": np.ones(len(batch["labels"]), bool)}
