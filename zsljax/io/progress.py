"""Bars that show how far a long task is, with its rate and the time left."""

import sys
import threading
import time
import weakref

import tqdm

# A task that is done sooner shows no bar.
_DELAY = 2.0
# Seconds without a step after which that is said.
_SILENT = 180.0


def step_bar(
  total: int, what: str, initial: int = 0, unit: str = "step", shown: bool = True
) -> tqdm.tqdm:
  """A bar that stays when all is done; a line now and then in a log file.

  A line says so when no step is done for three minutes. The time left is estimated
  without what JAX compiles meanwhile.
  """
  bar = _bar(total=total, initial=initial, unit=unit, desc=what, disable=not shown)
  _leave_out_compiling(bar)
  threading.Thread(target=_watch, args=(weakref.ref(bar),), daemon=True).start()
  return bar


def _leave_out_compiling(bar: tqdm.tqdm) -> None:
  """Sets the clock of a bar back by what JAX compiles, for as long as the bar lives."""
  from jax import monitoring

  reference = weakref.ref(bar)

  def compiled(event: str, seconds: float, **_) -> None:
    bar = reference()
    if event.startswith("/jax/core/compile/") and bar is not None and not bar.disable:
      bar.start_t += seconds
      bar.last_print_t += seconds

  monitoring.register_event_duration_secs_listener(compiled)
  weakref.finalize(bar, monitoring.unregister_event_duration_listener, compiled)


def _watch(reference: weakref.ref) -> None:
  """Says that a bar stands still, until it is closed."""
  last, said = None, False
  while True:
    time.sleep(_SILENT)
    bar = reference()
    if bar is None or bar.disable:
      return
    stands = bar.n == last
    if stands and not said:
      bar.write(
        f"{bar.desc}: no step in {_SILENT:g} s. Where the processor is busy a step is "
        "large or is being compiled; where it is idle the program hangs: stop it and "
        "start the same command again.",
        file=sys.stderr,
      )
    last, said = bar.n, stands
    del bar


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


class _Lines:
  """Standard error that is no terminal: every state of a bar is a line of its own."""

  encoding = "utf-8"

  def write(self, text: str) -> None:
    if line := text.strip("\r\n "):
      print(line, file=sys.stderr)

  def flush(self) -> None:
    sys.stderr.flush()


def _bar(**options) -> tqdm.tqdm:
  if sys.stderr.isatty():
    return tqdm.tqdm(**options)
  options["leave"] = True  # The last line says how it ended.
  return tqdm.tqdm(file=_Lines(), mininterval=10, ncols=80, **options)
