"""Times training steps of all systems on a GPU or TPU, beside its ceilings.

  python benchmarks/accelerator.py --out=OUT.json
  python benchmarks/accelerator.py --out=OUT.json --tiny     # small sizes, on any CPU

Needs neither data nor TensorFlow. OUT.json is written after every row, so that a run
that is cut short loses one row; a row that fails is written with its error.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import dataclasses
import pathlib
import traceback

from zsljax.benchmark import PRESETS, Shapes, Variant, measure, table
from zsljax.devices.precision import supported
from zsljax.io.files import write_json

# The usual batch of MSDN is small for an accelerator.
LARGE_BATCH, SEEDS = 512, 8
SYSTEMS = (
  ("semantic_softmax", "cub"),
  ("attended_autoencoder", "cub14"),
  ("sdl", "nus"),
  ("sdl", "openimages"),
  ("cosine", "classes1m"),
)


def cases() -> Iterator[tuple[str, str, int | None, Variant]]:
  """Yields system, preset, batch size (the preset's when None) and variant."""
  for precision in supported():
    for batch_size in (None, LARGE_BATCH):
      yield "msdn", "cub14", batch_size, Variant(precision)
  for precision in dict.fromkeys((supported()[0], supported()[-1])):
    for system, preset in SYSTEMS:
      yield system, preset, None, Variant(precision)
  for system, preset in (("semantic_softmax", "cub"), ("cosine", "cub")):
    yield system, preset, None, Variant(seeds=SEEDS)


def tiny(shapes: Shapes) -> Shapes:
  """Shrinks sizes for a CPU."""
  return dataclasses.replace(
    shapes,
    feature_shape=(*(9 for _ in shapes.feature_shape[1:]), 16),
    num_attributes=min(shapes.num_attributes, 6),
    num_classes=12,
    num_seen=9,
    batch_size=4,
  )


def main(argv: list[str] | None = None) -> None:
  """Measures all cases, writes them and prints a table."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE")
  parser.add_argument("--tiny", action="store_true", help="small sizes, for a CPU")
  args = parser.parse_args(argv)
  rows = []
  for system, preset, batch_size, variant in cases():
    shapes = PRESETS[preset]
    if args.tiny:
      shapes = tiny(shapes)
    elif batch_size:
      shapes = dataclasses.replace(shapes, batch_size=batch_size)
    row = {"system": system, "preset": preset}
    try:
      seconds = 0.0 if args.tiny else 2.0
      figures, _ = measure(
        shapes.system(system), shapes, variant, seconds, small=args.tiny
      )
      row |= figures
    except Exception:  # Later rows may still be measured.
      row |= {**dataclasses.asdict(variant), "error": traceback.format_exc()}
    rows.append(row)
    write_json(args.out, {"rows": rows})
    print(row.get("error", f"{len(rows)}: {system} {preset}"), flush=True)
  print(table(row for row in rows if "error" not in row))


if __name__ == "__main__":
  main()
