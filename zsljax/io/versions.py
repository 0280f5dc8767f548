"""Versions of the libraries that numbers depend on."""

import contextlib
import importlib.metadata
import platform

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
