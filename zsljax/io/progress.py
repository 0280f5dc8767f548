"""Bars that show how far a long task is, with its rate and the time left."""

import sys

import tqdm

# A task that is done sooner shows no bar.
_DELAY = 2.0


def step_bar(
  total: int, what: str, initial: int = 0, unit: str = "step", shown: bool = True
) -> tqdm.tqdm:
  """A bar that stays when all is done; a line now and then in a log file."""
  return _bar(total=total, initial=initial, unit=unit, desc=what, disable=not shown)


def task_bar(total: int | None, what: str, unit: str) -> tqdm.tqdm:
  """A bar that appears after two seconds and goes when the task is done.

  Args:
    total: how many units there are; None where that is not known.
    what: description of the task.
    unit: ``B`` for bytes, or a word.
  """
  unit = unit if unit == "B" else f" {unit}"
  scale = unit == "B"
  return _bar(
    total=total, desc=what, unit=unit, unit_scale=scale, leave=False, delay=_DELAY
  )


def _bar(**options) -> tqdm.tqdm:
  return tqdm.tqdm(mininterval=0.1 if sys.stderr.isatty() else 10, **options)
