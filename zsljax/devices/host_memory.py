"""Memory of the host."""

import ctypes
import os
import platform

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def keep_freed() -> None:
  """Lets the process use memory again that it freed.

  XLA's CPU devices take the arrays of every step anew. glibc gives large ones back to
  the system as soon as they are free, so that each step touches its memory for the
  first time, 4 kB after 4 kB. From here on they come from one heap, which keeps what
  was freed: the process stays as large as it once was. To be called before JAX has made
  its threads. Does nothing without glibc, or where ``MALLOC_...`` or
  ``GLIBC_TUNABLES`` in the environment say how it shall allocate.
  """
  own = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
  if own or platform.libc_ver()[0] != "glibc":
    return
  libc = ctypes.CDLL(None)
  libc.mallopt(_M_TRIM_THRESHOLD, -1)  # Never.
  libc.mallopt(_M_MMAP_MAX, 0)
  libc.mallopt(_M_ARENA_MAX, 1)  # Heaps of threads end at 64 MB.
