"""Measures this machine again and rewrites the tables and plots of docs/performance.md.

  python benchmarks/page.py             # less than 10 minutes on 2 quiet cores
  python benchmarks/page.py --redraw    # from docs/performance/cpu.json, nothing timed

Needs neither data nor TensorFlow. Nothing is written before all is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import jax
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from zsljax.benchmark import PRESETS, Shapes, Variant, measure, run, table
from zsljax.errors import ZsljaxError, require
from zsljax.reporting.files import explained, write_json, write_text

Row = dict[str, Any]
DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs"
# glibc takes memory in pages of 2 MB with this, which a process must be started with.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
_INK, _MEASURED, _FLOOR, _OTHER = "#222222", "#1f5fa8", "#c8501e", "#3a8a4f"

# A tenth of classes1m, which needs 10 GB.
CLASSES100K = dataclasses.replace(
  PRESETS["classes1m"], num_classes=10**5, num_seen=10**5
)
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
# What grows: the system, its preset, and the values. MSDN's classes are few beside its
# attributes; the other two systems show them.
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
  """Shapes with another number of classes, regions, attributes, or batch."""
  if what == "classes":
    seen = max(1, 3 * value // 4)
    return dataclasses.replace(shapes, num_classes=value, num_seen=seen)
  if what == "regions":
    width = shapes.feature_shape[-1]
    return dataclasses.replace(shapes, feature_shape=(value, width))
  field = {"attributes": "num_attributes", "batch": "batch_size"}[what]
  return dataclasses.replace(shapes, **{field: value})


def timed(system: str, name: str, shapes: Shapes, seconds: float = 2.0) -> Row:
  """Figures of one step in this process."""
  print(f"{system} {name}", flush=True)
  figures, _ = measure(
    shapes.system(system),
    shapes,
    shapes.spec(),
    shapes.batch_size,
    Variant(),
    seconds,
  )
  return {"system": system, "preset": name, **figures}


def growing() -> Iterator[Row]:
  """Steps in which one size grows; rows also say ``grows`` and ``value``."""
  for what, curves in GROWTH.items():
    for system, preset, values in curves:
      for value in values:
        shapes = changed(PRESETS[preset], what, value)
        row = timed(system, f"{preset}, {value} {what}", shapes, seconds=1.0)
        yield {"grows": what, "value": value, **row}


def with_huge_pages() -> Iterator[Row]:
  """MSDN in processes that are started with huge pages."""
  for preset in ("cub7", "cub14"):
    print(f"msdn {preset}, huge pages", flush=True)
    code = (
      "import json; from zsljax.benchmark import run; "
      f"print(json.dumps(run('msdn', {preset!r})))"
    )
    done = subprocess.run(
      [sys.executable, "-c", code],
      env=os.environ | HUGE_PAGES,
      check=True,
      capture_output=True,
      text=True,
    )
    yield json.loads(done.stdout.splitlines()[-1])


def measured() -> dict[str, Any]:
  """Everything that the page shows."""
  require(
    jax.default_backend() == "cpu",
    "device",
    jax.default_backend(),
    "a CPU; benchmarks/accelerator.py times others",
  )
  shapes = {**PRESETS, "classes100k": CLASSES100K}
  return {
    "cores": os.cpu_count(),
    "jax": jax.__version__,
    "systems": [timed(system, name, shapes[name]) for system, name in SYSTEMS],
    "huge_pages": list(with_huge_pages()),
    "input": [run("semantic_softmax", "cub"), run("msdn", "cub7")],
    "seeds": [
      run("semantic_softmax", "cub", variant=Variant(seeds=8)),
      run("cosine", "cub", variant=Variant(seeds=8)),
    ],
    "growth": list(growing()),
  }


def written(page: str, figures: Mapping[str, Any]) -> str:
  """The page with what stands between its markers replaced.

  Raises:
    ZsljaxError: a marker is not there.
  """
  rows = [row for part in ("systems", "huge_pages", "growth") for row in figures[part]]
  loads = [row["cpu_load_average"] for row in rows]
  noise = (
    ""
    if max(loads) < figures["cores"] + 1
    else (" **The machine was busy with other work: to be measured again.**")
  )
  texts = {
    "machine": f"{figures['cores']} cores, JAX {figures['jax']}, load average "
    f"{min(loads):.1f} to {max(loads):.1f} while measuring.{noise}",
    "systems": table(figures["systems"]),
    "huge_pages": table(figures["huge_pages"]),
    "input": _input_table(figures["input"]),
    "seeds": _seeds_table(figures["seeds"]),
  }
  return between_marks(page, texts)


def between_marks(page: str, texts: Mapping[str, str]) -> str:
  """The page with each text in the place of what its marker's name has there.

  Raises:
    ZsljaxError: a marker is not there.
  """
  for name, text in texts.items():
    between = re.compile(f"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
    page, count = between.subn(lambda m, t=text: m[1] + t + m[2], page)
    require(count == 1, "docs/performance.md", f"{count} marks {name}", "1")
  return page


def _input_table(rows: Sequence[Row]) -> str:
  lines = [
    "| system | shapes | rows/s, input alone | step alone | together | over the sum |",
    "| --- | --- | --- | --- | --- | --- |",
  ]
  for row in rows:
    rates = row["input"]
    values = [
      f"{rates[f'{part}_rows_per_second']:,.0f}"
      for part in ("input", "step", "together")
    ]
    cells = [row["system"], row["preset"], *values, f"{rates['together_over_sum']:.2f}"]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


def _seeds_table(rows: Sequence[Row]) -> str:
  lines = [
    "| system | shapes | seeds | examples/s together | of one alone | gain |",
    "| --- | --- | --- | --- | --- | --- |",
  ]
  for row in rows:
    cells = (
      row["system"],
      row["preset"],
      str(row["seeds"]),
      f"{row['examples_per_second']:,.0f}",
      f"{row['examples_per_second_of_one_seed']:,.0f}",
      f"{row['gain_of_seeds_together']:.2f}",
    )
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines)


def draw_systems(rows: Sequence[Row], path: pathlib.Path) -> None:
  """Time of each step beside its floor."""
  names = [f"{row['system']}, {row['preset']}" for row in rows]
  figure, axes = plt.subplots(figsize=(8, 0.45 * len(rows) + 1.2), layout="constrained")
  places = range(len(rows))
  times = [1e3 * row["step_seconds"]["median"] for row in rows]
  floors = [1e3 * row["floor_seconds"] for row in rows]
  axes.barh(places, times, 0.7, color=_MEASURED, label="measured")
  axes.barh(places, floors, 0.3, color=_FLOOR, label="floor")
  for place, row, time in zip(places, rows, times, strict=True):
    share = f" {100 * row['fraction_of_matmul_rate']:.0f} % of the matrix rate"
    axes.text(time, place, share, va="center", fontsize=8, color=_INK)
  axes.set(xscale="log", xlabel="milliseconds a step", yticks=list(places))
  axes.set_yticklabels(names)
  axes.set_xlim(min(floors) / 2, max(times) * 30)
  axes.invert_yaxis()
  axes.legend(loc="upper right", frameon=False)
  _save(figure, path)


def draw_growth(rows: Sequence[Row], path: pathlib.Path) -> None:
  """Time of a step, and its floor, as one size grows."""
  figure, panels = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
  for axes, what in zip(panels.flat, GROWTH, strict=True):
    for color, (system, preset, _) in zip(
      (_MEASURED, _OTHER), GROWTH[what], strict=True
    ):
      points = [r for r in rows if r["grows"] == what and r["system"] == system]
      x = [row["value"] for row in points]
      steps = [row["step_seconds"] for row in points]
      median, low, high = (
        [1e3 * step[name] for step in steps] for name in ("median", "low", "high")
      )
      axes.plot(x, median, "o-", color=color, label=f"{system} ({preset})")
      axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
      floors = [1e3 * row["floor_seconds"] for row in points]
      axes.plot(x, floors, "o--", color=color, markersize=3, linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel=what, ylabel="milliseconds a step")
    ticks: list[int] = []
    for value in sorted({row["value"] for row in rows if row["grows"] == what}):
      if not ticks or value > 1.5 * ticks[-1]:  # Others would be written over it.
        ticks.append(value)
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8)
  figure.suptitle("measured (solid, quartiles shaded) and floor (dashed)", fontsize=10)
  _save(figure, path)


def _save(figure: plt.Figure, path: pathlib.Path) -> None:
  with explained(path):
    figure.savefig(path, dpi=110, metadata={"Software": None})
  plt.close(figure)


def write_page(figures: Mapping[str, Any], docs: pathlib.Path) -> None:
  """Writes performance.md and the plots in ``docs``."""
  page = docs / "performance.md"
  text = written(page.read_text(), figures)
  draw_systems(figures["systems"], docs / "performance" / "systems.png")
  draw_growth(figures["growth"], docs / "performance" / "growth.png")
  write_text(page, text)


def main() -> None:
  """Measures, or reads what was measured, and writes."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--redraw", action="store_true", help="measure nothing")
  args = parser.parse_args()
  kept = DOCS / "performance" / "cpu.json"
  if not args.redraw:
    figures = measured()
    write_json(kept, figures)
  elif not kept.exists():
    raise ZsljaxError(f"{kept}: no such file, leave --redraw out to measure")
  write_page(json.loads(kept.read_text()), DOCS)


if __name__ == "__main__":
  main()
