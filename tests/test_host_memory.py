import platform
import subprocess
import sys

import pytest

# First touches of memory while an array of 100 MB is made, in another thread, when one
# like it was freed before.
FAULTS = """
import resource, threading
import numpy as np
from zsljax.host_memory import keep_freed
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_what_was_freed_is_used_again():
  plain, kept = (
    int(subprocess.check_output([sys.executable, "-c", FAULTS.format(call=call)]))
    for call in ("", "keep_freed()")
  )
  assert kept < 25 < plain
