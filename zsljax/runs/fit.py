"""Systems compared on the class folds of a dataset, and the best named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import importlib
import pathlib
import time
from typing import Any

from zsljax.data import StoredDataset
from zsljax.data.store import find, variants
from zsljax.errors import ZsljaxError, require
from zsljax.reporting.rows import Row, aligned, column_name, read_chosen
from zsljax.reporting.tables import fitted
from zsljax.runs.experiment import Experiment
from zsljax.runs.reproduce import SYSTEMS, config_of, stored_form
from zsljax.runs.sweep import drawn_folds, seconds_of, sweep

# The quickest first.
_ORDER = (
  *("similarity", "recommended", "nearest_mean", "eszsl", "sae", "semantic_softmax"),
  *("normface", "so_softmax", "attended_autoencoder", "msdn", "sdl"),
)
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

  Systems are compared by the most that one of their settings reaches on the class
  folds, which are the same for all. Each is trained on all training images with what
  was chosen, in ``workdir/<system>``; test results decide nothing.

  Args:
    dataset: name of a stored set, or ``digits``.
    workdir: of the sweeps; an interrupted command continues them.
    data_dir: the folder of stored datasets.
    minutes: after which no further system is begun; the quickest come first.
    folds: see ``sweep``.
    fields: of all configs, as in ``--config.epochs=3``.

  Raises:
    ZsljaxError: there is no such set, it has several forms of one kind, or no system
      can use it.
  """
  require(minutes > 0, "--minutes", minutes, "more than 0")
  began, compared, left_out = time.monotonic(), [], []
  for system, stored in _usable(dataset, data_dir):
    if compared and time.monotonic() - began > 60 * minutes:
      left_out.append(f"{system}: not begun, as --minutes={minutes:g} were over")
      continue
    print(f"{system}:", flush=True)
    folder = workdir.absolute() / system
    try:
      argument, named = _argument(system, dataset)
      config = config_of(system, argument, stored, data_dir, [*named, *fields])
      rows = sweep(_with_small_batches(config, folds), 1, folder, folds)
    except ZsljaxError as error:
      left_out.append(f"{system}: {error}")
      continue
    chosen = read_chosen(folder)
    assert chosen is not None
    compared.append((system, chosen, _result(rows), seconds_of(folder)))
  found = "no system that can use it" + "".join(f"; {one}" for one in left_out)
  require(len(compared) > 0, dataset, found, "one at least")
  return "\n\n".join([*_compared(compared, workdir), *map(fitted, left_out)])


def _compared(
  compared: Sequence[tuple[str, dict[str, Any], Row, float]], workdir: pathlib.Path
) -> Iterator[str]:
  """The table, and sentences on which system to take."""
  best, *others = sorted(compared, key=lambda one: -one[1]["highest"])
  name, chosen, row, _ = best
  shown = [metric for metric in _SHOWN if metric in row["metrics"]]
  reached = f"{chosen['metric'].upper()} of folds"
  lines = [("system", "form", reached, *map(column_name, shown), "seconds")]
  for system, own, result, seconds in (best, *others):
    value = f"{own['highest']:.1f}"
    if own["folds"] != "official":
      value += f" ({own['standard_error']:.1f})"
    results = (f"{result['metrics'][metric]:.1f}" for metric in shown)
    form = "regions" if SYSTEMS[system][-1] == "region" else "pooled"
    lines.append((system, form, value, *results, f"{seconds:.0f}"))
  yield aligned(lines, left=2)
  text = f"Take {name}: it reaches most on the folds, where test images have no part."
  least = chosen["highest"] - chosen["standard_error"]
  if near := [system for system, own, *_ in others if own["highest"] >= least]:
    text += f" Within its standard error, in brackets: {', '.join(near)}."
  yield fitted(text)
  yield f"The run: {workdir / name}/seed_{row['seed']}"


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
  if not variants(data_dir, dataset):
    find(data_dir, dataset, None)  # Says what is there.
  forms = {
    regions: stored_form(data_dir, dataset, regions) for regions in (False, True)
  }
  for system in _ORDER:
    kind = SYSTEMS[system][-1]
    stored = forms[kind == "region"]
    if stored is None or stored.multi_label != (kind == "multi-label"):
      continue
    width = stored.classes.embeddings.shape[1]
    if kind != "shared-space" or stored.feature_shape == (width,):
      yield system, stored


def _argument(system: str, dataset: str) -> tuple[str, list[str]]:
  """The dataset of a system's config, and a field where it is not that set's own."""
  known = importlib.import_module(f"zsljax.configs.{SYSTEMS[system][0]}").DATASETS
  if dataset in known:
    return dataset, []
  return "own", [f"--config.data.name={dataset}"]


def _with_small_batches(config: dict[str, Any], folds: str) -> dict[str, Any]:
  """The config, with batches of no more images than the smallest fold trains on."""
  if not config["batch_size"]:
    return config
  run = Experiment.build(config)
  labels = run.dataset.labels(run.dataset.training_splits("trainval"))
  if run.dataset.multi_label:  # Folds depend on the number of images alone.
    labels = labels[:, None]
  most = min(len(fold.train) for fold in drawn_folds(run, labels, folds))
  most -= most % run.mesh.shape["data"]
  size = config["batch_size"]
  if size <= most:
    return config
  print(f"config.batch_size={most}, not {size}: a fold has no more images", flush=True)
  return config | {"batch_size": most}


def _result(rows: Sequence[Row]) -> Row:
  """The row of the chosen settings, with the chosen gamma where there is one."""
  chosen = [row for row in rows if row["selection"] == "val_selected"]
  zero_shot = [row for row in chosen if row["protocol"] != "embeddings"]
  return next((r for r in zero_shot if r["calibration"] != "none"), zero_shot[0])
