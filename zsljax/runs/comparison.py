"""Comparisons of systems on the same test images, in pairs."""

from __future__ import annotations

from collections.abc import Sequence
import pathlib

import numpy as np

from zsljax.data import StoredDataset
from zsljax.errors import require
from zsljax.evaluation.bootstrap import (
  DRAWS,
  Hits,
  interval,
  like_the_best,
  resampled,
)
from zsljax.evaluation.metrics import class_weights, harmonic_mean
from zsljax.io.checks import readable
from zsljax.io.files import replacing
from zsljax.reporting.rows import read_rows, system_name
from zsljax.reporting.tables import Block

_FILE = "hits_test.npz"


def save_hits(folder: pathlib.Path, dataset: StoredDataset, hits: Hits) -> None:
  """Writes a run's right and wrong decisions on the test images, in source order."""
  order = np.argsort(dataset.source_rows(dataset.test_splits))
  with replacing(folder / _FILE) as path, path.open("wb") as file:
    np.savez_compressed(
      file,
      among_all=hits.among_all[0, order],
      among_unseen=hits.among_unseen[0, order],
      labels=hits.labels[order],
      seen=hits.seen[order],
    )


def read_hits(folder: pathlib.Path) -> Hits | None:
  """Decisions of all runs of the sweep in ``folder``; None where there are none.

  Raises:
    ZsljaxError: a file is damaged.
  """
  runs = []
  for path in sorted(folder.glob(f"seed_*/{_FILE}")):
    expected = "what a sweep writes: delete the sweep's folder and sweep again"
    with readable(path, expected), path.open("rb") as file:
      with np.load(file, allow_pickle=False) as arrays:
        runs.append({name: arrays[name] for name in Hits.__dataclass_fields__})
    sizes = {name: (a.dtype.str, a.shape) for name, a in runs[-1].items()}
    first = {name: (a.dtype.str, a.shape) for name, a in runs[0].items()}
    require(sizes == first, str(path), f"shapes {sizes}", f"{first} as of other seeds")
  if not runs:
    return None
  first = runs[0]
  among = {n: np.stack([run[n] for run in runs]) for n in ("among_all", "among_unseen")}
  return Hits(**among, labels=first["labels"], seen=first["seen"])


def compared(folders: Sequence[pathlib.Path]) -> list[Block]:
  """Comparisons of sweeps whose test images are the same, the best first.

  Args:
    folders: of sweeps; those of a single set of images are left out.
  """
  sets: dict[tuple, dict[str, Hits]] = {}
  for folder in folders:
    if hits := read_hits(folder):
      row = read_rows(folder)[0]
      key = row["dataset"], row["split_version"], hits.labels.tobytes()
      systems, name = sets.setdefault(key, {}), system_name(row)
      systems[name if name not in systems else f"{name}, {folder}"] = hits
  return [_block(key[0], systems) for key, systems in sets.items() if len(systems) > 1]


def _block(dataset: str, systems: dict[str, Hits]) -> Block:
  """H of systems on the same images, with what cannot be told apart from the best."""
  # Enough that Holm's smallest level is reached, however many are compared.
  count = max(DRAWS, 100 * len(systems))
  draws = {name: resampled(hits, count) for name, hits in systems.items()}
  mean = {name: _h(hits) for name, hits in systems.items()}
  alike = like_the_best({name: found["h"] for name, found in draws.items()}, mean)
  lines = []
  for name in sorted(mean, key=lambda name: -mean[name]):
    ranges = [interval(draws[name][metric]) for metric in ("h", "t1")]
    cells = [f"{low:.1f} to {high:.1f}" for low, high in ranges]
    mark = "best" if name == max(mean, key=lambda n: mean[n]) else "like the best"
    mark = mark if name in alike else "lower"
    runs = len(systems[name].among_all)
    lines.append((name, mark, str(runs), f"{mean[name]:.1f}", *cells))
  told = ("like the best", "cannot") if len(alike) > 1 else ("lower", "can")
  return Block(
    f"{dataset}: systems on the same test images",
    ("system", "compared", "seeds", "H", "H, 95 %", "T1, 95 %"),
    tuple(lines),
    (
      "95 %: bootstrap over test images within classes, of the mean over seeds; it "
      "says nothing of other seeds, folds or classes",
      f"{told[0]}: the difference in H, in pairs on equal draws of test images, "
      f"{told[1]} be told from none (5 %, Holm's correction for all comparisons)",
    ),
  )


def _h(hits: Hits) -> float:
  """H of the test set itself, in percent, the mean over runs."""
  u, s = (
    hits.among_all[:, side] @ class_weights(hits.labels[side])
    for side in (~hits.seen, hits.seen)
  )
  return float(100 * harmonic_mean(u, s).mean())
