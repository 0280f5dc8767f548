"""Figures as text: one step, a table of steps, two files side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
import json
import pathlib
from typing import Any

from zsljax.benchmark.timing import Timing
from zsljax.errors import ZsljaxError, in_bytes, require

_COLUMNS = (
  "system", "shapes", "batch", "computed", "step ms", "(quartiles)", "floor ms",
  "examples/s", "GFLOP/s", "of matmul", "of copy",
)  # fmt: skip


def show(figures: dict[str, Any]) -> str:
  """Formats the figures of one step as lines for the terminal."""
  step, memory = Timing(**figures["step_seconds"]), figures["bytes_per_device"]
  shape = " x ".join(map(str, figures["feature_shape"]))
  lines = [
    f"{figures['system']}: batch {figures['batch_size']}, features {shape}, "
    f"{figures['num_attributes']} attributes, {figures['num_classes']} classes, "
    f"{figures['feature_dtype']}, products in {figures['precision']}, "
    f"{figures['devices']} device(s) ({figures['device']}), load average "
    f"{figures['cpu_load_average']:.1f}",
    f"compile            {figures['compile_seconds']:.2f} s",
    f"memory             {in_bytes(memory['arguments'])} for state and batch, "
    f"{in_bytes(memory['temporaries'])} beside them, on each device",
    f"step               {step}, median and quartiles",
    f"floor              {1e3 * figures['floor_seconds']:.3f} ms, of arithmetic and "
    "memory at the rates below",
    f"examples/s         {figures['examples_per_second']:,.0f}",
    f"useful GFLOP/s     {figures['flops_per_second'] / 1e9:.1f}",
    f"matrix product     {figures['matmul_flops_per_second'] / 1e9:.1f} GFLOP/s, "
    "measured here, best of:",
    *(
      f"                     {name}: {rate / 1e9:.1f}"
      for name, rate in figures["matmul_flops_per_second_by_shape"].items()
    ),
    f"fraction of it     {100 * figures['fraction_of_matmul_rate']:.1f} %",
    f"memory copy        {figures['copy_bytes_per_second'] / 1e9:.1f} GB/s, measured "
    "here",
    f"fraction of it     {100 * figures['fraction_of_copy_rate']:.1f} %, by "
    f"{in_bytes(figures['useful_bytes_per_step'])}: features twice, state twice",
  ]
  if figures["seeds"] > 1:
    lines.append(
      f"seeds              {figures['seeds']} together: "
      f"{figures['gain_of_seeds_together']:.2f} times the examples/s of one"
    )
  if "input" in figures:
    rates = figures["input"]
    lines += [
      f"rows/s             {rates['source']}: input alone "
      f"{rates['input_rows_per_second']:,.0f}, step alone "
      f"{rates['step_rows_per_second']:,.0f}, together "
      f"{rates['together_rows_per_second']:,.0f}",
      f"together           {rates['together_over_sum']:.2f} of the sum of both times "
      "(1: nothing overlaps)",
    ]
  if figures["preset"]:
    lines.append("streaming          not timed (give --data_dir; needs TensorFlow)")
  return "\n".join(lines)


def table(rows: Iterable[Mapping[str, Any]]) -> str:
  """Formats figures of several steps, a line each, as a Markdown table."""
  return markdown(_COLUMNS, map(_cells, rows))


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Formats a Markdown table."""
  lines = [columns, ["---"] * len(columns), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
  """Cells of a line of ``table``."""
  step = row["step_seconds"]
  computed = [row["precision"]]
  if row["seeds"] > 1:
    computed.append(f"{row['seeds']} seeds")
  return (
    row["system"],
    row["preset"],
    str(row["batch_size"]),
    ", ".join(computed),
    f"{1e3 * step['median']:.4g}",
    f"{1e3 * step['low']:.4g}-{1e3 * step['high']:.4g}",
    f"{1e3 * row['floor_seconds']:.4g}",
    f"{row['examples_per_second']:,.0f}",
    f"{row['flops_per_second'] / 1e9:,.1f}",
    f"{100 * row['fraction_of_matmul_rate']:.1f} %",
    f"{100 * row['fraction_of_copy_rate']:.1f} %",
  )


def compare(paths: Sequence[pathlib.Path]) -> str:
  """Formats the figures in two files that ``--json`` wrote, with their ratios.

  Raises:
    ZsljaxError: there are not two, or one is no such file.
  """
  require(len(paths) == 2, "--compare", f"{len(paths)} file(s)", "two: a.json,b.json")
  first, second = (dict(_leaves(_read(path))) for path in paths)
  names = [*first, *(name for name in second if name not in first)]
  width = max(map(len, names), default=0)
  lines = [f"{'':<{width}}  {paths[0].name:>24}  {paths[1].name:>24}   ratio"]
  for name in names:
    a, b = first.get(name, "absent"), second.get(name, "absent")
    numbers = all(isinstance(x, (int, float)) for x in (a, b))
    ratio = f"{b / a:8.3f}" if numbers and a else ""
    lines.append(f"{name:<{width}}  {_shown(a):>24}  {_shown(b):>24}{ratio}")
  return "\n".join(lines)


def _read(path: pathlib.Path) -> Mapping[str, Any]:
  """Reads a file of figures."""
  expected = "what --json wrote"
  try:
    figures = json.loads(path.read_text())
  except OSError as error:
    raise ZsljaxError(f"{path}: {error.strerror}, expected {expected}") from error
  except ValueError:
    figures = None
  require(isinstance(figures, dict), f"{path}", "no JSON object", expected)
  return figures


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  """Yields the figures of nested mappings with dotted names."""
  for name, inner in value.items():
    if isinstance(inner, dict):
      yield from _leaves(inner, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", inner


def _shown(value: Any) -> str:
  """Formats a figure in at most 24 characters."""
  return f"{value:.6g}" if isinstance(value, float) else str(value)[:24]
