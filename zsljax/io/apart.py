"""Reading in a process of its own, with limits of memory and time.

The C libraries behind HDF5 and MATLAB files crash, hang or fill the memory at some
damaged files. Here they do so in a process that ends with the file; the caller gets a
sentence. Arrays come back through a nameless file, written once and mapped.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from typing import IO, Any

from zsljax.errors import ZsljaxError
from zsljax.io.checks import largest

_SECONDS, _BYTES_A_SECOND = 4, 10**6
_lock = threading.Lock()
_server: tuple[int, subprocess.Popen] | None = None


def call(function: str, path: pathlib.Path, out: IO[bytes], *args: Any) -> Any:
  """Calls ``function(path, file, *args)`` of ``containers`` in another process.

  Args:
    function: its name.
    path: of the file that is read.
    out: file that the function writes to.
    *args: JSON values.

  Returns:
    Its value, as JSON has it.

  Raises:
    ZsljaxError: the function's; or it crashed, or went beyond its limits.
  """
  request = {
    "function": function,
    "path": str(path.absolute()),
    "args": args,
    "out": f"/proc/{os.getpid()}/fd/{out.fileno()}",
    "bytes": largest(path),
    "seconds": _SECONDS + path.stat().st_size // _BYTES_A_SECOND,
  }
  with _lock:
    server = _started()
    assert server.stdin and server.stdout
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    answer = server.stdout.readline()
  status, reply = json.loads(answer) if answer else (-signal.SIGKILL, "")
  if status == 0:
    value, refused = json.loads(reply)
    if refused is None:
      return value
    raise ZsljaxError(refused.replace(request["path"], str(path)))
  reason = f"its reader crashed with {signal.Signals(-status).name}"
  if status == -signal.SIGXCPU:
    reason = f"its reader was busy for more than {request['seconds']} s"
  raise ZsljaxError(
    f"{path}: not readable ({path.stat().st_size} bytes; {reason}), expected a "
    f"complete {path.suffix} file (was the download cut off?)"
  )


def scratch_file(folder: pathlib.Path | None) -> IO[bytes]:
  """A nameless file in a folder, or where temporary files go; it goes when closed."""
  return tempfile.TemporaryFile(dir=folder)


def _started() -> subprocess.Popen:
  """The process that is forked for each call: a new one would take a second."""
  global _server
  if _server is None or _server[0] != os.getpid() or _server[1].poll() is not None:
    server = subprocess.Popen(
      [sys.executable, "-c", f"import {__name__} as apart; apart.serve()"],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
      env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
      start_new_session=True,  # Ctrl-C is for the caller.
    )
    _server = os.getpid(), server
    atexit.register(_stop, *_server)
  return _server[1]


def _stop(owner: int, server: subprocess.Popen) -> None:
  """Ends the process, which waits for requests."""
  if owner == os.getpid():
    server.communicate()


def serve() -> None:
  """Answers requests from the standard input, each in a forked process."""
  containers = importlib.import_module("zsljax.io.containers")
  for line in sys.stdin:
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
      os.close(read_end)
      with os.fdopen(write_end, "w") as reply:
        json.dump(_answer(containers, json.loads(line)), reply)
      os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as reply:
      text = reply.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([status, text]), flush=True)


def _answer(containers: Any, request: dict[str, Any]) -> tuple[Any, str | None]:
  """The value of a function, or its error."""
  used = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
  memory = used * resource.getpagesize() + 2 * request["bytes"]
  resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
  resource.setrlimit(resource.RLIMIT_FSIZE, (request["bytes"], request["bytes"]))
  resource.setrlimit(resource.RLIMIT_CPU, (request["seconds"], request["seconds"] + 1))
  function, path = request["function"], pathlib.Path(request["path"])
  try:
    with open(request["out"], "r+b") as file:
      return getattr(containers, function)(path, file, *request["args"]), None
  except ZsljaxError as error:
    return None, str(error)
