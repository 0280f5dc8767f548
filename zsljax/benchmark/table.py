"""Figures as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from zsljax.benchmark.timing import Timing
from zsljax.errors import in_bytes

_COLUMNS = (
  "system", "shapes", "batch", "computed", "step ms", "(quartiles)", "floor ms",
  "examples/s", "GFLOP/s", "of matmul", "of copy",
)  # fmt: skip


def show(figures: dict[str, Any]) -> str:
  """The figures as lines for the terminal."""
  step, memory = Timing(**figures["step_seconds"]), figures["bytes_per_device"]
  shape = " x ".join(map(str, figures["feature_shape"]))
  lines = [
    f"{figures['system']}: batch {figures['batch_size']}, features {shape}, "
    f"{figures['num_attributes']} attributes, {figures['num_classes']} classes, "
    f"{figures['feature_dtype']}, products in {figures['precision']}, attention by "
    f"{figures['attention']}, {figures['devices']} device(s) ({figures['device']}), "
    f"load average {figures['cpu_load_average']:.1f}",
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
  """Figures of several steps, a line each, as a Markdown table."""
  lines = [_COLUMNS, tuple("---" for _ in _COLUMNS), *map(_cells, rows)]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
  step = row["step_seconds"]
  computed = [row["precision"]]
  if row["attention"] != "xla":
    computed.append(row["attention"])
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
