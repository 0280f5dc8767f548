"""Pictures of attention, contributions, maps and confusion; matplotlib draws them."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import math
import pathlib
import textwrap
from typing import Any

import numpy as np

from zsljax.io.files import replacing

# A report shows pictures at 100 pixels an inch: enough of them for dense screens.
DPI = 150
INK, FAINT, SEEN, UNSEEN = "#222222", "#8a8a8a", "#1f5fa8", "#c8501e"
_HEAT = "plasma"
_OPACITY = 0.8
_PANEL = 1.75  # Width of a photograph, inches.
_ACROSS = 4
# With more classes their names would be too small to read.
MOST_NAMES = 50
_MOST_NUMBERS = 15
_IN_A_COLUMN = 25
_WIDEST = 10.6  # Room on a page, inches.
# Width and height of a name in a map, as shares of the map.
_LABEL = (0.17, 0.03)


@dataclasses.dataclass(frozen=True)
class AttentionRow:
  """One net's attention on one image.

  Attributes:
    title: stands above.
    weights: of each panel, by its title, on the grid of regions, ``[h, w]``.
    scale: the meaning of the numbers.
    uniform: the weight of attention that prefers nothing.
  """

  title: str
  weights: dict[str, np.ndarray]
  scale: str
  uniform: float


def new_figure(width: float, height: float, title: str = ""):
  """A matplotlib figure of that many inches, empty but for its title."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
  FigureCanvasAgg(figure)
  if title:
    figure.suptitle(title, fontsize=9.5, color=INK, x=0.01, ha="left")
  return figure


