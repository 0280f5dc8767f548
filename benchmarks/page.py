"""Measures this machine and rewrites the tables and plots of docs/performance.md.

  python benchmarks/page.py             # less than 10 minutes on 2 quiet cores
  python benchmarks/page.py --redraw    # from docs/performance/cpu.json, nothing timed

Needs neither data nor TensorFlow. Nothing is written before everything is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
import dataclasses
import json
import pathlib
import re
import sys
from typing import Any

import jax
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullLocator

from zsljax.benchmark import PRESETS, Shapes, Variant, markdown, measure, run, table
from zsljax.errors import ZsljaxError, require
from zsljax.io.files import explained, write_json, write_text
from zsljax.io.versions import hardware

Row = dict[str, Any]
DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs"
_MEASURED, _FLOOR, _OTHER = "#1f5fa8", "#c8501e", "#3a8a4f"

# A tenth of classes1m, which needs 10 GB.
_CLASSES100K = dataclasses.replace(
  PRESETS["classes1m"], num_classes=10**5, num_seen=10**5
)
SHAPES = {**PRESETS, "classes100k": _CLASSES100K}
SYSTEMS = (
  ("semantic_softmax", "cub"),
  ("semantic_softmax", "awa2"),
  ("cosine", "cub"),
  ("cosine", "classes100k"),
  ("sdl", "nus"),
  ("sdl", "openimages"),
  ("msdn", "cub7"),
  ("msdn", "cub14"),
  ("msdn", "sun14"),
  ("attended_autoencoder", "cub7"),
  ("attended_autoencoder", "cub14"),
)
# Curves of the growth plot: system, preset, and values of the size that grows. MSDN's
# classes are few beside its attributes; two other systems show growth with classes.
GROWTH = {
  "classes": (
    ("semantic_softmax", "cub", (50, 200, 1000, 4000)),
    ("attended_autoencoder", "cub7", (50, 200, 717)),
  ),
  "regions": (
    ("msdn", "cub7", (16, 49, 100, 196)),
    ("attended_autoencoder", "cub7", (16, 49, 100, 196)),
  ),
  "attributes": (
    ("msdn", "cub7", (85, 312, 1024)),
    ("semantic_softmax", "cub", (85, 312, 1024)),
  ),
  "batch": (
    ("msdn", "cub7", (10, 25, 50, 100)),
    ("semantic_softmax", "cub", (64, 256, 1024)),
  ),
}


def changed(shapes: Shapes, what: str, value: int) -> Shapes:
  """Changes the number of classes, regions or attributes of shapes, or their batch."""
  fields = {
    "classes": {"num_classes": value, "num_seen": max(1, 3 * value // 4)},
    "regions": {"feature_shape": (value, shapes.feature_shape[-1])},
    "attributes": {"num_attributes": value},
    "batch": {"batch_size": value},
  }
  return dataclasses.replace(shapes, **fields[what])


def timed(system: str, preset: str, shapes: Shapes, seconds: float) -> Row:
  """Measures one step."""
  print(f"{system} {preset}", file=sys.stderr, flush=True)
  figures, _ = measure(shapes.system(system), shapes, seconds=seconds)
  return {"system": system, "preset": preset, **figures}


def measured(seconds: float) -> Row:
  """Measures everything that the page shows."""
  require(
    jax.default_backend() == "cpu",
    "device",
    jax.default_backend(),
    "a CPU; benchmarks/accelerator.py times others",
  )
  growth = [
    {
      "grows": what,
      "value": value,
      **timed(system, preset, changed(PRESETS[preset], what, value), seconds / 3),
    }
    for what, curves in GROWTH.items()
    for system, preset, values in curves
    for value in values
  ]
  return {
    "hardware": hardware(),
    "jax": jax.__version__,
    "systems": [timed(s, p, SHAPES[p], seconds) for s, p in SYSTEMS],
    "input": [
      run(system, preset, seconds=seconds)
      for system, preset in (("semantic_softmax", "cub"), ("msdn", "cub7"))
    ],
    "seeds": [
      run(system, "cub", variant=Variant(seeds=8), seconds=seconds)
      for system in ("semantic_softmax", "cosine")
    ],
    "growth": growth,
  }


def written(page: str, figures: Mapping[str, Any]) -> str:
  """Replaces the text between the page's marks, all of which must be there."""
  rows = [row for part in ("systems", "growth") for row in figures[part]]
  loads = [row["cpu_load_average"] for row in rows]
  machine = figures["hardware"]
  cpu = machine.get("cpu", machine["machine"])  # Some systems do not name it.
  busy = max(loads) >= machine["cpu_cores"] + 1
  noise = " **The machine was busy with other work: to be measured again.**"
  texts = {
    "machine": f"{machine['cpu_cores']} cores of {cpu}, JAX {figures['jax']}, load "
    f"average {min(loads):.1f} to {max(loads):.1f} while measuring.{noise * busy}",
    "systems": table(figures["systems"]),
    "input": _input_table(figures["input"]),
    "seeds": _seeds_table(figures["seeds"]),
  }
  for name, text in texts.items():
    between = re.compile(f"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
    page, count = between.subn(lambda m, t=text: m[1] + t + m[2], page)
    require(count == 1, "docs/performance.md", f"{count} marks {name}", "1")
  return page


def _input_table(rows: Sequence[Row]) -> str:
  """Formats the rates of input and step."""
  heads = ("system", "input", "rows/s, input alone", "step alone", "together")
  lines = []
  for row in rows:
    rates, parts = row["input"], ("input", "step", "together")
    cells = [f"{rates[f'{part}_rows_per_second']:,.0f}" for part in parts]
    share = f"{rates['together_over_sum']:.2f}"
    lines.append([row["system"], rates["source"], *cells, share])
  return markdown((*heads, "time together / sum of times"), lines)


def _seeds_table(rows: Sequence[Row]) -> str:
  """Formats the rates of seeds trained as one program."""
  heads = ("system", "shapes", "seeds", "examples/s together", "of one alone", "gain")
  lines = (
    (
      row["system"],
      row["preset"],
      str(row["seeds"]),
      f"{row['examples_per_second']:,.0f}",
      f"{row['examples_per_second_of_one_seed']:,.0f}",
      f"{row['gain_of_seeds_together']:.2f}",
    )
    for row in rows
  )
  return markdown(heads, lines)


def _milliseconds(rows: Iterable[Row], quantile: str = "median") -> list[float]:
  return [1e3 * row["step_seconds"][quantile] for row in rows]


def _floors(rows: Iterable[Row]) -> list[float]:
  return [1e3 * row["floor_seconds"] for row in rows]


def draw_systems(rows: Sequence[Row]) -> plt.Figure:
  """Draws the time of each step beside its floor."""
  figure, axes = plt.subplots(figsize=(8, 0.45 * len(rows) + 1.2), layout="constrained")
  times, floors, places = _milliseconds(rows), _floors(rows), range(len(rows))
  axes.barh(places, times, 0.7, color=_MEASURED, label="measured")
  axes.barh(places, floors, 0.3, color=_FLOOR, label="floor")
  for place, row, time in zip(places, rows, times, strict=True):
    share = f" {100 * row['fraction_of_matmul_rate']:.0f} % of the matrix rate"
    axes.text(time, place, share, va="center", fontsize=8)
  axes.set(xscale="log", xlabel="milliseconds a step", yticks=list(places))
  axes.set_yticklabels([f"{row['system']}, {row['preset']}" for row in rows])
  axes.set_xlim(min(floors) / 2, max(times) * 30)
  axes.invert_yaxis()
  axes.legend(loc="upper right", frameon=False)
  return figure


def draw_growth(rows: Sequence[Row]) -> plt.Figure:
  """Draws the time of a step, and its floor, as one size grows."""
  figure, panels = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
  for axes, (what, curves) in zip(panels.flat, GROWTH.items(), strict=True):
    for color, (system, preset, _) in zip((_MEASURED, _OTHER), curves, strict=True):
      points = [r for r in rows if r["grows"] == what and r["system"] == system]
      x, label = [row["value"] for row in points], f"{system} ({preset})"
      low, high = (_milliseconds(points, quantile) for quantile in ("low", "high"))
      axes.plot(x, _milliseconds(points), "o-", color=color, label=label)
      axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
      axes.plot(x, _floors(points), "o--", color=color, markersize=3, linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel=what, ylabel="milliseconds a step")
    axes.xaxis.set_minor_locator(NullLocator())
    sizes = sorted({value for *_, values in curves for value in values})
    # Labels of closer ones would overlap.
    ticks = [b for a, b in zip([1, *sizes], sizes, strict=False) if b > 1.4 * a]
    axes.set_xticks(ticks, [f"{value:,}" for value in ticks])
    axes.legend(frameon=False, fontsize=8)
  figure.suptitle("measured (solid, quartiles shaded) and floor (dashed)", fontsize=10)
  return figure


def write_page(figures: Mapping[str, Any], docs: pathlib.Path) -> None:
  """Writes performance.md and the plots in ``docs``."""
  page = docs / "performance.md"
  text = written(page.read_text(), figures)
  drawings: dict[str, Callable] = {"systems": draw_systems, "growth": draw_growth}
  for name, draw in drawings.items():
    path = docs / "performance" / f"{name}.png"
    figure = draw(figures[name])
    with explained(path):
      figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
  write_text(page, text)


def main() -> None:
  """Measures, or reads the measured figures, and writes."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--redraw", action="store_true", help="measure nothing")
  args = parser.parse_args()
  kept = DOCS / "performance" / "cpu.json"
  if not args.redraw:
    write_json(kept, measured(3.0))
  elif not kept.exists():
    raise ZsljaxError(f"{kept}: no such file, leave --redraw out to measure")
  write_page(json.loads(kept.read_text()), DOCS)


if __name__ == "__main__":
  main()
