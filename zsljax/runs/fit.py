"""Systems compared on the class folds of a dataset, and the best named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import importlib
import pathlib
import shutil
import time
from typing import Any

from zsljax.data import StoredDataset
from zsljax.data.sources import DEFAULT_DIR, known, open_dataset
from zsljax.data.store import find, variants
from zsljax.errors import ZsljaxError, require
from zsljax.evaluation.protocols import EMBEDDINGS
from zsljax.io.files import write_json
from zsljax.io.json_files import TEXT, list_of, read_json
from zsljax.reporting.rows import Row, aligned, column_name, read_chosen, read_rows
from zsljax.reporting.tables import fitted
from zsljax.runs.ensemble import EndedSweep, ensemble, gathered
from zsljax.runs.experiment import Experiment
from zsljax.runs.on_folds import OFFICIAL, drawn_folds
from zsljax.runs.reproduce import SYSTEMS, config_of, form_for
from zsljax.runs.sweep import add_seconds, seconds_of, sweep

# The most systems that are joined, of so many best ones.
_MOST, _CANDIDATES = 3, 5
_NAMES = list_of(TEXT)
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

  Systems are compared by what their chosen settings reach on the class folds, which are
  the same for all. Each is trained on all training images with what was chosen, in
  ``workdir/<system>``; the best is joined with others by ``gathered``, in
  ``workdir/joined``. Test results decide nothing.

  Args:
    dataset: name of a stored set, or of one that needs no folder.
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
    folder = workdir / system
    over = time.monotonic() - began > 60 * minutes
    if compared and over and not folder.exists():
      left_out.append(f"{system}: not begun, as --minutes={minutes:g} were over")
      continue
    print(f"{system}:", flush=True)
    try:
      argument, named = _argument(system, dataset)
      config = config_of(system, argument, stored, data_dir, [*named, *fields])
      sweep(_with_small_batches(config, folds), 1, folder.absolute(), folds)
    except ZsljaxError as error:
      left_out.append(f"{system}: {error}")
    else:
      compared.append(_Compared(system, folder))
  found = "no system that can use it" + "".join(f"; {one}" for one in left_out)
  require(len(compared) > 0, dataset, found, "one at least")
  if len(compared) > 1:
    nothing = "nothing, as the folds gain no more than the gain's standard error"
    try:
      joined = _joined(compared, workdir, data_dir)
    except ZsljaxError as error:
      joined, nothing = [], f"{error}"
    compared += joined
    left_out += [] if joined else [f"joined: {nothing}"]
  return "\n\n".join([*_told(compared), "\n".join(map(fitted, left_out))]).rstrip()


@dataclasses.dataclass(frozen=True)
class _Compared:
  """A sweep, or sweeps joined, by its name in the table and its folder."""

  name: str
  folder: pathlib.Path

  @functools.cached_property
  def chosen(self) -> dict[str, Any]:
    chosen = read_chosen(self.folder)
    assert chosen is not None
    return chosen

  def reached(self) -> float:
    return self.chosen["value"]

  @functools.cached_property
  def row(self) -> Row:
    """The row of what was chosen, with the chosen gamma where there is one."""
    rows = read_rows(self.folder)
    rows = [row for row in rows if row["selection"] == "val_selected"]
    zero_shot = [row for row in rows if row["protocol"] != EMBEDDINGS]
    return next((r for r in zero_shot if r["calibration"] != "none"), zero_shot[0])


def _joined(
  compared: Sequence[_Compared], workdir: pathlib.Path, data_dir: pathlib.Path | None
) -> list[_Compared]:
  """The best joined with others, if the folds gain by it.

  Joins again where other systems are the best, or one of them ended since.
  """
  best = sorted(compared, key=_Compared.reached, reverse=True)[:_CANDIDATES]
  folder, path = workdir / "joined", workdir / "joined.json"
  candidates = [one.name for one in best]
  # Rows are what a sweep writes last.
  ended = max((one.folder / "results.jsonl").stat().st_mtime for one in best)
  is_new = path.exists() and path.stat().st_mtime > ended
  if not is_new or read_json(path, _NAMES, "names of systems") != candidates:
    print("joined:", flush=True)
    began = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    sweeps = [EndedSweep.open(one.folder.absolute(), data_dir) for one in best]
    members = gathered(sweeps, _MOST)
    if len(members) > 1:
      of_sweeps = sum(seconds_of(member.folder) for member in members)
      seconds = time.monotonic() - began + of_sweeps
      ensemble(members, folder.absolute())
      add_seconds(folder, seconds)
    write_json(path, candidates)
  return [_Compared("joined", folder)] if folder.exists() else []


def _told(compared: Sequence[_Compared]) -> Iterator[str]:
  """The table, and sentences on which system to take."""
  best, *others = sorted(compared, key=_Compared.reached, reverse=True)
  shown = [metric for metric in _SHOWN if metric in best.row["metrics"]]
  reached = f"{best.chosen['metric'].upper()} of folds"
  lines = [("system", "features", reached, *map(column_name, shown), "seconds")]
  for one in (best, *others):
    value = f"{one.reached():.1f}"
    if one.chosen["folds"] != OFFICIAL:
      value += f" ({one.chosen['standard_error']:.1f})"
    results = (f"{one.row['metrics'][metric]:.1f}" for metric in shown)
    seconds = f"{seconds_of(one.folder):.0f}"
    lines.append((one.name, one.row["features"], value, *results, seconds))
  yield aligned(lines, left=2)
  text = (
    f"Take {best.name}: it reaches most on the folds, where test images have no part."
  )
  least = best.reached() - best.chosen["standard_error"]
  if near := [one.name for one in others if one.reached() >= least]:
    text += f" Within its standard error, in brackets: {', '.join(near)}."
  for one in compared:
    if "sweeps" in one.chosen:
      *names, last = one.chosen["sweeps"]
      text += f" Joined are {', '.join(names)} and {last}: their scores are averaged."
  yield fitted(text)
  run = best.folder / f"seed_{best.row['seed']}"
  yield f"The run: {run if run.exists() else best.folder}"


def _usable(
  dataset: str, data_dir: pathlib.Path | None
) -> list[tuple[str, StoredDataset | None]]:
  """Systems, the quickest first, each with the form of the set that it takes."""
  if dataset == "digits":  # Embedded; the cosine classifier is for other tasks there.
    without = "similarity", "normface", "so_softmax", "sdl", "recommended_sdl"
    return [(system, None) for system in SYSTEMS if system not in without]
  if dataset in known():
    open_dataset({"name": dataset, "dir": data_dir, "features": None})  # Or makes it.
    forms = variants(data_dir or DEFAULT_DIR.expanduser(), dataset)
  else:
    require(
      data_dir is not None, "--data_dir", "nothing", f"the folder that has {dataset}"
    )
    assert data_dir is not None
    if not (forms := variants(data_dir, dataset)):
      find(data_dir, dataset, None)  # Says what is there.
  fitting = ((system, form_for(system, dataset, forms)) for system in SYSTEMS)
  return [(system, stored) for system, stored in fitting if stored]


def _argument(system: str, dataset: str) -> tuple[str, list[str]]:
  """The dataset of a system's config, and a field where it is not that set's own."""
  config = importlib.import_module(f"zsljax.configs.{SYSTEMS[system][0]}")
  if dataset in config.DATASETS:
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
