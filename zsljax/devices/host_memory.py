"""Memory of the host."""

import ctypes
import mmap
import os
import platform

# From glibc's malloc.h and Linux's mman.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_MADV_HUGEPAGE = 14
# Of addresses, not of memory: how far the heap may grow in large pages.
_RESERVED = 2**33


def keep_freed() -> None:
  """Lets the process use its memory again, in large pages.

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
  libc.malloc.restype = ctypes.c_void_p
  libc.malloc.argtypes = (ctypes.c_size_t,)
  libc.free.argtypes = (ctypes.c_void_p,)
  libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
  for setting, value in (
    (_M_TRIM_THRESHOLD, -1),  # Never.
    (_M_MMAP_MAX, 0),
    (_M_ARENA_MAX, 1),  # Heaps of threads end at 64 MB.
  ):
    libc.mallopt(setting, value)
  reserved = libc.malloc(_RESERVED)
  if reserved:
    page = mmap.PAGESIZE
    begin = -(-reserved // page) * page
    libc.madvise(begin, _RESERVED - 2 * page, _MADV_HUGEPAGE)
    libc.free(reserved)
