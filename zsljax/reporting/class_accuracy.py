"""The accuracy of each class as numbers and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import pathlib
from typing import Any

import numpy as np

from zsljax.io.files import write_csv
from zsljax.reporting.pictures import (
  FAINT,
  INK,
  MOST_NAMES,
  SEEN,
  UNSEEN,
  new_figure,
  save_figure,
)


def write_class_accuracy(
  folder: pathlib.Path,
  split: str,
  reports: Sequence[Any],
  names: Sequence[str],
  row: Mapping[str, Any],
) -> None:
  """Writes ``classes_<split>.csv`` and ``.png``: the accuracy of every class.

  Args:
    folder: of the run.
    split: ``test`` or ``val``.
    reports: of one run (``zsljax.evaluation.Report``), the last one drawn as bars.
    names: of all classes.
    row: a result row of the run, for the picture's title.
  """
  hits = {report.calibration.text: report.hits for report in reports}
  first, *_ = hits.values()
  classes, count = np.unique(first.labels, return_counts=True)
  seen = np.array([first.seen[first.labels == c][0] for c in classes])
  among_all = {
    name: _shares(one.among_all[0], one.labels) for name, one in hits.items()
  }
  among_unseen = _shares(first.among_unseen[0], first.labels)
  head = ["class", "kind", "images"]
  head += [f"accuracy ({name})" for name in hits] + ["accuracy among unseen"]
  lines = [head]
  for i in np.lexsort((classes, ~seen)):
    line = [names[classes[i]], "seen" if seen[i] else "unseen", count[i]]
    line += [f"{100 * shares[i]:.4g}" for shares in among_all.values()]
    lines.append([*line, "" if seen[i] else f"{100 * among_unseen[i]:.4g}"])
  write_csv(folder / f"classes_{split}.csv", lines)
  drawn = {name: 100 * shares for name, shares in among_all.items()}
  path = folder / f"classes_{split}.png"
  title = f"{row['system']} on {row['dataset']}, seed {row['seed']}, {row['protocol']}"
  draw_class_accuracy(path, [names[c] for c in classes], seen, drawn, title)


def _shares(right: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """The share of images that are right, of each class that occurs."""
  return np.array([right[labels == c].mean() for c in np.unique(labels)])


def draw_class_accuracy(
  path: pathlib.Path,
  names: Sequence[str],
  seen: np.ndarray,
  accuracy: Mapping[str, np.ndarray],
  title: str,
) -> None:
  """Draws a bar for each class, seen ones above and the highest first.

  Args:
    path: of the .png.
    names: of C classes; shown where they are few enough to be read.
    seen: ``[C]`` bool.
    accuracy: in percent by calibration, ``[C]``; the last is drawn as bars, the first,
      where it is another, as ticks.
    title: stands above.
  """
  (first, plain), *_ = accuracy.items()
  *_, (last, shown) = accuracy.items()
  order = np.lexsort((-shown, ~seen))
  named = len(names) <= MOST_NAMES
  title = f"{title}; calibration {last}"
  figure = new_figure(6.2, 1.1 + (0.19 if named else 0.045) * len(names), title)
  axes = figure.add_subplot()
  places = np.arange(len(names))
  for kind, color, label in ((True, SEEN, "seen"), (False, UNSEEN, "unseen")):
    at = seen[order] == kind
    axes.barh(
      places[at],
      shown[order][at],
      color=color,
      height=0.72,
      label=f"{label} classes: mean {shown[seen == kind].mean():.1f}",
    )
  if last != first:
    axes.plot(
      plain[order], places, "|", color=INK, markersize=5, label=f"calibration {first}"
    )
  labels = [names[i] for i in order] if named else []
  axes.set_yticks(places if named else [], labels, fontsize=8)
  axes.set_ylim(len(names) - 0.4, -0.6)
  axes.set_xlim(0, 100)
  axes.set_xlabel(
    "% of the class's images that are right among all classes", fontsize=9
  )
  axes.tick_params(axis="y", length=0)
  axes.grid(axis="x", color=FAINT, alpha=0.3, linewidth=0.6)
  axes.set_axisbelow(True)
  axes.spines[["top", "right"]].set_visible(False)
  figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=2)
  save_figure(figure, path, vector=False)
