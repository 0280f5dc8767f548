"""A run opens no outside connection: the system call would kill the process."""

import platform
import sys

import pytest

# Runs a script under a seccomp filter that kills the process, at whatever level,
# when it calls connect with an internet address, told by its length (x86-64
# Linux; the C library may ask a local name service over a Unix socket).
GUARD = """
import ctypes, runpy, socket, struct, sys

def statement(code, yes, no, value):
  return struct.pack("HBBI", code, yes, no, value)

LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, KILL = 0x7FFF0000, 0x80000000
filters = b"".join([
  statement(LOAD, 0, 0, 0),              # The number of the system call.
  statement(EQUAL, 0, 3, 42),            # connect, else allow.
  statement(LOAD, 0, 0, 32),             # The length of its address.
  statement(EQUAL, 2, 0, 16),            # IPv4
  statement(EQUAL, 1, 0, 28),            # IPv6
  statement(RETURN, 0, 0, ALLOW),
  statement(RETURN, 0, 0, KILL),
])

class Program(ctypes.Structure):
  _fields_ = [("length", ctypes.c_ushort), ("filters", ctypes.c_void_p)]

libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(filters, len(filters))
program = Program(len(filters) // 8, ctypes.addressof(buffer))
libc.prctl(38, 1, 0, 0, 0)               # No new privileges.
if libc.prctl(22, 2, ctypes.byref(program), 0, 0):
  sys.exit(77)
sys.argv = sys.argv[1:]
if sys.argv[0] == "connect":
  socket.create_connection(("127.0.0.1", 9))
else:
  sys.path.insert(0, "")
  runpy.run_path(sys.argv[0], run_name="__main__")
"""

pytestmark = pytest.mark.skipif(
  sys.platform != "linux" or platform.machine() != "x86_64",
  reason="the filter is written for x86-64 Linux",
)


@pytest.fixture
def guarded(command):
  def run(*arguments):
    done = command("-c", GUARD, *arguments, check=False)
    if done.returncode == 77:
      pytest.skip("this kernel takes no seccomp filter")
    return done

  return run


def test_the_guard_kills_a_process_that_connects(guarded):
  assert guarded("connect").returncode == -31  # SIGSYS


@pytest.mark.slow
def test_preparing_training_and_evaluating_connect_to_nothing(guarded, tmp_path):
  work = f"--workdir={tmp_path / 'w'}"
  done = guarded(
    "train.py", "--config=configs/semantic_softmax.py:digits", work,
    "--config.epochs=2",
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  done = guarded("eval.py", work)
  assert done.returncode == 0, done.stderr