def save_figure(figure, path: pathlib.Path, vector: bool = True) -> None:
  """Replaces the .png ``path`` by ``figure``, all at once.

  ``vector`` adds .pdf and .svg beside it. Texts in them are texts, and the same figure
  has the same files.
  """
  import matplotlib

  kinds: dict[str, dict[str, None]] = {"png": {}}
  if vector:
    kinds |= {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
  same = {"svg.fonttype": "none", "svg.hashsalt": path.name, "pdf.fonttype": 42}
  with matplotlib.rc_context(same):
    for kind, metadata in kinds.items():
      with replacing(path.with_suffix(f".{kind}")) as draft:
        figure.savefig(draft, format=kind, metadata=metadata)


def draw_overlay(axes, photo: np.ndarray, weights: np.ndarray, limit: float) -> None:
  """Draws weights over a photograph, bilinear between cell centres.

  The higher a weight, the less of the photograph shines through its colour.

  Args:
    axes: of matplotlib.
    photo: ``[H, W, 3]`` bytes.
    weights: on the grid of regions, ``[h, w]``; cell (i, j) lies on the pixels from
      ``(i H / h, j W / w)`` to the next cell's.
    limit: the weight that has the brightest colour.
  """
  height, width = photo.shape[:2]
  axes.imshow(photo)
  shares = np.clip(weights / limit, 0, 1)
  axes.imshow(
    shares,
    _HEAT,
    vmin=0,
    vmax=1,
    alpha=_OPACITY * shares,
    interpolation="bilinear",
    interpolation_stage="rgba",
    extent=(-0.5, width - 0.5, height - 0.5, -0.5),
  )


def draw_attention(
  path: pathlib.Path, photo: np.ndarray, rows: Sequence[AttentionRow]
) -> None:
  """Draws a photograph and, for each net, its attention laid over it.

  Args:
    path: of the .png.
    photo: as the encoder saw it, ``[H, W, 3]`` bytes.
    rows: one for each net; the panels of a net share one colour scale.
  """
  from matplotlib.cm import ScalarMappable
  from matplotlib.colors import Normalize

  across = min(_ACROSS, max(len(row.weights) for row in rows))
  width = (across + 1) * (_PANEL + 0.1) + 1.15
  lines = [-(-len(row.weights) // across) for row in rows]
  heads = [_wrapped(row.title, int(14 * width)) for row in rows]
  titles = [
    [f"{_wrapped(name, 24)}\npeak {np.max(w):.2g}" for name, w in row.weights.items()]
    for row in rows
  ]
  panel = _PANEL * photo.shape[0] / photo.shape[1]
  heights = []
  for head, texts, count in zip(heads, titles, lines, strict=True):
    above = 0.15 + 0.15 * max(1 + title.count("\n") for title in texts)
    heights.append(0.4 + 0.15 * head.count("\n") + count * (panel + above))
  figure = new_figure(width, sum(heights))
  figure.set_layout_engine("constrained", h_pad=0.08)
  parts = figure.subfigures(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
  for part, row, head, texts, count in zip(
    parts, rows, heads, titles, lines, strict=True
  ):
    part.suptitle(head, fontsize=9.5, color=INK, x=0.01, ha="left")
    axes = part.subplots(count, across + 1, squeeze=False)
    for axis in axes.flat:
      axis.set_axis_off()
    axes[0, 0].imshow(photo)
    axes[0, 0].set_title("the photograph", fontsize=8.5, color=FAINT)
    limit = max(max(map(np.max, row.weights.values())), np.finfo(np.float32).tiny)
    panels = zip(axes[:, 1:].flat, texts, row.weights.values(), strict=False)
    for axis, text, weights in panels:
      draw_overlay(axis, photo, weights, limit)
      axis.set_title(text, fontsize=8.5, color=INK)
    bar = part.colorbar(
      ScalarMappable(Normalize(0, limit), _HEAT), ax=axes, pad=0.01, aspect=14 * count
    )
    bar.ax.axhline(row.uniform, color="white", linewidth=1.6)
    bar.ax.axhline(row.uniform, color=INK, linewidth=0.6)
    bar.ax.tick_params(labelsize=8)
    bar.set_label(f"{row.scale}\nline: uniform, {row.uniform:.3g}", fontsize=8)
  save_figure(figure, path)


def draw_photo(path: pathlib.Path, photo: np.ndarray) -> None:
  """Draws a photograph alone, ``[H, W, 3]`` bytes."""
  figure = new_figure(2.4, 2.4 * photo.shape[0] / photo.shape[1])
  figure.set_layout_engine("none")
  axes = figure.add_axes((0, 0, 1, 1))
  axes.imshow(photo, aspect="auto")
  axes.set_axis_off()
  save_figure(figure, path)


def draw_contributions(
  path: pathlib.Path,
  shares: Sequence[tuple[str, float]],
  most: int,
  title: str,
  beside: tuple[str, float],
) -> None:
  """Draws a bar for each share in a difference of scores, the largest first.

  Args:
    path: of the .png.
    shares: names and signed shares, all of them.
    most: bars; one bar more is the sum of the other shares.
    title: stands above.
    beside: one share more, the last; left out where it would be drawn as 0.
  """
  ordered = sorted(shares, key=lambda share: -abs(share[1]))
  bars, rest = ordered[:most], ordered[most:]
  colors = [SEEN if value >= 0 else UNSEEN for _, value in bars]
  if rest:
    bars.append((f"the other {len(rest)}", sum(value for _, value in rest)))
    colors.append(FAINT)
  if abs(beside[1]) > 0.005 * max(abs(value) for _, value in bars):
    bars.append(beside)
    colors.append(FAINT)
  names, values = zip(*bars, strict=True)
  labels = [_wrapped(name, 30) for name in names]
  lines = sum(label.count("\n") + 1 for label in labels)
  figure = new_figure(6.2, 0.95 + 0.26 * lines, _wrapped(title, 80))
  axes = figure.add_subplot()
  places = np.arange(len(bars))
  drawn = axes.barh(places, values, color=colors, height=0.66)
  largest = max(map(abs, values)) or 1.0
  decimals = max(0, 2 - math.floor(math.log10(largest)))
  numbers = [f"{round(v, decimals) + 0.0:+.{decimals}f}" for v in values]
  axes.bar_label(drawn, numbers, padding=3, fontsize=8)
  axes.set_yticks(places, labels, fontsize=8.5)
  axes.invert_yaxis()
  axes.margins(x=0.25)
  axes.axvline(0, color=INK, linewidth=0.8)
  axes.tick_params(axis="x", labelsize=8)
  axes.tick_params(axis="y", length=0)
  axes.spines[["top", "right", "left"]].set_visible(False)
  save_figure(figure, path)


def _label_clusters(
  axis: Any, points: np.ndarray, classes: np.ndarray, names: Sequence[str]
) -> None:
  """Writes names in the middle of classes, the densest first, where there is room."""
  from matplotlib.patheffects import withStroke

  found = []
  for place in np.unique(classes):
    own = points[classes == place]
    middle = np.median(own, 0)
    found.append((float(np.abs(own - middle).mean()), names[place], middle))
  room, taken = np.ptp(points, 0) * _LABEL, []
  for _, name, middle in sorted(found, key=lambda one: one[0]):
    if all((np.abs(middle - other) > room).any() for other in taken):
      taken.append(middle)
      axis.annotate(
        name, middle, ha="center", va="center", fontsize=5.5, color=INK,
        path_effects=[withStroke(linewidth=1.8, foreground="white")],
      )  # fmt: skip


def draw_map(
  path: pathlib.Path,
  points: np.ndarray,
  unseen: np.ndarray,
  classes: np.ndarray | None,
  names: Sequence[str],
  title: str,
) -> None:
  """Draws images as points: by seen and unseen, and by class.

  Args:
    path: of the .png.
    points: ``[n, 2]``.
    unseen: which images are of unseen classes, ``[n]``.
    classes: of each image, as places in ``names``; None where it has several.
    names: of all classes.
    title: stands above.
  """
  shown = [] if classes is None else np.unique(classes)
  legend = 0 < len(shown) <= MOST_NAMES
  columns = -(-len(shown) // _IN_A_COLUMN) if legend else 0
  width = 4.4 if classes is None else 7.4 + 1.6 * columns
  figure = new_figure(width, 4.6, _wrapped(title, int(14 * width)))
  axes = figure.subplots(1, 1 if classes is None else 2, squeeze=False)[0]
  for axis in axes:
    axis.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
    axis.spines[:].set_color("#cccccc")
  for of, color, marker, label in (
    (~unseen, SEEN, "o", "seen classes"),
    (unseen, UNSEEN, "^", "unseen classes"),
  ):
    axes[0].scatter(*points[of].T, s=9, c=color, marker=marker, lw=0, label=label)
  axes[0].legend(
    fontsize=8.5, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2,
    frameon=False, markerscale=2,
  )  # fmt: skip
  for place, color in zip(shown, _colors(len(shown)), strict=True):
    of = classes == place
    is_unseen = bool(unseen[of][0])
    axes[1].scatter(
      *points[of].T, s=9, color=color, marker="^" if is_unseen else "o", lw=0,
      label=names[place],
    )  # fmt: skip
  if legend:
    axes[1].legend(
      fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), ncols=columns,
      frameon=False, markerscale=2, labelspacing=0.35, handletextpad=0.1,
    )  # fmt: skip
  elif classes is not None:
    _label_clusters(axes[1], points, classes, names)
  if classes is not None:
    axes[1].set_xlabel("by class: circles seen, triangles unseen", fontsize=8.5)
  save_figure(figure, path)


def draw_confusion(
  path: pathlib.Path,
  shares: np.ndarray,
  rows: Sequence[str],
  columns: Sequence[str],
  seen: tuple[int, int],
  title: str,
) -> None:
  """Draws a confusion matrix, with lines between seen and unseen classes.

  Args:
    path: of the .png.
    shares: of each true class's images (a row) that were taken for each class.
    rows: names of the true classes, the seen ones first.
    columns: names of the predicted classes, the seen ones first.
    seen: how many rows and how many columns are seen classes.
    title: stands above.
  """
  named = len(columns) <= MOST_NAMES
  rows, columns = ([_shortened(name) for name in names] for names in (rows, columns))
  letters = max(map(len, (*rows, *columns))) if named else 0
  margin, beside = 0.7 + 0.075 * letters, 0.9
  cell = min(0.34, (_WIDEST - margin - beside) / len(columns))
  figure = new_figure(
    max(cell * len(columns) + margin + beside, 4.5), cell * len(rows) + margin + 0.5
  )
  axes = figure.add_subplot()
  image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
  if named:
    size = 8.5 if len(columns) <= 30 else 7.5
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=size)
    axes.set_yticks(range(len(rows)), rows, fontsize=size)
  else:
    axes.set(xticks=[], yticks=[])
  if len(columns) <= _MOST_NUMBERS:
    for (i, j), share in np.ndenumerate(100 * shares):
      if share >= 0.5:
        color = "white" if share > 60 else INK
        axes.text(
          j, i, f"{share:.0f}", ha="center", va="center", color=color, fontsize=8
        )
  if 0 < seen[0] < len(rows):
    axes.axhline(seen[0] - 0.5, color=UNSEEN, linewidth=1.4)
  if 0 < seen[1] < len(columns):
    axes.axvline(seen[1] - 0.5, color=UNSEEN, linewidth=1.4)
  axes.tick_params(length=0)
  axes.set_xlabel("predicted class", fontsize=9)
  axes.set_ylabel("true class", fontsize=9)
  axes.set_title(title, fontsize=9.5, color=INK, loc="left")
  bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=30)
  bar.set_label("% of the true class's test images", fontsize=8.5)
  bar.ax.tick_params(labelsize=8)
  save_figure(figure, path)


def _colors(count: int) -> np.ndarray:
  """Distinct colours, ``[count, 4]``."""
  import matplotlib

  # Neighbours differ in hue, and every other one in lightness.
  colors = matplotlib.colormaps["hsv"](np.arange(count) * 0.618034 % 1)
  colors[1::2, :3] *= 0.62
  return colors


def _wrapped(text: str, width: int) -> str:
  """A text in lines; names like ``has_bill_shape::hooked`` break between words."""
  words = text.replace("::", ": ").replace("_", " ")
  return "\n".join(textwrap.wrap(words, width))


def _shortened(name: str) -> str:
  """At most 30 letters of a name."""
  return name if len(name) <= 30 else f"{name[:29]}…"
