"""Sweeps: settings chosen on validation classes, and several runs as one program."""

from zsljax.sweeps.sweep import grid_points, sweep, with_values
from zsljax.sweeps.together import Together, Variant, number_fields

__all__ = [
  "Together",
  "Variant",
  "grid_points",
  "number_fields",
  "sweep",
  "with_values",
]
