"""Several processes as one run: joining, agreeing, and noticing that one is lost.

JAX's own service connects the processes; this asks it to. What it lacks is done here
over its key-value store: every process tells that it is alive and, when it fails, why,
and a thread in each ends its process when another is gone. Without that, a process
would wait for the lost one in the middle of a sum over all devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from zsljax.devices.mesh import over_batch
from zsljax.errors import Stopped, ZsljaxError, paragraph, require

AUTO = "auto"
# Seconds: for all to come; between signs of life; without one, until a process is lost;
# for others to read why this one ends.
_JOIN, _BEAT, _LOST, _FAREWELL = 50, 1, 30, 4
# Milliseconds for what only waits while the others live, as `_Watch` sees to.
_PATIENCE = 86_400_000
# Tasks that a launcher started together with this one.
_TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_AGAIN = (
  "The checkpoints are whole: start all processes again with the same command, and the "
  "run continues."
)
_ALIVE, _FAILED, _FIELDS = "zsljax/alive/", "zsljax/failed/", "zsljax/fields/"


def launched_tasks() -> int:
  """Processes that SLURM's ``srun`` or Open MPI's ``mpirun`` started with this one."""
  return max(int(os.environ.get(name) or 1) for name in _TASKS)


def is_writer() -> bool:
  """Whether this process writes files and talks to the user."""
  return jax.process_index() == 0


@contextlib.contextmanager
def joined(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> Iterator[None]:
  """One of several processes in its body, if there are several.

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
  if {coordinator, num_processes, process_id} == {None}:
    if launched_tasks() == 1:
      yield
      return
    coordinator = AUTO
  _initialize(coordinator, num_processes, process_id)
  watch = _Watch()
  watch.start()
  try:
    yield
  except Stopped:
    watch.leave()  # All of them stop.
    raise
  except BaseException as error:
    watch.fail(error)
  watch.leave()


