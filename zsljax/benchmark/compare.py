"""Two files of figures side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
import json
import pathlib
from typing import Any

from zsljax.errors import ZsljaxError, require


def compare(paths: Sequence[pathlib.Path]) -> str:
  """A table of every number in two files that ``--json`` wrote, with their ratios.

  Raises:
    ZsljaxError: there are not two, or one is no such file.
  """
  require(len(paths) == 2, "--compare", f"{len(paths)} file(s)", "two: a.json,b.json")
  first, second = (dict(_leaves(_read(path))) for path in paths)
  names = [name for name in first if name in second]
  width = max(map(len, names), default=0)
  lines = [f"{'':<{width}}  {paths[0].name:>24}  {paths[1].name:>24}   ratio"]
  for name in names:
    a, b = first[name], second[name]
    numbers = all(isinstance(x, (int, float)) for x in (a, b))
    ratio = f"{b / a:8.3f}" if numbers and a else ""
    lines.append(f"{name:<{width}}  {_shown(a):>24}  {_shown(b):>24}{ratio}")
  for path, own, other in ((paths[0], first, second), (paths[1], second, first)):
    if alone := [name for name in own if name not in other]:
      lines.append(f"only in {path.name}: {', '.join(alone)}")
  return "\n".join(lines)


def _read(path: pathlib.Path) -> Mapping[str, Any]:
  try:
    figures = json.loads(path.read_text())
  except OSError as error:
    raise ZsljaxError(
      f"{path}: {error.strerror}, expected a file that the benchmark's --json wrote"
    ) from error
  except ValueError:
    figures = None
  require(isinstance(figures, dict), f"{path}", "no JSON object", "what --json wrote")
  return figures


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  for name, inner in value.items():
    if isinstance(inner, dict):
      yield from _leaves(inner, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", inner


def _shown(value: Any) -> str:
  if isinstance(value, float):
    return f"{value:.6g}"
  return str(value)[:24]
