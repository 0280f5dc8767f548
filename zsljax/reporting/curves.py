"""The seen-unseen curve as numbers and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import pathlib

import numpy as np

from zsljax.io.files import write_csv
from zsljax.reporting.pictures import INK, new_figure, save_figure
from zsljax.reporting.rows import Row

_CURVE, _LEVELS = "#1f5fa8", "#c4c4c4"
_MARKS = ("#c8501e", "#3a8a4f", "#7a4fa3", "#b08a00")


def write_curve(folder: pathlib.Path, split: str, curve, rows: Sequence[Row]) -> None:
  """Writes the curve of one run to ``curve_<split>.csv`` and ``.png``.

  Args:
    folder: of the run.
    split: ``test`` or ``val``.
    curve: of the run, a ``zsljax.evaluation.calibration.Curve``.
    rows: of this run at this step, marked on it.
  """
  gamma, unseen, seen = curve.points()
  h = 2 * unseen * seen / np.maximum(unseen + seen, np.finfo(float).tiny)
  columns = {"gamma": gamma, "u": unseen, "s": seen, "h": h}
  write_columns(folder / f"curve_{split}.csv", columns)
  points = {}
  for row in rows:
    name, metrics = row["selection"], row["metrics"]
    if row["calibration"] != "none":
      name += f", gamma {row['provenance']['gamma']:.3g}"
    points[f"{name}: H {metrics['h']:.1f}"] = metrics["u"], metrics["s"]
  row = rows[0]
  title = (
    f"{row['system']} on {row['dataset']}, seed {row['seed']}, {split} images; "
    f"additive AUSUC {row['metrics']['ausuc']:.1f}"
  )
  draw_curve(folder / f"curve_{split}.png", unseen, seen, points, title)


def write_columns(path: pathlib.Path, columns: Mapping[str, np.ndarray]) -> None:
  """Writes a .csv file with a column for each array."""
  rows = zip(*columns.values(), strict=True)
  write_csv(path, [columns, *([f"{value:.7g}" for value in row] for row in rows)])


def draw_curve(
  path: pathlib.Path,
  unseen: np.ndarray,
  seen: np.ndarray,
  points: Mapping[str, tuple[float, float]],
  title: str,
) -> None:
  """Draws seen over unseen accuracy, with lines of equal H; all in percent.

  ``points`` are U and S of each mark, by its name.
  """
  figure = new_figure(5.2, 5.0)
  axes = figure.add_subplot()
  top = 1.06 * max(float(np.max(unseen)), float(np.max(seen)), 1.0)
  grid = np.linspace(1e-3, top, 200)
  u, s = np.meshgrid(grid, grid)
  levels = axes.contour(u, s, 2 * u * s / (u + s), levels=8, colors=_LEVELS)
  levels.set_linewidth(0.7)
  axes.clabel(levels, fmt="H %.0f", fontsize=7, colors="#8a8a8a")
  axes.plot(unseen, seen, color=_CURVE, linewidth=1.6)
  for (name, (x, y)), color in zip(points.items(), _MARKS, strict=False):
    axes.plot(x, y, "o", color=color, markersize=6, label=name, clip_on=False)
  axes.set(xlim=(0, top), ylim=(0, top), aspect="equal")
  axes.set_xlabel("U, accuracy on unseen classes (%)", color=INK)
  axes.set_ylabel("S, accuracy on seen classes (%)", color=INK)
  axes.set_title(title, fontsize=9, color=INK)
  axes.spines[["top", "right"]].set_visible(False)
  figure.legend(fontsize=8, frameon=False, loc="outside lower center")
  save_figure(figure, path)
