"""Several processes as one run, connected by JAX's own service.

The service ends all processes when one of them gives no sign of life, with a stack of
its own; each says at its start what the user can do then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import itertools
import json
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from zsljax.errors import Stopped, ZsljaxError, paragraph, require

AUTO = "auto"
# Seconds, each less than a minute: for all to come; without a sign of life, until a
# process is lost; for all to leave.
_JOIN, _HEARTBEAT, _LEAVE = 50, 40, 30
# Tasks that a launcher started together with this one.
_TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_AGAIN = (
  "Checkpoints are whole: start all processes again with the same command, and the run "
  "continues."
)


def launched_tasks() -> int:
  """Processes that SLURM's ``srun`` or Open MPI's ``mpirun`` started with this one."""
  return max(int(os.environ.get(name) or 1) for name in _TASKS)


def is_writer() -> bool:
  """Tells if this process writes files and talks to the user."""
  return jax.process_index() == 0


@contextlib.contextmanager
def joined(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> Iterator[None]:
  """Connects the processes of a run while its body runs, if there are several.

  When the body raises on one of them, all end, each with a message.

  Args:
    coordinator: ``HOST:PORT`` of process 0; ``auto`` lets JAX find all three out. When
      None, that is done under SLURM and Open MPI with several tasks, and else there is
      one process.
    num_processes: of the run.
    process_id: of this one, counted from 0.

  Raises:
    ZsljaxError: the arguments do not fit, or the others cannot be reached.
  """
  flags = {
    "coordinator": coordinator,
    "num_processes": num_processes,
    "process_id": process_id,
  }
  if set(flags.values()) == {None}:
    if launched_tasks() == 1:
      yield
      return
    coordinator = AUTO
  own = {} if coordinator == AUTO else _checked(flags)
  note = (
    f"waiting up to {_JOIN} s for the other processes of this run (--coordinator="
    f"{coordinator}). When one is lost, JAX ends all within a minute. {_AGAIN}"
  )
  print(paragraph(note), file=sys.stderr, flush=True)
  try:
    jax.distributed.initialize(
      **own,
      initialization_timeout=_JOIN,
      heartbeat_timeout_seconds=_HEARTBEAT,
      shutdown_timeout_seconds=_LEAVE,
    )
  except (RuntimeError, ValueError) as error:
    raise ZsljaxError(
      f"--coordinator={coordinator}: {str(error).splitlines()[0][:300]}, expected "
      f"all processes of the run to start within {_JOIN} s with the same HOST:PORT of "
      "process 0 and --num_processes, and an own --process_id"
    ) from error
  try:
    yield
  except Stopped:
    jax.distributed.shutdown()  # All of them stop.
    raise
  except BaseException as error:
    if isinstance(error, ZsljaxError):
      message = f"error: {error}"
    else:
      traceback.print_exception(error)
      message = f"error: this process, or one that it waited for, failed. {_AGAIN}"
    print(paragraph(message), file=sys.stderr, flush=True)
    with contextlib.suppress(RuntimeError):  # Those that still run do not come.
      jax.distributed.shutdown()
    os._exit(2)  # Computations that wait for other processes may never end.
  jax.distributed.shutdown()


def _checked(flags: Mapping[str, Any]) -> dict[str, Any]:
  """Arguments of ``jax.distributed.initialize`` from the three flags."""
  for flag, value in flags.items():
    others = ", ".join(f"--{name}" for name in flags if name != flag)
    require(value is not None, f"--{flag}", "nothing", f"a value, as {others} have")
  address, count, own = flags.values()
  host, _, port = address.rpartition(":")
  require(bool(host) and port.isdecimal(), "--coordinator", repr(address), "HOST:PORT")
  require(
    0 <= own < count,
    "--process_id",
    own,
    f"0 to {count - 1}, of --num_processes={count}",
  )
  return {
    "coordinator_address": address,
    "num_processes": count,
    "process_id": own,
    "cluster_detection_method": "deactivate",
  }


def require_agreement(fields: Mapping[str, Any]) -> None:
  """Raises, on every process, unless all have the same values (JSON) of ``fields``."""
  text = np.frombuffer(json.dumps(fields).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(len(text))).ravel()
  padded = np.pad(text, (0, sizes.max() - len(text)))
  texts = multihost_utils.process_allgather(padded).reshape(len(sizes), -1)
  first, *others = [
    json.loads(text[:size].tobytes()) for text, size in zip(texts, sizes, strict=True)
  ]
  for process, other in enumerate(others, 1):
    for field in sorted(first.keys() | other.keys()):
      expected, found = first.get(field), other.get(field)
      require(
        found == expected,
        field,
        f"{found!r} on process {process}",
        f"{expected!r} as on process 0",
      )


def of_all_processes(tree: Any) -> Any:
  """Joins arrays on the host, each with a row for every image of this process.

  The images of process 0 come first on every process.
  """
  if jax.process_count() == 1:
    return tree
  leaves, form = jax.tree.flatten(tree)
  counts = multihost_utils.process_allgather(np.int32(len(leaves[0]))).ravel()

  def joined(own: np.ndarray) -> np.ndarray:
    missing = [(0, counts.max() - len(own)), *[(0, 0)] * (own.ndim - 1)]
    parts = multihost_utils.process_allgather(np.pad(own, missing))
    parts = [part[:count] for part, count in zip(parts, counts, strict=True)]
    return np.concatenate(parts).astype(own.dtype)

  return form.unflatten(map(joined, leaves))


class StopSignals:
  """Notices, while it is entered, that the run was told to end.

  One process has handlers of its own, for SIGTERM and for Ctrl-C (SIGINT), of which a
  second one ends the process at once. Of several, JAX's service listens to SIGTERM and
  finds a call that all of them can still reach.
  """

  def __enter__(self) -> StopSignals:
    """Takes the signals over."""
    self.received, self._calls = signal.SIGTERM, itertools.count(1)
    self._told, self._before = False, {}
    # Python lets only the main thread handle signals.
    main = threading.current_thread() is threading.main_thread()
    if main and jax.process_count() == 1:
      for one in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(one) != signal.SIG_IGN:  # As in the background of a shell.
          self._before[one] = signal.signal(one, self._notice)
    return self

  def __exit__(self, *exception: object) -> None:
    """Gives the signals back."""
    for one, handler in self._before.items():
      signal.signal(one, handler)

  def _notice(self, number: int, frame: object) -> None:
    del frame
    self._told, self.received = True, signal.Signals(number)
    if number == signal.SIGINT:
      signal.signal(number, signal.SIG_DFL)  # Ends a compilation, too.
      note = "\nsaving after this step; Ctrl-C again ends at once, without"
      print(note, file=sys.stderr, flush=True)

  def told(self) -> bool:
    """Tells if the run is to end now, the same on every process.

    All processes call it equally often, after each compiled call.
    """
    if jax.process_count() == 1:
      return self._told
    return multihost_utils.reached_preemption_sync_point(next(self._calls))


class Alarm:
  """Rings about every so many seconds, after the same calls on every process.

  One process looks at its clock. Of several, the first tells the others, after 1, 2, 4,
  8, ... calls, how many calls last so long.
  """

  def __init__(self, seconds: float):
    """Begins to count; 0 seconds never ring."""
    self._seconds, self._since = seconds, time.monotonic()
    self._calls, self._every = 0, 1

  def rings(self) -> bool:
    """Tells if it rings now; all processes call it equally often."""
    if not self._seconds:
      return False
    self._calls += 1
    elapsed = time.monotonic() - self._since
    if jax.process_count() == 1:
      rings = elapsed >= self._seconds
      self._since += elapsed if rings else 0
      return rings
    if not self._calls & (self._calls - 1):
      one = elapsed / (self._calls - self._calls // 2)
      every = np.int32(max(1, self._seconds // max(one, 1e-6)))
      self._every = int(multihost_utils.broadcast_one_to_all(every))
      self._since += elapsed
    return self._calls % self._every == 0
