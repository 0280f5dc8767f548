"""Figures as text: of one step, of several in a table, of two files side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import pathlib
from typing import Any

from zsljax.errors import require
from zsljax.io.json_files import OBJECT, read_json
from zsljax.runs.config import flat

_COLUMNS = (
  "system", "shapes", "batch", "computed", "step ms", "(quartiles)", "floor ms",
  "examples/s", "GFLOP/s", "of matmul", "of copy",
)  # fmt: skip
_MORE = {
  "seconds_of_products_alone": "its products alone ms",
  "seconds_of_traffic_beside_products": "traffic beside them ms",
  "predicted_seconds": "predicted ms",
}


def table(rows: Iterable[Mapping[str, Any]]) -> str:
  """Formats figures of several steps, a line each, as a Markdown table.

  Columns that not all files have come last.
  """
  rows = list(rows)
  more = [name for name in _MORE if any(name in row for row in rows)]
  lines = [
    [*_cells(row), *(f"{1e3 * row[n]:.4g}" if n in row else "" for n in more)]
    for row in rows
  ]
  return markdown([*_COLUMNS, *(_MORE[name] for name in more)], lines)


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


def show(figures: Mapping[str, Any]) -> str:
  """Formats figures, a line each."""
  named = flat(figures)
  width = max(map(len, named))
  return "\n".join(f"{name:<{width}}  {_shown(x)}" for name, x in named.items())


def compare(paths: Sequence[pathlib.Path]) -> str:
  """Formats the figures in two files that ``--json`` wrote, with their ratios.

  Raises:
    ZsljaxError: there are not two, or one is no such file.
  """
  require(len(paths) == 2, "--compare", f"{len(paths)} file(s)", "two: a.json,b.json")
  first, second = (flat(read_json(path, OBJECT, "what --json wrote")) for path in paths)
  names = [*first, *(name for name in second if name not in first)]
  width = max(map(len, names), default=0)
  lines = [f"{'':<{width}}  {paths[0].name:>24}  {paths[1].name:>24}   ratio"]
  for name in names:
    a, b = first.get(name, "absent"), second.get(name, "absent")
    numbers = all(isinstance(x, (int, float)) for x in (a, b))
    ratio = f"{b / a:8.3f}" if numbers and a else ""
    lines.append(f"{name:<{width}}  {_shown(a)[:24]:>24}  {_shown(b)[:24]:>24}{ratio}")
  return "\n".join(lines)


def _shown(value: Any) -> str:
  return f"{value:.6g}" if isinstance(value, float) else str(value)
