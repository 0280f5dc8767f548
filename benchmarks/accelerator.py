"""Times training steps of all systems on a GPU or TPU, beside its ceilings.

  python benchmarks/accelerator.py --out=OUT.json
  python benchmarks/accelerator.py --out=P.json --topology=h200   # compiles alone
  python benchmarks/accelerator.py --out=OUT.json --predicted=P.json

The last prints what P.json predicts beside what is measured. Needs neither data nor
TensorFlow. OUT.json is written after every row, so that a run that is cut short loses
one row; a row that fails is written with its error.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
import dataclasses
import json
import pathlib
import traceback
from typing import Any

from zsljax.benchmark import PRESETS, Variant, measure, table
from zsljax.benchmark.topology import find_topology
from zsljax.benchmark.topology import run as compiled
from zsljax.devices.precision import supported
from zsljax.io.files import write_json

# The usual batch of MSDN is small for an accelerator.
LARGE_BATCH, SEEDS = 512, 8
# Of each case.
SECONDS = 1.0
SYSTEMS = (
  ("semantic_softmax", "cub"),
  ("attended_autoencoder", "cub14"),
  ("sdl", "nus"),
  ("sdl", "openimages"),
  ("cosine", "classes1m"),
)


def cases(platform: str | None = None) -> Iterator[tuple[str, str, int, Variant]]:
  """Yields system, preset, batch size and variant; of a platform, by default here."""
  *exact, fastest = supported(platform)
  for precision in (fastest, *exact[::-1]):
    for batch_size in (PRESETS["cub14"].batch_size, LARGE_BATCH):
      yield "msdn", "cub14", batch_size, Variant(precision)
  for precision in dict.fromkeys((fastest, *exact[:1])):
    for system, preset in SYSTEMS:
      yield system, preset, PRESETS[preset].batch_size, Variant(precision)
  for system, preset in (("semantic_softmax", "cub"), ("cosine", "cub")):
    yield system, preset, PRESETS[preset].batch_size, Variant(seeds=SEEDS)


def figures_of(
  system: str, preset: str, batch_size: int, variant: Variant
) -> dict[str, Any]:
  """Measures one case."""
  shapes = dataclasses.replace(PRESETS[preset], batch_size=batch_size)
  return measure(shapes.system(system), shapes, variant, SECONDS)[0]


def main(argv: list[str] | None = None) -> None:
  """Measures all cases, or compiles them; writes them and prints a table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE")
  parser.add_argument("--topology", metavar="NAME", help="compile for these devices")
  parser.add_argument("--predicted", type=pathlib.Path, metavar="FILE")
  args = parser.parse_args(argv)
  predicted, rows = {}, []
  if args.predicted:
    written = json.loads(args.predicted.read_text())["rows"]
    predicted = {
      key_of(row): row["training"]["predicted_seconds"]
      for row in written
      if "error" not in row
    }
  platform = args.topology and find_topology(args.topology).chip.platform
  for system, preset, batch_size, variant in cases(platform):
    row = {"system": system, "preset": preset, "batch_size": batch_size}
    row |= dataclasses.asdict(variant)
    if args.topology and variant.seeds > 1:
      continue
    if key_of(row) in predicted:
      row["predicted_seconds"] = predicted[key_of(row)]
    try:
      if args.topology:
        row |= compiled(args.topology, system, preset, batch_size, variant.precision)
      else:
        row |= figures_of(system, preset, batch_size, variant)
    except Exception:  # Later rows may still be measured.
      row["error"] = traceback.format_exc()
    rows.append(row)
    write_json(args.out, {"rows": rows})
    print(row.get("error", f"{len(rows)}: {system} {preset}"), flush=True)
  if not args.topology:
    print(table(row for row in rows if "error" not in row))


def key_of(row: Mapping[str, Any]) -> tuple:
  """Names a case."""
  return tuple(row[n] for n in ("system", "preset", "batch_size", "precision", "seeds"))


if __name__ == "__main__":
  main()
