"""Throughput of a training step, beside the ceilings of the machine.

Needs neither data nor TensorFlow; with a stored dataset its streaming is timed too.
"""

from zsljax.benchmark.run import Variant, measure, run
from zsljax.benchmark.shapes import PRESETS, Shapes
from zsljax.benchmark.step import useful_flops
from zsljax.benchmark.table import compare, markdown, show, table

__all__ = [
  "PRESETS",
  "Shapes",
  "Variant",
  "compare",
  "markdown",
  "measure",
  "run",
  "show",
  "table",
  "useful_flops",
]
