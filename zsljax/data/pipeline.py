"""Batches from shards, on the host: seeded order, exact resume, padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import concurrent.futures
import dataclasses
import functools
import itertools

import numpy as np

from zsljax.data import placement, sampling
from zsljax.data.store import (
  Piece,
  StoredDataset,
  arrays_of,
  record_at,
  tensorflow,
)
from zsljax.errors import ZsljaxError, in_bytes, line_of, require
from zsljax.io.progress import task_bar

# Arrays on the host, by name: features [B, ...], labels [B], mask [B]; of a multi-label
# set labels [B, M] and, where absences are annotated, absent [B, Q].
Columns = dict[str, np.ndarray]

_SHUFFLE_BYTES = 2**30
# Rows from this size on are read one by one in a random order: as fast as streaming
# them through a shuffle buffer, without the memory for it.
_LARGE_ROW = 2**18
# Batches made ahead, in bytes, and at the most in number.
_AHEAD_BYTES, _AHEAD = 2**28, 4
_FILES_AT_ONCE = 4
_BLOCK = 16
_READ_TOGETHER = 256  # Images whose moments are added at once.


@dataclasses.dataclass(frozen=True)
class TrainingData:
  """Batches of a training run, a pure function of seed and step.

  Held in memory or streamed, the batches are the same. They are drawn by ``sampling``:

  ``epochs``: an epoch visits each image once, in a seeded order, and drops the
  incomplete batch at its end. Rows of 256 KiB or more are read one by one; smaller ones
  stream from the shard files, in a seeded order, through a seeded shuffle buffer.

  ``whole_epochs``: the same, but the incomplete batch is kept, padded and masked.

  ``independent``: each batch is a draw without replacement of its own, as in the
  released MSDN code; "epoch" is only a number of steps.

  ``class_balanced``: each batch is a draw of up to ``batch_size`` classes without
  replacement, and of ``max(batch_size // classes, 1)`` images of each, with it. Classes
  without training images are never drawn.

  Attributes:
    store: the dataset.
    train_split: ``trainval`` or ``train``.
    batch_size: over all hosts; 0 is one batch of everything, in stored order.
    seed: of the order.
    cache: ``host`` holds the split in memory, ``device`` on the devices, ``none``
      reads from the files; ``auto`` is ``device`` where the devices have room, else
      ``host`` up to ``placement.CACHE_LIMIT`` bytes a host, if they are free, else
      ``none``.
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
    for field, known in (
      ("cache", placement.CACHE_MODES),
      ("sampling", sampling.SAMPLINGS),
    ):
      value = getattr(self, field)
      where, expected = f"config.data.{field}", f"one of {', '.join(known)}"
      require(value in known, where, repr(value), expected)
    require(
      self.sampling != "class_balanced" or not self.store.multi_label,
      "config.data.sampling",
      "'class_balanced' with several labels an image",
      "epochs or independent",
    )
    require(self.seed >= 0, "config.data.seed", self.seed, "0 or more")
    require(
      self.batch_size > 0 or self.sampling in sampling.IN_EPOCHS,
      "config.data.sampling",
      f"{self.sampling!r} with config.batch_size=0",
      "epochs, or a batch_size",
    )
    most = min(self._shares) * self.num_hosts
    hosts = ""
    if self.num_hosts > 1:
      hosts = f", and a multiple of {self.num_hosts}, the number of hosts"
    require(
      0 <= self.batch_size <= most and self.batch_size % self.num_hosts == 0,
      "config.batch_size",
      self.batch_size,
      f"0 (everything at once) or at most {most}, the images of {self.train_split}"
      f"{hosts}",
    )

  @property
  def num_examples(self) -> int:
    """Number N of training images, over all hosts."""
    return self.store.size(*self._splits)

  @property
  def size_bytes(self) -> int:
    """Bytes of this host's share."""
    return self.store.row_bytes * self._shares[self.host]

  @property
  def rows_per_batch(self) -> int:
    """Number of images in a batch, over all hosts."""
    if self.sampling == "class_balanced":
      classes, images = self._balanced
      return classes * images * self.num_hosts
    return self.batch_size or self.num_examples

  @property
  def steps_per_epoch(self) -> int:
    """Number of batches in one pass over the training set, the same on every host."""
    if not self.batch_size:
      return 1
    size = self.batch_size // self.num_hosts
    rows = (max if self.sampling == "whole_epochs" else min)(self._shares)
    return sampling.steps_per_epoch(rows, size, self.sampling)

  def total_steps(self, epochs: int) -> int:
    """Counts the batches in ``epochs`` passes, see ``sampling.total_steps``."""
    size = self.batch_size or self.num_examples
    per_epoch, drawn = self.steps_per_epoch, self.sampling
    return sampling.total_steps(epochs, per_epoch, self.num_examples, size, drawn)

  @property
  def host_rows(self) -> int:
    """Number of images of the host with the most."""
    return max(self._shares)

  @functools.cached_property  # Decided once, as free memory changes.
  def placement(self) -> str:
    """Place of the features between steps, see ``placement.place``."""
    if not self.batch_size:
      return "host"
    size = self.host_rows * self.store.row_bytes
    return placement.place(
      self.cache, size, self.device_limit, self.multiple_of, self.num_hosts
    )

  def table(self) -> Columns:
    """Reads features and labels of this host's share, in stored order.

    Raises:
      ZsljaxError: it does not fit into the memory that is free.
    """
    free = placement.available_memory()
    require(
      self.size_bytes <= free,
      "config.data.cache",
      f"{self.placement!r} with {in_bytes(self.size_bytes)} of features",
      f"none: {in_bytes(free)} are free in this host's memory",
    )
    return load(self.store, *self._share)

  def moments(self) -> tuple[np.ndarray, np.ndarray]:
    """Reads mean ``[D]`` and covariance ``[D, D]`` of the features, of all hosts."""
    width = self.store.feature_shape[-1]
    count, total, products = 0, np.zeros(width), np.zeros((width, width))
    pieces = self.store.check(self.store.pieces(self._splits))
    for batch in _stored_order(self.store, pieces, _READ_TOGETHER):
      rows = batch["features"].reshape(-1, width).astype(np.float64)
      count += len(rows)
      total += rows.sum(0)
      products += rows.T @ rows
    mean = total / count
    return mean, products / count - np.outer(mean, mean)

  def rows(self, start_step: int = 0) -> Iterator[np.ndarray]:
    """Yields each batch's rows of the table from ``start_step`` on, without end.

    -1 is padding.
    """
    if not self.batch_size:
      yield from itertools.repeat(np.arange(self._shares[self.host]))
    if self.sampling not in sampling.IN_EPOCHS:
      yield from map(self._drawn, itertools.count(start_step))
    size, steps = self._local_rows, self.steps_per_epoch
    first, skip = divmod(start_step, steps)
    for order in self._orders(first):
      order = sampling.cut(order, steps * size)
      for step in range(skip, steps):
        yield order[step * size : (step + 1) * size]
      skip = 0

  def batches(self, start_step: int = 0) -> Iterator[Columns]:
    """Yields this host's batches from ``start_step`` on, without end."""
    if self.placement == "none":
      return self._streamed(start_step)
    return self._from_table(start_step)

  @property
  def _splits(self) -> tuple[str, ...]:
    return self.store.training_splits(self.train_split)

  @property
  def _share(self) -> tuple[tuple[str, ...], int, int]:
    return self._splits, self.host, self.num_hosts

  @property
  def _local_rows(self) -> int:
    return self.rows_per_batch // self.num_hosts

  @functools.cached_property
  def _shares(self) -> list[int]:
    hosts = range(self.num_hosts)
    return [self.store.share(self._splits, host, self.num_hosts) for host in hosts]

  @property
  def _large_rows(self) -> bool:
    return self.store.row_bytes >= _LARGE_ROW

  def _from_table(self, start_step: int) -> Iterator[Columns]:
    """Yields batches of a table in this host's memory."""
    table = self.table()
    if not self.batch_size:
      rows = -(-self.host_rows // self.multiple_of) * self.multiple_of
      yield from itertools.repeat(pad(_with_mask(table), rows))
    for rows in self.rows(start_step):
      yield {**{k: v[rows] for k, v in table.items()}, "mask": rows >= 0}

  def _streamed(self, start_step: int) -> Iterator[Columns]:
    """Yields batches that are read from the files as they come."""
    size, steps = self._local_rows, self.steps_per_epoch
    if self.sampling not in sampling.IN_EPOCHS or self._large_rows:
      batches = self._decoded(self._single_records(start_step), size)
      for rows, batch in zip(self.rows(start_step), batches, strict=False):
        yield {**batch, "mask": rows >= 0}
    self.store.check(self._pieces)
    padding = pad(_with_mask(_rows_of_zeros(self.store, 0)), size)
    for epoch in itertools.count(start_step // steps):
      skip = max(0, start_step - epoch * steps)
      records = self._shuffled(_records, *self._order_of_pieces(epoch))
      records = records.skip(skip * size).take((steps - skip) * size)
      # Another host may have a batch more.
      own = itertools.chain(self._decoded(records, size), itertools.repeat(padding))
      yield from itertools.islice(own, steps - skip)

  def _single_records(self, start_step: int):
    """Returns a dataset of the drawn records, each read from its place in its file."""
    tf, _ = tensorflow()
    paths, offsets = self.store.single_records(*self._share)
    drawn = tf.data.Dataset.from_generator(
      lambda: itertools.chain.from_iterable(
        zip(paths[rows], offsets[rows], strict=True) for rows in self.rows(start_step)
      ),
      output_signature=(tf.TensorSpec((), tf.string), tf.TensorSpec((), tf.int64)),
    )
    return _interleaved(drawn, record_at, self._local_rows, block_length=1)

  def _decoded(self, records, size: int) -> Iterator[Columns]:
    """Yields batches of ``size`` serialized records as arrays."""
    for batch in _numpy(_decode(self.store, records.batch(size), size), self.store):
      yield pad(_with_mask(batch), size)

  def _drawn(self, step: int) -> np.ndarray:
    """Draws this host's rows of one batch."""
    draw, size = (self.seed, step, self.host), self._local_rows
    if self.sampling == "independent":
      return sampling.independent(*draw, self._shares[self.host], size)
    classes, images = self._balanced
    return sampling.class_balanced(
      *draw, self._rows_of, classes, self.num_hosts, images
    )

  @property
  def _balanced(self) -> tuple[int, int]:
    """Classes that this host draws for a balanced batch, and images of each."""
    classes, images = sampling.balanced(self.batch_size, len(self._rows_of))
    return classes // self.num_hosts, images

  @functools.cached_property
  def _rows_of(self) -> dict[int, np.ndarray]:
    """Rows of each class that has training images, of this host."""
    labels = self.store.labels(*self._share)
    classes = np.unique(self.store.labels(self._splits))
    rows = {int(c): np.flatnonzero(labels == c) for c in classes}
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
    """Yields the rows of the table as each epoch from one on visits them."""
    if self._large_rows:
      for each in itertools.count(epoch):
        yield sampling.permuted(self.seed, each, self.host, self._shares[self.host])
    tf, _ = tensorflow()
    # One graph for all epochs: to make one takes longer than to shuffle.
    draws = tf.data.Dataset.from_generator(
      lambda: map(self._order_of_pieces, itertools.count(epoch)),
      output_signature=(tf.TensorSpec(None, tf.int64), tf.TensorSpec((), tf.int64)),
    )

    def rows(order, seed):
      return self._shuffled(_indices, order, seed).batch(self.num_examples)

    yield from arrays_of(draws.flat_map(rows).prefetch(1))

  @functools.cached_property
  def _pieces(self) -> list[Piece]:
    return self.store.pieces(*self._share)

  def _order_of_pieces(self, epoch: int) -> tuple[np.ndarray, int]:
    """Draws the order of the pieces of files in an epoch, and its shuffling seed."""
    return sampling.order_of_pieces(self.seed, epoch, len(self._pieces))

  def _shuffled(self, read: Callable, order, seed):
    """Returns a dataset of what ``read`` takes from the pieces, in an epoch's order."""
    files = _interleaved(
      _files(self._pieces, order),
      read,
      min(_FILES_AT_ONCE, len(self._pieces)),
      block_length=_BLOCK,
    )
    buffer = max(_SHUFFLE_BYTES // self.store.row_bytes, 1)
    return files.shuffle(min(self._shares[self.host], buffer), seed=seed)


def evaluation_batches(
  store: StoredDataset,
  splits: tuple[str, ...],
  batch_size: int,
  host: int = 0,
  num_hosts: int = 1,
) -> Iterator[Columns]:
  """Yields all examples once, in stored order; the last batch is padded and masked.

  Every host yields the same number of batches of ``batch_size / num_hosts``
  rows.
  """
  size = batch_size // num_hosts
  most = max(store.share(splits, h, num_hosts) for h in range(num_hosts))
  left = -(-most // size)
  with task_bar(left, f"reading {' and '.join(splits)}", "batches") as bar:
    pieces = store.check(store.pieces(splits, host, num_hosts))
    for batch in _stored_order(store, pieces, size):
      left -= 1
      yield pad(_with_mask(batch), size)
      bar.update()
  yield from itertools.repeat(pad(_with_mask(_rows_of_zeros(store, 0)), size), left)


def load(
  store: StoredDataset, splits: tuple[str, ...], host: int = 0, num_hosts: int = 1
) -> Columns:
  """Reads features and labels of one host's share of the splits, in stored order."""
  total = store.share(splits, host, num_hosts)
  table = _rows_of_zeros(store, total)
  at = 0
  pieces = store.pieces(splits, host, num_hosts)
  with (
    concurrent.futures.ThreadPoolExecutor(1) as pool,
    task_bar(total, f"reading {' and '.join(splits)}", "images") as bar,
  ):
    checked = pool.submit(store.check, pieces)  # While they are read.
    try:
      for batch in _stored_order(store, pieces, batch_size=256):
        rows = len(batch["labels"])
        for key, value in batch.items():
          table[key][at : at + rows] = value
        at += rows
        bar.update(rows)
    finally:
      checked.result()  # Says more than a record that cannot be read.
  return table


def pad(batch: Columns, rows: int) -> Columns:
  """Returns ``batch`` with masked rows of zeros at its end, up to ``rows``."""
  missing = rows - len(batch["mask"])
  if not missing:
    return batch
  return {
    key: np.pad(value, [(0, missing)] + [(0, 0)] * (value.ndim - 1))
    for key, value in batch.items()
  }


def _stored_order(store, pieces: list[Piece], batch_size: int) -> Iterator[Columns]:
  """Yields the records of pieces, in stored order."""
  records = _files(pieces).flat_map(_records)
  return _numpy(_decode(store, records.batch(batch_size), batch_size), store)


def _decode(store: StoredDataset, batches, batch_size: int):
  """Returns a dataset of serialized batches as tensors, some of them made ahead."""
  ahead = _AHEAD_BYTES // (batch_size * store.row_bytes)
  ahead = min(max(ahead, 1), _AHEAD)
  tf, _ = tensorflow()
  parallel = tf.data.AUTOTUNE if ahead == _AHEAD else ahead
  return batches.map(store.decode, parallel, deterministic=True).prefetch(ahead)


def _numpy(dataset, store: StoredDataset) -> Iterator[Columns]:
  """Yields the decoded batches of a tf.data dataset; a damaged record is named."""
  tf, _ = tensorflow()
  names = {"label": "labels", "labels": "labels", "absent": "absent"}
  try:
    for example in arrays_of(dataset):
      ids = {names[k]: v.astype(np.int32) for k, v in example.items() if k in names}
      yield {"features": example["features"], **ids}
  except tf.errors.OpError as error:
    reason = line_of(error.message.split("}} ")[-1].split(" [Op:")[0])
    raise ZsljaxError(
      f"{store.folder}: a record cannot be read ({reason}); the shards are damaged, "
      "import the dataset again with --overwrite"
    ) from error


def _interleaved(dataset, read: Callable, cycle_length: int, block_length: int):
  """Returns a dataset of what ``read`` makes of each element, in a fixed order."""
  return dataset.interleave(
    read,
    cycle_length=cycle_length,
    block_length=block_length,
    num_parallel_calls=tensorflow()[0].data.AUTOTUNE,
    deterministic=True,
  )


def _files(pieces: list[Piece], order=None):
  """Returns a dataset of the fields of each piece."""
  tf, _ = tensorflow()
  paths = np.array([piece.path for piece in pieces], np.str_)
  places = np.array([piece[1:] for piece in pieces], np.int64).reshape(-1, 3)
  fields = paths, *places.T
  if order is not None:
    fields = tuple(tf.gather(field, order) for field in fields)
  return tf.data.Dataset.from_tensor_slices(fields)


def _records(path, first, count, start):
  """Returns a dataset of the records of a piece."""
  del start
  tf, _ = tensorflow()
  return tf.data.TFRecordDataset(path).skip(first).take(count)


def _indices(path, first, count, start):
  """Returns a dataset of a piece's rows in a table of all pieces."""
  del path, first
  tf, _ = tensorflow()
  return tf.data.Dataset.range(start, start + count)


def _rows_of_zeros(store: StoredDataset, rows: int) -> Columns:
  """Returns a table of the set's columns, to be filled."""
  widths = store.metadata["label_widths"]
  labels = {name: (rows, width) for name, width in widths.items()} or {"labels": rows}
  return {
    "features": np.zeros((rows, *store.feature_shape), store.storage_dtype),
    **{name: np.zeros(shape, np.int32) for name, shape in labels.items()},
  }


def _with_mask(batch: Columns) -> Columns:
  """Returns ``batch`` with a mask that keeps all rows."""
  return {**batch, "mask": np.ones(len(batch["labels"]), bool)}
