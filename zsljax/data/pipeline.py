"""From shards to batches on the host: seeded order, exact resume, padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import dataclasses
import functools
import itertools

import numpy as np

from zsljax.data.store import Piece, StoredDataset, tensorflow
from zsljax.errors import ZsljaxError, require

# One batch: features [B, ...], labels [B], mask [B].
HostBatch = dict[str, np.ndarray]

CACHE_MODES = ("auto", "host", "none")
# With cache "auto": a split up to this size is held in memory.
CACHE_LIMIT = 4 * 2**30
_SHUFFLE_BYTES = 2**30
_FILES_AT_ONCE = 4
_BLOCK = 16


@dataclasses.dataclass(frozen=True)
class TrainingData:
  """The batches of a training run, a pure function of seed and step.

  An epoch visits the shard files in a seeded order, mixes them through a
  seeded shuffle buffer and drops the incomplete batch at its end. Held in
  memory or streamed, the order is the same.

  Attributes:
    store: the dataset.
    train_split: ``trainval`` or ``train``.
    batch_size: over all hosts; 0 is one batch of everything, in stored order.
    seed: of the order.
    cache: ``host`` holds the split in memory, ``none`` reads every epoch from
      the files, ``auto`` holds it up to ``CACHE_LIMIT`` bytes.
    host: index of this process.
    num_hosts: number of processes.
    multiple_of: the rows of a batch of everything are padded to a multiple of
      this, so that they divide over devices.
  """

  store: StoredDataset
  train_split: str
  batch_size: int
  seed: int
  cache: str = "auto"
  host: int = 0
  num_hosts: int = 1
  multiple_of: int = 1

  def __post_init__(self):
    require(
      self.cache in CACHE_MODES,
      "config.data.cache",
      repr(self.cache),
      f"one of {', '.join(CACHE_MODES)}",
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
  def steps_per_epoch(self) -> int:
    """Batches in one epoch, the same on every host."""
    if not self.batch_size:
      return 1
    return min(self._shares) // self._local_batch

  @property
  def in_memory(self) -> bool:
    """Whether the split is held in host memory."""
    return (
      self.cache == "host"
      or not self.batch_size
      or (
        self.cache == "auto" and self.store.row_bytes * self.num_examples <= CACHE_LIMIT
      )
    )

  def batches(self, start_step: int = 0) -> Iterator[HostBatch]:
    """This host's batches from ``start_step`` on, without end."""
    if not self.batch_size:
      rows = -(-max(self._shares) // self.multiple_of)
      everything = pad(_with_mask(self._table), rows * self.multiple_of)
      while True:
        yield everything
    for epoch in itertools.count(start_step // self.steps_per_epoch):
      skip = max(0, start_step - epoch * self.steps_per_epoch)
      yield from self._epoch(epoch, skip)

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
  def _table(self) -> HostBatch:
    return load(self.store, self._splits, self.host, self.num_hosts)

  def _epoch(self, epoch: int, skip: int) -> Iterator[HostBatch]:
    size, steps = self._local_batch, self.steps_per_epoch
    if self.in_memory:
      order = self._shuffled(_indices, epoch).batch(self.num_examples)
      (order,) = order.as_numpy_iterator()
      for step in range(skip, steps):
        rows = order[step * size : (step + 1) * size]
        yield _with_mask({k: v[rows] for k, v in self._table.items()})
      return
    tf, _ = tensorflow()
    records = self._shuffled(_records, epoch)
    records = records.skip(skip * size).take((steps - skip) * size)
    batches = (
      records.batch(size, drop_remainder=True)
      .map(self.store.decode, tf.data.AUTOTUNE)
      .prefetch(4)
    )
    for batch in _numpy(batches, self.store):
      yield _with_mask(_columns(batch))

  def _shuffled(self, read: Callable, epoch: int):
    """One epoch's order of whatever ``read`` takes from a piece of a file."""
    tf, _ = tensorflow()
    rng = np.random.default_rng([self.seed, epoch])
    pieces = self.store.pieces(self._splits, self.host, self.num_hosts)
    files = _files([pieces[i] for i in rng.permutation(len(pieces))])
    rows = self._shares[self.host]
    buffer = min(rows, max(_SHUFFLE_BYTES // self.store.row_bytes, 1))
    options = tf.data.Options()
    options.deterministic = True
    return (
      files.interleave(
        read,
        cycle_length=min(_FILES_AT_ONCE, len(pieces)),
        block_length=_BLOCK,
        num_parallel_calls=tf.data.AUTOTUNE,
      )
      .shuffle(buffer, seed=int(rng.integers(2**31)))
      .with_options(options)
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
  for batch in _numpy(rows, store):
    left -= 1
    yield pad(_with_mask(_columns(batch)), size)
  empty = {
    "features": np.zeros((size, *store.feature_shape), store.storage_dtype),
    "labels": np.zeros(size, np.int32),
    "mask": np.zeros(size, bool),
  }
  yield from itertools.repeat(empty, left)


def load(
  store: StoredDataset,
  splits: tuple[str, ...],
  host: int = 0,
  num_hosts: int = 1,
) -> HostBatch:
  """Features and labels of one host's share of the splits, in stored order."""
  rows = _stored_order(store, splits, host, num_hosts, batch_size=256)
  total = store.share(splits, host, num_hosts)
  table = {
    "features": np.empty((total, *store.feature_shape), store.storage_dtype),
    "labels": np.empty(total, np.int32),
  }
  at = 0
  for batch in _numpy(rows, store):
    batch = _columns(batch)
    for key, value in batch.items():
      table[key][at : at + len(value)] = value
    at += len(batch["labels"])
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
  tf, _ = tensorflow()
  records = _files(store.pieces(splits, host, num_hosts)).flat_map(_records)
  batches = records.batch(batch_size)
  return batches.map(store.decode, tf.data.AUTOTUNE, deterministic=True).prefetch(4)


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


def _files(pieces: list[Piece]):
  """The fields of each piece, for ``_records`` and ``_indices``."""
  tf, _ = tensorflow()
  return tf.data.Dataset.from_tensor_slices(
    (
      np.array([piece.path for piece in pieces], np.str_),
      np.array([piece.first for piece in pieces], np.int64),
      np.array([piece.count for piece in pieces], np.int64),
      np.array([piece.start for piece in pieces], np.int64),
    )
  )


def _records(path, first, count, start):
  del start
  tf, _ = tensorflow()
  return tf.data.TFRecordDataset(path).skip(first).take(count)


def _indices(path, first, count, start):
  """Stands for ``_records`` of a table that holds the pieces one by one."""
  del path, first
  tf, _ = tensorflow()
  return tf.data.Dataset.range(start, start + count)


def _columns(example: dict[str, np.ndarray]) -> HostBatch:
  return {
    "features": example["features"],
    "labels": example["label"].astype(np.int32),
  }


def _with_mask(batch: HostBatch) -> HostBatch:
  return {**batch, "mask": np.ones(len(batch["labels"]), bool)}
