"""Measures this machine again and rewrites the tables and plots of docs/performance.md.

  python benchmarks/page.py             # less than 10 minutes on 2 quiet cores
  python benchmarks/page.py --redraw    # from docs/performance/cpu.json, nothing timed

Needs no data, but TensorFlow for what is streamed. Nothing is written before all is
measured.
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
import tempfile
from typing import Any

import jax
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from zsljax.benchmark import PRESETS, Shapes, Variant, measure, run, table
from zsljax.errors import ZsljaxError, require
from zsljax.io.files import explained, write_json, write_text

Row = dict[str, Any]
PLAIN = Variant()
DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs"
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
# Host devices, which share the cores: the batch is split, or a table of classes.
DEVICES = (1, 2, 4, 8)
SPLIT = (
  ("msdn", "cub7", {"batch_size": 48}, "data_devices"),
  ("cosine", "classes1m", {"num_classes": 20_000, "num_seen": 20_000}, "model_devices"),
)


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


def timed(
  system: str,
  name: str,
  shapes: Shapes,
  seconds: float = 3.0,
  variant: Variant = PLAIN,
) -> Row:
  """Figures of one step in this process."""
  print(f"{system} {name}", file=sys.stderr, flush=True)
  figures, _ = measure(
    shapes.system(system),
    shapes,
    shapes.spec(),
    shapes.batch_size,
    variant,
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


def elsewhere(
  *calls: tuple[str, str, dict[str, int]], devices: int = 1, keep: bool = True
) -> list[Row]:
  """Steps in a process of its own.

  Args:
    *calls: system, preset, and fields of the preset's shapes and of the variant.
    devices: of the host.
    keep: False for a process that gives memory back, whatever GLIBC_TUNABLES says.
  """
  host_devices = f"--xla_force_host_platform_device_count={devices}"
  environment = os.environ | {"XLA_FLAGS": host_devices}
  if not keep:
    environment.pop("GLIBC_TUNABLES", None)
  done = subprocess.run(
    [sys.executable, __file__, "--elsewhere", json.dumps(calls)],
    env=environment,
    check=True,
    stdout=subprocess.PIPE,
    text=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


def here(system: str, preset: str, fields: Mapping[str, int]) -> Row:
  """What ``elsewhere`` runs there."""
  of_variant = {f.name for f in dataclasses.fields(Variant)}
  variant = Variant(**{k: v for k, v in fields.items() if k in of_variant})
  rest = {k: v for k, v in fields.items() if k not in of_variant}
  shapes = dataclasses.replace(PRESETS[preset], **rest)
  return timed(system, preset, shapes, variant=variant)


def over_devices() -> Iterator[Row]:
  """Steps on more and more devices; rows also say ``grows`` and ``value``."""
  for count in DEVICES:
    print(f"{count} host device(s)", flush=True)
    calls = [
      (system, preset, {**fields, axis: count})
      for system, preset, fields, axis in SPLIT
    ]
    for row in elsewhere(*calls, devices=count):
      yield {"grows": "devices", "value": count, **row}


def streamed() -> Row:
  """MSDN fed by tf.data from the files of a random set."""
  from zsljax.data import make_feature_set, prepare

  print("msdn cub7, streamed", flush=True)
  shapes, images, classes = PRESETS["cub7"], 480, 12
  rng = np.random.default_rng(0)
  labels = np.arange(images) % classes
  order = np.arange(images)
  with tempfile.TemporaryDirectory() as folder:
    features = rng.random((images, *shapes.feature_shape), np.float32)
    feature_set = make_feature_set(
      name="random",
      features_kind="regions",
      class_embedding="att",
      split_version="random",
      features=features,
      labels=labels,
      class_names=[f"class {i}" for i in range(classes)],
      embeddings=rng.random((classes, shapes.num_attributes)),
      attribute_vectors=rng.random((shapes.num_attributes, 300)),
      trainval=order[(labels < 10) & (order % 7 > 0)],
      test_seen=order[(labels < 10) & (order % 7 == 0)],
      test_unseen=order[labels >= 10],
      validation_classes=None,
      where="random numbers",
      sources={},
    )
    prepare(feature_set, pathlib.Path(folder))
    return run("msdn", "cub7", data_dir=pathlib.Path(folder), dataset="random")


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
    "fresh_memory": elsewhere(("msdn", "cub7", {}), ("msdn", "cub14", {}), keep=False),
    "input": [run("semantic_softmax", "cub"), run("msdn", "cub7"), streamed()],
    "seeds": [
      run("semantic_softmax", "cub", variant=Variant(seeds=8)),
      run("cosine", "cub", variant=Variant(seeds=8)),
    ],
    "growth": [*growing(), *over_devices()],
  }


def written(page: str, figures: Mapping[str, Any]) -> str:
  """The page with what stands between its markers replaced.

  Raises:
    ZsljaxError: a marker is not there.
  """
  rows = [row for part in ("systems", "growth") for row in figures[part]]
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
    "fresh_memory": table(figures["fresh_memory"]),
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
    "| system | input | rows/s, input alone | step alone | together "
    "| time together / sum of times |",
    "| --- | --- | --- | --- | --- | --- |",
  ]
  for row in rows:
    rates = row["input"]
    values = [
      f"{rates[f'{part}_rows_per_second']:,.0f}"
      for part in ("input", "step", "together")
    ]
    cells = [
      row["system"],
      rates["source"],
      *values,
      f"{rates['together_over_sum']:.2f}",
    ]
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
  """Time of a step, and its floor, as one size grows; and memory over devices."""
  figure, panels = plt.subplots(3, 2, figsize=(9, 10), layout="constrained")
  *panels, memory = panels.flat
  curves = {what: [curve[:2] for curve in GROWTH[what]] for what in GROWTH}
  curves["devices"] = [split[:2] for split in SPLIT]
  for axes, what in zip(panels, curves, strict=True):
    of_what = [row for row in rows if row["grows"] == what]
    for color, (system, preset) in zip((_MEASURED, _OTHER), curves[what], strict=True):
      points = [row for row in of_what if row["system"] == system]
      x = [row["value"] for row in points]
      steps = [row["step_seconds"] for row in points]
      median, low, high = (
        [1e3 * step[name] for step in steps] for name in ("median", "low", "high")
      )
      axes.plot(x, median, "o-", color=color, label=f"{system} ({preset})")
      axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
      floors = [1e3 * row["floor_seconds"] for row in points]
      axes.plot(x, floors, "o--", color=color, markersize=3, linewidth=1)
      if what == "devices":
        sizes = [sum(row["bytes_per_device"].values()) / 1e6 for row in points]
        memory.plot(x, sizes, "o-", color=color, label=f"{system} ({preset})")
    axes.set(xscale="log", yscale="log", xlabel=what, ylabel="milliseconds a step")
    _ticks(axes, [row["value"] for row in of_what])
  memory.set(xscale="log", yscale="log", xlabel="devices", ylabel="MB on each device")
  _ticks(memory, DEVICES)
  figure.suptitle("measured (solid, quartiles shaded) and floor (dashed)", fontsize=10)
  _save(figure, path)


def _ticks(axes: plt.Axes, values: Sequence[int]) -> None:
  ticks: list[int] = []
  for value in sorted(set(values)):
    if not ticks or value > 1.5 * ticks[-1]:  # Others would be written over it.
      ticks.append(value)
  axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
  axes.xaxis.minorticks_off()
  axes.legend(frameon=False, fontsize=8)


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
  parser.add_argument("--elsewhere", type=json.loads, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.elsewhere:
    print(json.dumps([here(*call) for call in args.elsewhere]))
    return
  kept = DOCS / "performance" / "cpu.json"
  if not args.redraw:
    figures = measured()
    write_json(kept, figures)
  elif not kept.exists():
    raise ZsljaxError(f"{kept}: no such file, leave --redraw out to measure")
  write_page(json.loads(kept.read_text()), DOCS)


if __name__ == "__main__":
  main()
