"""Training metrics over time: ``metrics.jsonl`` and TensorBoard events."""

from __future__ import annotations

from collections.abc import Mapping
import json
import pathlib
from typing import Any

from zsljax.data.store import tensorflow
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
      text = f"```\n{json.dumps(config, indent=2)}\n```"
      with self._events.as_default(start_step):
        tensorflow()[0].summary.text("config", text)

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes one line, and one TensorBoard point for each metric."""
    append_line(self._path, {"step": step, **metrics})
    if self._events:
      _add(self._events, step, metrics)

  def close(self) -> None:
    """Writes out buffered events."""
    if self._events:
      self._events.close()


def add_evaluations(
  workdir: pathlib.Path, step: int, named: Mapping[str, Mapping[str, float]]
) -> None:
  """Adds the metrics of evaluations to TensorBoard, each as ``name/metric``."""
  if events := _events(workdir):
    for name, metrics in named.items():
      _add(events, step, {f"{name}/{k}": v for k, v in metrics.items()})
    events.close()


def _events(workdir: pathlib.Path):
  """TensorFlow's writer of events; None where TensorFlow is not installed."""
  try:
    tf, _ = tensorflow()
  except ImportError:
    return None
  return tf.summary.create_file_writer(str(workdir / "tensorboard"))


def _add(events, step: int, metrics: Mapping[str, float]) -> None:
  with events.as_default(step):
    for name, value in metrics.items():
      tensorflow()[0].summary.scalar(name, value)
