"""Records made by the workers of Apache Beam; TFDS shuffles and writes them.

Workers read the features from one file, into which they are copied first: nothing but
row numbers travels to a worker. Records then pass through the runner, which groups them
by shard. Beam's local runner does so in memory, some seven times the features' size.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import functools
import io
import logging
import pathlib
from typing import Any

import numpy as np
import scipy.sparse

from zsljax.data.feature_set import FeatureSet, blocks, record_of
from zsljax.errors import ZsljaxError, require
from zsljax.io.progress import task_bar

_FLAG = "--beam_pipeline_options"
# Images whose records a worker makes in one go.
_TOGETHER = 256


def apache_beam():
  """Imports Apache Beam; a ``ZsljaxError`` says how to install it."""
  try:
    import apache_beam
  except ImportError as error:
    raise ZsljaxError(
      f"{_FLAG}: found no Apache Beam ({error}), expected it installed, as by pip "
      'install "zsljax[beam]"'
    ) from error
  return apache_beam


def pipeline_options(text: str):
  """Returns Beam's ``PipelineOptions`` for the list that ``tfds build`` takes too.

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
    strange = sorted(given.keys() - names)  # A cluster may know others.
    require(not strange, _FLAG, strange, "options that Beam knows")
    # Without this Beam first looks for another runner, in the network.
    options.view_as(known.TypeOptions).allow_unsafe_triggers = True
    options.view_as(known.WorkerOptions).default_sdk_harness_log_level = "CRITICAL"
  return options


def made_by_workers(
  feature_set: FeatureSet, dtype: np.dtype, folder: pathlib.Path
) -> dict[str, Any]:
  """Returns a ``beam.PTransform`` for each split, which yields its keyed records.

  Args:
    feature_set: the set.
    dtype: precision of the stored features.
    folder: empty folder that all workers can read; it gets a copy of the features.
  """
  beam = apache_beam()
  features, path = feature_set.features, folder.absolute() / "features"
  with path.open("wb") as file, task_bar(len(features), "copying", "images") as bar:
    for block in blocks(features):
      file.write(block)
      bar.update(len(block))
  if isinstance(feature_set.labels, np.ndarray):
    np.save(folder / "labels.npy", feature_set.labels)
  else:
    scipy.sparse.save_npz(folder / "labels.npz", feature_set.labels)
  np.savez(folder / "splits.npz", **feature_set.splits)
  lists, form = tuple(feature_set.label_widths), (features.shape, features.dtype)
  return {
    split: beam.Create([(split, at) for at in range(0, len(rows), _TOGETHER)])
    | beam.Reshuffle()
    | beam.FlatMap(_read, folder.absolute(), lists, form, dtype)
    for split, rows in feature_set.splits.items()
  }


def _read(
  place: tuple[str, int],
  folder: pathlib.Path,
  lists: tuple[str, ...],
  form: tuple,
  dtype: np.dtype,
) -> Iterator[tuple[int, Any]]:
  """Yields the keyed records of a split from a place in it on."""
  features, labels, splits = _opened(folder, form)
  split, start = place
  for row in splits[split][start : start + _TOGETHER]:
    yield record_of(features, labels, lists, row, dtype)


@functools.lru_cache(maxsize=1)
def _opened(folder: pathlib.Path, form: tuple) -> tuple[Any, Any, dict]:
  """Features, labels and splits in a worker."""
  shape, dtype = form
  features = np.memmap(folder / "features", dtype, "r", shape=shape)
  with np.load(folder / "splits.npz", allow_pickle=False) as file:
    splits = dict(file)
  if (folder / "labels.npz").exists():
    return features, scipy.sparse.load_npz(folder / "labels.npz"), splits
  return features, np.load(folder / "labels.npy", allow_pickle=False), splits


@contextlib.contextmanager
def failures() -> Iterator[None]:
  """Turns every failure of a pipeline into a ``RuntimeError`` of one line."""
  log = logging.getLogger("apache_beam")
  level = log.level
  log.setLevel(logging.CRITICAL)
  try:
    yield
  except Exception as error:  # Every runner has its own.
    lines = [line for line in str(error).splitlines() if line.strip()]
    raise RuntimeError(lines[-1] if lines else repr(error)) from error
  finally:
    log.setLevel(level)
