import os
import platform
import subprocess
import sys

import pytest

# First touches of memory while an array of 100 MB is made, in another thread, when one
# like it was freed before.
FAULTS = """
import resource, threading
import numpy as np
from zsljax.devices.host_memory import keep_freed
{call}
def make():
  np.ones(25_000_000, np.float32)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  np.ones(25_000_000, np.float32)
  print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
thread = threading.Thread(target=make)
thread.start()
thread.join()
heap = [line.split()[0] for line in open("/proc/self/maps") if "[heap]" in line]
ends = [[int(end, 16) for end in part.split("-")] for part in heap]
print(sum(last - first for first, last in ends))
"""


ELSEWHERE = {k: v for k, v in os.environ.items() if not k.startswith(("MALL", "GLIBC"))}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_what_was_freed_is_used_again():
  (plain, _), (kept, heap) = (faults_and_heap(call) for call in ("", "keep_freed()"))
  assert kept < 25 < plain
  assert heap > 8e9  # Addresses in large pages, which are not given back either.
  _, heap = faults_and_heap("keep_freed()", MALLOC_TOP_PAD_="0")
  assert heap < 8e9  # The user's own settings go first.


def faults_and_heap(call, **environment):
  code = FAULTS.format(call=call)
  done = subprocess.check_output(
    [sys.executable, "-c", code], env=ELSEWHERE | environment
  )
  return map(int, done.split())
