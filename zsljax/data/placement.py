"""Choice of where training features are held between steps."""

from __future__ import annotations

import contextlib
import os
import pathlib

CACHE_MODES = ("auto", "device", "host", "none")
# With cache "auto": a split up to this size is held in memory.
CACHE_LIMIT = 4 * 2**30


def place(cache: str, size: int, device_limit: int, devices: int, hosts: int) -> str:
  """Returns a host's place for features: ``device``, ``split``, ``host`` or ``none``.

  ``device`` is all on every device, ``split`` a part on each, ``none`` the files.

  Args:
    cache: a mode of ``CACHE_MODES``.
    size: bytes of the largest host's share.
    device_limit: bytes that each device has room for.
    devices: devices that share a batch, over all hosts.
    hosts: number of processes.
  """
  if cache in ("host", "none"):
    return cache
  if cache == "auto" and size > available_memory():
    return "none"
  split = hosts > 1 or devices > 1 and size > device_limit
  parts = devices // hosts if split else 1
  if cache == "device" or size <= parts * device_limit:
    return "split" if split else "device"
  return "host" if size <= CACHE_LIMIT else "none"


def available_memory() -> int:
  """Returns the bytes of memory that a process can still take.

  A container's limit counts.
  """
  try:
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if "MemAvailable" in line)
    free = 1024 * int(kilobytes)
  except (OSError, StopIteration):
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  with contextlib.suppress(OSError, ValueError):  # "max" is no limit.
    group = pathlib.Path("/sys/fs/cgroup")
    limit = int((group / "memory.max").read_text())
    free = min(free, limit - int((group / "memory.current").read_text()))
  return free
