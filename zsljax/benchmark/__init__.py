"""Throughput, against what the machine it runs on can do.

Needs neither data nor TensorFlow; with a stored dataset its streaming is timed too.
"""

from zsljax.benchmark.compare import compare
from zsljax.benchmark.run import Variant, main, measure, run
from zsljax.benchmark.shapes import PRESETS, Shapes, random_labels
from zsljax.benchmark.step import make_step
from zsljax.benchmark.table import show, table
from zsljax.benchmark.timing import Timing, time_calls

__all__ = [
  "PRESETS",
  "Shapes",
  "Timing",
  "Variant",
  "compare",
  "main",
  "make_step",
  "measure",
  "random_labels",
  "run",
  "show",
  "table",
  "time_calls",
]
