"""Writing the shards of a set through Apache Beam: in several processes or machines.

The stored order follows from the images' rows, so every shard is written by one worker,
which reads its images from the files of the features: no features are sent, sorted or
held in memory. What else workers need lies in a folder beside the shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
import io
import logging
import os
import pathlib
import shutil
import signal
import threading
import types
from typing import Any
import uuid

import numpy as np

from zsljax.data.feature_set import FeatureSet, Rows, blocks
from zsljax.data.files.features import FeatureFiles
from zsljax.data.store import RECORD_OVERHEAD, Records, tensorflow
from zsljax.errors import ZsljaxError, did_you_mean
from zsljax.io.progress import task_bar

_FLAG = "--beam_pipeline_options"
_ERROR_FILE = "error.txt"
_LABEL_PARTS = ("data", "indices", "indptr")


def apache_beam():
  """Apache Beam, imported late.

  Raises:
    ZsljaxError: it is not installed.
  """
  try:
    import apache_beam
  except ImportError as error:
    raise ZsljaxError(
      f"{_FLAG}: found no Apache Beam ({error}), expected it installed, as by pip "
      'install "zsljax[beam]"'
    ) from error
  return apache_beam


def pipeline_options(text: str):
  """Beam's ``PipelineOptions``, from the list that ``tfds build`` takes too.

  Args:
    text: ``NAME=VALUE,NAME=VALUE``. Without a ``runner`` it is Beam's direct runner.

  Raises:
    ZsljaxError: Beam is not installed, or refuses an option; there is no such runner.
  """
  beam = apache_beam()
  from apache_beam.options import pipeline_options as known

  flags = [f"--{option}" for option in text.split(",") if option]
  said = io.StringIO()
  try:
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
      options = known.PipelineOptions(flags)
      given = options.get_all_options(retain_unknown_options=True)
      runner = beam.Pipeline(options=options).runner
  except (AttributeError, ImportError, SystemExit, ValueError) as error:
    reason = said.getvalue().strip().rpartition("error: ")[2] or error
    raise ZsljaxError(
      f"{_FLAG}: found {text!r}, which Beam refuses ({reason}), expected its options "
      "as NAME=VALUE,NAME=VALUE, a runner that is installed among them"
    ) from error
  if isinstance(runner, beam.runners.DirectRunner):
    names = known.PipelineOptions([]).get_all_options()
    direct = known.DirectOptions([]).get_all_options(current_only=True)
    for name in given.keys() - names:  # A cluster may know others.
      raise ZsljaxError(
        f"{_FLAG}: found {name!r}, which Beam does not know. "
        f"{did_you_mean(name, ('runner', *direct))}"
      )
    # Else it first looks for another runner, in the network.
    options.view_as(known.TypeOptions).allow_unsafe_triggers = True
    options.view_as(known.WorkerOptions).default_sdk_harness_log_level = "CRITICAL"
  return options


def write_splits(builder, feature_set: FeatureSet, records: Records, config) -> list:
  """Writes the shards of a TFDS builder, in the order in which it would by itself.

  Features that are not single rows of files are copied once, for workers to read.

  Args:
    builder: whose ``data_path`` all workers can write to.
    feature_set: what is stored.
    records: of it.
    config: the builder's ``DownloadConfig``, with ``beam_options``.

  Returns:
    A ``SplitInfo`` for each split.

  Raises:
    RuntimeError: a worker failed, or the runner; the message is one line.
  """
  beam = apache_beam()
  folder = pathlib.Path(builder.data_path).absolute() / "beam"
  folder.mkdir()
  writer = ShardWriter.share(records, builder.info.features, folder)
  shards = {
    split: _shards(builder, split, rows, writer, config)
    for split, rows in feature_set.splits.items()
  }
  with _failures(folder), beam.Pipeline(options=config.beam_options) as pipeline:
    work = beam.Create([shard for part in shards.values() for shard in part])
    _ = pipeline | work | beam.Reshuffle() | beam.Map(writer.write)
  shutil.rmtree(folder)
  return [_split_info(builder, split, part) for split, part in shards.items()]


@dataclasses.dataclass(frozen=True)
class Shard:
  """A file of records: from which to which image of a split, in stored order."""

  path: str
  split: str
  start: int
  stop: int


def _shards(
  builder, split: str, rows: np.ndarray, writer: ShardWriter, config
) -> list[Shard]:
  """The shards of a split, whose rows are written into the folder in stored order.

  There are as many as TFDS makes where all records are as long as the first.
  """
  _, tfds = tensorflow()
  hasher = tfds.core.hashing.Hasher(split)
  rows = np.array(sorted(rows.tolist(), key=hasher.hash_key))
  np.save(writer.folder / f"rows_{split}.npy", rows)
  sizes = config.get_shard_config() or tfds.core.utils.shard_utils.ShardConfig()
  total = len(rows) * len(writer.serialized(rows[0]))
  number = sizes.get_number_shards(total, len(rows))
  stops = tfds.core.utils.shard_utils.get_shard_boundaries(len(rows), number)
  template = builder._get_filename_template(split)
  paths = [
    os.path.abspath(template.sharded_filepath(shard_index=i, num_shards=number))
    for i in range(number)
  ]
  starts = [0, *stops[:-1]]
  return [
    Shard(path, split, start, stop)
    for path, start, stop in zip(paths, starts, stops, strict=True)
  ]


def _split_info(builder, split: str, shards: list[Shard]):
  _, tfds = tensorflow()
  lengths = [shard.stop - shard.start for shard in shards]
  written = sum(os.path.getsize(shard.path) for shard in shards)
  return tfds.core.SplitInfo(
    name=split,
    shard_lengths=lengths,
    num_bytes=written - RECORD_OVERHEAD * sum(lengths),
    filename_template=builder._get_filename_template(split),
  )


@dataclasses.dataclass(frozen=True)
class ShardWriter:
  """What workers are sent: how they open a set, and no arrays.

  Attributes:
    folder: with the labels, and the rows of each split in stored order.
    open_features: gives the features of all images.
    lists: as in ``Records``.
    dtype: as in ``Records``.
    spec: TFDS's description of a record.
  """

  folder: pathlib.Path
  open_features: Callable[[], Rows]
  lists: tuple[str, ...]
  dtype: np.dtype
  spec: Any

  @classmethod
  def share(cls, records: Records, spec: Any, folder: pathlib.Path) -> ShardWriter:
    """Writes into ``folder`` what ``records`` has in memory."""
    if records.lists:
      for part in _LABEL_PARTS:
        np.save(folder / f"{part}.npy", getattr(records.labels, part))
    else:
      np.save(folder / "labels.npy", records.labels)
    features = records.features
    if isinstance(features, FeatureFiles) and features.single_rows:
      opened = features.opener(folder / "files.npy")
    else:
      opened = _copied(features, folder / "features")
    return cls(folder, opened, records.lists, records.dtype, spec)

  def write(self, shard: Shard) -> None:
    """Writes one shard, under its name when it is whole."""
    tf, _ = tensorflow()
    draft = self.folder / uuid.uuid4().hex  # A runner may try twice at a time.
    rows = _mapped(self.folder / f"rows_{shard.split}.npy")
    row = None
    try:
      with tf.io.TFRecordWriter(str(draft)) as file:
        for row in rows[shard.start : shard.stop]:
          file.write(self.serialized(row))
      os.replace(draft, shard.path)
    except Exception as error:
      where = f"{os.path.basename(shard.path)}, image {row}"
      (self.folder / _ERROR_FILE).write_text(f"{where}: {error}")
      raise

  def serialized(self, row: int) -> bytes:
    """The record of one image."""
    _, example = self._records[row]
    return self._serializer.serialize_example(self.spec.encode_example(example))

  @functools.cached_property
  def _serializer(self):
    _, tfds = tensorflow()
    info = self.spec.get_serialized_info()
    return tfds.core.example_serializer.ExampleSerializer(info)

  @functools.cached_property
  def _records(self) -> Records:
    if self.lists:
      parts = {part: _mapped(self.folder / f"{part}.npy") for part in _LABEL_PARTS}
      labels = types.SimpleNamespace(**parts)
    else:
      labels = _mapped(self.folder / "labels.npy")
    return Records(self.open_features(), labels, self.lists, self.dtype)

  def __getstate__(self) -> dict[str, Any]:
    """Without what is open here."""
    return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@contextlib.contextmanager
def _failures(folder: pathlib.Path) -> Iterator[None]:
  """Says in one ``RuntimeError`` why a pipeline failed."""
  log = logging.getLogger("apache_beam")
  level = log.level
  log.setLevel(logging.CRITICAL)
  try:
    with _no_wait_for_the_dead():
      yield
  except Exception as error:  # Every runner has its own.
    raise RuntimeError(_reason(folder, error)) from error
  finally:
    log.setLevel(level)


@contextlib.contextmanager
def _no_wait_for_the_dead() -> Iterator[None]:
  """Ends a local pipeline when one of its processes is killed, for want of memory say.

  Beam would wait for ever. The thread that watches the process fails, though: the
  other processes are then killed and the main thread interrupted.
  """
  died = []
  usual = threading.excepthook

  def hook(failure) -> None:
    if failure.thread is None or failure.thread.name != "run_worker":
      usual(failure)
    elif not died:
      died.append(failure.exc_value)
      _kill_workers()
      signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

  threading.excepthook = hook
  try:
    yield
  except KeyboardInterrupt as error:
    if died:
      raise RuntimeError(f"{died[0]}: had the machine no memory left?") from error
    raise
  finally:
    threading.excepthook = usual


def _kill_workers() -> None:
  import psutil

  for process in psutil.Process().children(recursive=True):
    with contextlib.suppress(psutil.NoSuchProcess):
      if "apache_beam.runners.worker.sdk_worker_main" in process.cmdline():
        process.kill()


def _reason(folder: pathlib.Path, error: Exception) -> str:
  """What a worker left in ``folder``; else the last line of what the runner says."""
  path = folder / _ERROR_FILE
  if path.exists():
    return path.read_text()
  lines = [line for line in str(error).splitlines() if line.strip()]
  return lines[-1] if lines else repr(error)


def _mapped(path: pathlib.Path) -> np.ndarray:
  return np.load(path, mmap_mode="r")


def _copied(features: Rows, path: pathlib.Path) -> Callable[[], np.ndarray]:
  """What opens a copy of ``features`` in another process."""
  with path.open("wb") as file, task_bar(len(features), "copying", "images") as bar:
    for block in blocks(features):
      file.write(block)
      bar.update(len(block))
  return functools.partial(np.memmap, path, features.dtype, "r", shape=features.shape)
