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
"""
ELSEWHERE = {k: v for k, v in os.environ.items() if not k.startswith(("MALL", "GLIBC"))}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_what_was_freed_is_used_again():
  assert faults("keep_freed()") < 25 < faults("")
  # The user's own settings go first.
  assert faults("keep_freed()", MALLOC_TOP_PAD_="0") > 25


def faults(call, **environment):
  code = FAULTS.format(call=call)
  return int(
    subprocess.check_output([sys.executable, "-c", code], env=ELSEWHERE | environment)
  )
