"""Systems compared on the class folds of a dataset, and the best named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import importlib
import pathlib
import textwrap
import time
from typing import Any

from zsljax.data import StoredDataset
from zsljax.data.store import find, variants
from zsljax.errors import require
from zsljax.reporting.rows import Row, aligned, column_name, read_chosen
from zsljax.runs.config import read_config
from zsljax.runs.reproduce import SYSTEMS
from zsljax.runs.sweep import seconds_of, sweep

# The quickest first.
_ORDER = ("similarity", "nearest_mean", "eszsl", "sae", "semantic_softmax", "normface")
_ORDER += ("so_softmax", "attended_autoencoder", "msdn", "sdl")
_SHOWN = ("t1", "u", "s", "h", "zsl_map", "gzsl_map")


def fit(
  dataset: str,
  workdir: pathlib.Path,
  data_dir: pathlib.Path | None,
  minutes: float,
  folds: str = "5",
  fields: Sequence[str] = (),
) -> str:
  """Sweeps every system that a dataset can use; a table, and which to take.

  Systems are compared by what they reach on the class folds, the same for all. The one
  with the most is trained on all training images, as ``workdir/<system>/seed_0``.

  Args:
    dataset: name of a stored set, or ``digits``.
    workdir: of the sweeps; an interrupted command continues them.
    data_dir: the folder of stored datasets.
    minutes: after which no further system is begun; the quickest come first.
    folds: see ``sweep``.
    fields: of all configs, as in ``--config.epochs=3``.

  Raises:
    ZsljaxError: there is no such set, or no time for one system.
  """
  require(minutes > 0, "--minutes", minutes, "more than 0")
  began, compared, left_out = time.monotonic(), [], []
  for system, stored in _usable(dataset, data_dir):
    if compared and time.monotonic() - began > 60 * minutes:
      left_out.append(system)
      continue
    print(f"{system}:", flush=True)
    folder = workdir / system
    config = _config(system, dataset, stored, data_dir, fields)
    rows = sweep(config, 1, folder, folds)
    chosen = read_chosen(folder)
    assert chosen is not None
    compared.append((system, chosen, _result(rows), seconds_of(folder)))
  best, *others = sorted(compared, key=lambda one: -one[1]["value"])
  metric = best[1]["metric"]
  reached = f"{metric.upper()} of folds (s.e.)"
  shown = [name for name in _SHOWN if name in best[2]["metrics"]]
  lines = [("system", reached, *map(column_name, shown), "seconds")]
  for system, chosen, row, seconds in (best, *others):
    error = chosen.get("standard_error")
    value = f"{chosen['value']:.1f}" + ("" if error is None else f" ({error:.1f})")
    results = (f"{row['metrics'][name]:.1f}" for name in shown)
    lines.append((system, value, *results, f"{seconds:.0f}"))
  parts = [aligned(lines, left=1), _advice(best, others)]
  if left_out:
    parts.append(f"Not begun within {minutes:g} minutes: {', '.join(left_out)}.")
  return "\n\n".join([*parts, f"The run: {workdir / best[0] / 'seed_0'}"])


def _advice(best: tuple, others: Sequence[tuple]) -> str:
  """Sentences on which system to take."""
  name, chosen, *_ = best
  error = chosen.get("standard_error") or 0.0
  near = [one for one, other, *_ in others if other["value"] > chosen["value"] - error]
  text = f"Take {name}: it reaches most on the folds, where test images have no part."
  if near:
    text += f" Within a standard error: {', '.join(near)}."
  return textwrap.fill(text, 80)


def _usable(
  dataset: str, data_dir: pathlib.Path | None
) -> Iterator[tuple[str, StoredDataset | None]]:
  """Systems, the quickest first, each with the form of the set that it takes."""
  if dataset == "digits":  # Embedded; the cosine classifier is for other tasks there.
    without = ("similarity", "normface", "so_softmax", "sdl")
    yield from ((system, None) for system in _ORDER if system not in without)
    return
  require(
    data_dir is not None, "--data_dir", "nothing", f"the folder that has {dataset}"
  )
  assert data_dir is not None
  forms = variants(data_dir, dataset) or [find(data_dir, dataset, None)]  # Or an error.
  for system in _ORDER:
    kind = SYSTEMS[system][-1]
    for stored in forms:
      *regions, width = stored.feature_shape
      if stored.multi_label or kind == "multi-label":
        fits = stored.multi_label and kind == "multi-label" and not regions
      else:
        fits = (kind == "region") == bool(regions)
      if kind == "shared-space":
        fits = fits and width == stored.classes.embeddings.shape[1]
      if fits:
        yield system, stored
        break


def _config(
  system: str,
  dataset: str,
  stored: StoredDataset | None,
  data_dir: pathlib.Path | None,
  fields: Sequence[str],
) -> dict[str, Any]:
  """The config of a system, with settings for the dataset where it has some."""
  name, argument, _ = SYSTEMS[system]
  known = importlib.import_module(f"zsljax.configs.{name}").DATASETS
  of_data = []
  if stored is not None:
    of_data = [
      f"--config.data.{field}"
      for field in (f"name={dataset}", f"dir={data_dir}", f"features={stored.variant}")
    ]
  chosen = dataset if dataset in known else "own"
  return read_config(f"{name}:{chosen}{argument}", [*of_data, *fields])


def _result(rows: Sequence[Row]) -> Row:
  """The row of the chosen settings, with the chosen gamma where there is one."""
  chosen = [row for row in rows if row["selection"] == "val_selected"]
  zero_shot = [row for row in chosen if row["protocol"] != "embeddings"]
  return next((r for r in zero_shot if r["calibration"] != "none"), zero_shot[0])
