"""Training metrics over time: ``metrics.jsonl`` and TensorBoard events."""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib
from typing import Any

from zsljax.io.files import append_line, read_lines, write_text
from zsljax.io.json_files import COUNT, object_of


class MetricsLog:
  """Writes the metrics of a run, from the step at which it starts or resumes.

  TensorBoard events are written where TensorFlow is installed.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    start_step: int,
    config: Mapping[str, Any] | None = None,
  ):
    """Drops the lines from ``start_step`` on that an interrupted run left.

    Args:
      workdir: of the run.
      start_step: at which the run starts or resumes.
      config: all fields, for TensorBoard's texts.
    """
    self._path = workdir / "metrics.jsonl"
    lines = read_lines(self._path, object_of(step=COUNT))
    kept = [line for line in lines if line["step"] < start_step]
    write_text(self._path, "".join(json.dumps(r) + "\n" for r in kept))
    self._events = _events(workdir)
    if self._events and config:
      text = json.dumps(config, indent=2)
      self._events.write_texts(start_step, {"config": f"```\n{text}\n```"})

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes one line, and one TensorBoard point for each metric."""
    append_line(self._path, {"step": step, **metrics})
    if self._events:
      self._events.write_scalars(step, metrics)

  def close(self) -> None:
    """Writes out buffered events."""
    if self._events:
      self._events.flush()
      self._events.close()


def add_evaluations(
  workdir: pathlib.Path, step: int, named: Mapping[str, Mapping[str, float]]
) -> None:
  """Adds the metrics of evaluations to TensorBoard, each as ``name/metric``."""
  if events := _events(workdir):
    for name, metrics in named.items():
      events.write_scalars(step, {f"{name}/{k}": v for k, v in metrics.items()})
    events.flush()
    events.close()


def _events(workdir: pathlib.Path):
  try:
    from clu import metric_writers
  except ImportError:
    return None
  return metric_writers.SummaryWriter(str(workdir / "tensorboard"))
