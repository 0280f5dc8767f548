"""The folder of compiled programs."""

import os
import pathlib

from absl import logging


def keep_compiled() -> None:
  """Lets JAX, before its import, keep what it compiles where a later start finds it.

  A folder that the user names, JAX_COMPILATION_CACHE_DIR, goes before
  ``~/.cache/zsljax/compiled``.
  """
  # Sweeps have many programs that take less than JAX's second.
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
  folder = pathlib.Path("~/.cache/zsljax/compiled").expanduser()
  if "JAX_COMPILATION_CACHE_DIR" in os.environ:
    return
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    logging.warning("%s: %s; nothing compiled is kept", folder, error.strerror)
  else:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
