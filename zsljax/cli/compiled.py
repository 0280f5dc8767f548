"""The folder of compiled programs."""

import pathlib

from absl import logging
import jax

# Compiled programs are kept here, unless JAX_COMPILATION_CACHE_DIR says otherwise.
_COMPILED = pathlib.Path("~/.cache/zsljax/compiled")


def keep_compiled() -> None:
  """Lets a later start find what this one compiles; it loads the same program."""
  # JAX adds its settings to the class while it starts.
  if jax.config.jax_compilation_cache_dir is not None:  # pyrefly: ignore[missing-attribute]
    return
  folder = _COMPILED.expanduser()
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    logging.warning("%s: %s; nothing compiled is kept", folder, error.strerror)
  else:
    jax.config.update("jax_compilation_cache_dir", str(folder))
