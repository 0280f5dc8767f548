"""Versions of the libraries, and the machine, that numbers depend on."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import re
from typing import Any

_LIBRARIES = (
  *("zsljax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow"),
  *("tensorflow", "tensorflow-cpu", "tensorflow-datasets"),
)


def library_versions() -> dict[str, str]:
  """Versions of Python and of the libraries that numbers depend on."""
  versions = {"python": platform.python_version()}
  for library in _LIBRARIES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[library] = importlib.metadata.version(library)
  return versions


def hardware() -> dict[str, Any]:
  """Processor, cores and memory of this machine; what it does not tell is left out."""
  found: dict[str, Any] = {"cpu_cores": os.cpu_count(), "machine": platform.machine()}
  with contextlib.suppress(OSError, ValueError):  # Elsewhere than on Linux.
    text = pathlib.Path("/proc/cpuinfo").read_text()
    if model := re.search(r"model name\s*: (.*)", text):
      found["cpu"] = model[1]
    found["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  return found