def _initialize(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
  own = {}
  if coordinator != AUTO:
    flags = {
      "coordinator": coordinator,
      "num_processes": num_processes,
      "process_id": process_id,
    }
    for flag, value in flags.items():
      others = ", ".join(f"--{name}" for name in flags if name != flag)
      require(value is not None, f"--{flag}", "nothing", f"a value, as {others} have")
    host, _, port = coordinator.rpartition(":")
    require(
      bool(host) and port.isdecimal(), "--coordinator", repr(coordinator), "HOST:PORT"
    )
    require(
      0 <= process_id < num_processes,
      "--process_id",
      process_id,
      f"0 to {num_processes - 1}, of --num_processes={num_processes}",
    )
    own = {
      "coordinator_address": coordinator,
      "num_processes": num_processes,
      "process_id": process_id,
      "cluster_detection_method": "deactivate",
    }
  late = threading.Timer(
    _JOIN,
    _end,
    [
      f"the processes of this run did not come together within {_JOIN} s: expected all "
      "of them to start with the same --coordinator=HOST:PORT and --num_processes, and "
      "an own --process_id"
    ],
  )
  late.daemon = True
  late.start()
  try:
    jax.distributed.initialize(
      **own,
      initialization_timeout=3 * _JOIN,  # `late` comes before it,
      heartbeat_timeout_seconds=3 * _LOST,  # and `_Watch` before this.
    )
  except (RuntimeError, ValueError) as error:
    raise ZsljaxError(
      f"--coordinator={coordinator}: {str(error).splitlines()[0][:300]}, expected "
      "HOST:PORT of process 0, and one --process_id for each of --num_processes"
    ) from error
  finally:
    late.cancel()
  # Until training begins there is nothing to save.
  signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _store():
  """The key-value store of all processes, which JAX gives no public name."""
  from jax._src import distributed

  return distributed.global_state.client


def require_agreement(fields: Mapping[str, Any]) -> None:
  """Raises, on every process, unless all have the same values (JSON) of ``fields``."""
  if jax.process_count() == 1:
    return
  store = _store()
  store.key_value_set(f"{_FIELDS}{jax.process_index()}", json.dumps(fields))
  told = [
    json.loads(store.blocking_key_value_get(f"{_FIELDS}{process}", _PATIENCE))
    for process in range(jax.process_count())
  ]
  for process, other in enumerate(told):
    for field in sorted(told[0].keys() | other.keys()):
      here, there = told[0].get(field), other.get(field)
      require(
        here == there,
        field,
        f"{there!r} on process {process}",
        f"{here!r} as on process 0",
      )


def wait_for_all(what: str) -> None:
  """Returns when every process has come here."""
  multihost_utils.sync_global_devices(what)


class Sigterm:
  """Notices, while it is entered, that a process was told to end.

  Several processes agree on it within a step: each brings what it knows, and a compiled
  call takes whether any of them was told.
  """

  def __enter__(self) -> Sigterm:
    """Takes the signal over."""
    self._told = False
    # Elsewhere Python lets nobody.
    self._main = threading.current_thread() is threading.main_thread()
    if self._main:
      self._before = signal.signal(signal.SIGTERM, self._notice)
    return self

  def __exit__(self, *exception: object) -> None:
    """Gives the signal back."""
    if self._main:
      signal.signal(signal.SIGTERM, self._before)

  def _notice(self, *signal: object) -> None:
    self._told = True

  def told(self, mesh: jax.sharding.Mesh) -> jax.Array | None:
    """Whether each process was told, over the ``data`` axis; None for one process."""
    if jax.process_count() == 1:
      return None
    devices = mesh.shape["data"] // jax.process_count()
    return jax.make_array_from_process_local_data(
      over_batch(mesh), np.full(devices, self._told)
    )

  def agreed(self, any_told: jax.Array | None) -> bool:
    """Whether to end, the same on every process, given whether any was told."""
    return self._told if any_told is None else bool(any_told)


class _Epitaph:
  """Words that appear should this process die without any.

  JAX aborts it when process 0 is gone, often before ``_Watch`` can speak. A shell reads
  from a pipe that closes with the process, whatever ended it.
  """

  def __init__(self, text: str):
    shell = ["sh", "-c", 'read -r _ || printf "%s\\n" "$0" >&2', text]
    self._shell = subprocess.Popen(shell, stdin=subprocess.PIPE, start_new_session=True)

  def drop(self) -> None:
    """They are not needed."""
    if self._shell.poll() is None:
      self._shell.communicate(b"\n")


class _Watch(threading.Thread):
  """Tells other processes that this one lives, and ends it when one of them is lost."""

  def __init__(self):
    super().__init__(daemon=True, name="watch over other processes")
    self._own, self._done = str(jax.process_index()), threading.Event()
    self._heard: dict[str, tuple[str, float]] = {}
    self._epitaph = _Epitaph(
      paragraph(
        f"error: process {self._own} of this run was ended, by what is written above, "
        f"by a kill, or because process 0 is gone. {_AGAIN}"
      )
    )

  def run(self) -> None:
    """Goes on until ``leave``."""
    beat = 0
    while not self._done.is_set():
      beat += 1
      try:
        self._tell(str(beat))
        self._look()
        # Waits, and hears at once when the store is gone.
        _store().blocking_key_value_get("zsljax/nothing", 1000 * _BEAT)
      except jax.errors.JaxRuntimeError as error:
        if not self._done.is_set() and "DEADLINE_EXCEEDED" not in str(error):
          self._end(f"process 0 is gone, which connects the others. {_AGAIN}")

  def leave(self) -> None:
    """Ends the watch, when every process has come to its end."""
    _store().wait_at_barrier("zsljax/end", _PATIENCE)
    self._done.set()
    self.join()
    jax.distributed.shutdown()
    self._epitaph.drop()

  def fail(self, error: BaseException) -> None:
    """Ends this process because of ``error``, and the others with it."""
    if not isinstance(error, ZsljaxError | KeyboardInterrupt):
      # Most likely one that follows from another's: the watch then ends this process.
      print(f"waiting for other processes after: {error}"[:300], file=sys.stderr)
      time.sleep(_LOST + 10 * _BEAT)
      traceback.print_exception(error)
    self._done.set()
    self._epitaph.drop()
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # Process 0 is gone.
      _store().key_value_set(_FAILED + self._own, f"{error}" or type(error).__name__)
    print(paragraph(f"error: {error}"), file=sys.stderr, flush=True)
    time.sleep(_FAREWELL)
    os._exit(2)

  def _tell(self, sign: str) -> None:
    _store().key_value_set(_ALIVE + self._own, sign, allow_overwrite=True)

  def _look(self) -> None:
    for process, reason in self._others(_FAILED):
      self._end(f"process {process} of this run ended: {reason}")
    now = time.monotonic()
    for process, sign in self._others(_ALIVE):
      before, since = self._heard.get(process, (None, now))
      if sign != before:
        self._heard[process] = sign, now
      elif now - since > _LOST:
        self._end(
          f"process {process} has given no sign of life for {_LOST} s. {_AGAIN}"
        )

  def _end(self, reason: str) -> None:
    self._epitaph.drop()
    _end(reason)

  def _others(self, prefix: str) -> list[tuple[str, str]]:
    told = [
      (key.rsplit("/", 1)[1], value)
      for key, value in _store().key_value_dir_get(prefix)
    ]
    return [(process, value) for process, value in told if process != self._own]


def _end(reason: str) -> None:
  """Ends this process, whatever it waits for."""
  message = f"error: this process ends, because {reason}"
  print(paragraph(message), file=sys.stderr, flush=True)
  os._exit(3)
