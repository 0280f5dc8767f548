"""Command-line flags of the scripts, with errors a user can read."""

from collections.abc import Iterator, Sequence
import contextlib
import pathlib
import re
import sys
from typing import Any

from absl import flags, logging
import jax
from ml_collections import config_flags

from zsljax.errors import ZsljaxError, did_you_mean, shown_to_user

# Compiled programs are kept here, unless JAX_COMPILATION_CACHE_DIR says otherwise.
_COMPILED = pathlib.Path("~/.cache/zsljax/compiled")

WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run; training there again continues it."
)
flags.mark_flag_as_required("workdir")


def workdir() -> pathlib.Path:
  """The absolute path of --workdir."""
  return pathlib.Path(WORKDIR.value).expanduser().absolute()


def parse_flags(argv: list[str]) -> list[str]:
  """Parses absl flags; a wrong config field ends in one paragraph.

  For ``app.run(main, flags_parser=parse_flags)``.
  """
  arguments = shown_to_user(_parse)(argv)
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)
  _keep_compiled()
  return arguments


def _keep_compiled() -> None:
  """Lets a later start find what this one compiles; it loads the same program."""
  if jax.config.jax_compilation_cache_dir is not None:
    return
  folder = _COMPILED.expanduser()
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    logging.warning("%s: %s; nothing compiled is kept", folder, error.strerror)
  else:
    jax.config.update("jax_compilation_cache_dir", str(folder))


def read_config(argument: str, overrides: Sequence[str]) -> dict[str, Any]:
  """The fields of a config, nested, as plain values.

  Args:
    argument: what follows ``--config=``.
    overrides: command-line arguments such as ``--config.seed=1``.

  Raises:
    ZsljaxError: there is no such file, argument or field.
  """
  path = pathlib.Path(argument.split(":")[0])
  _check_file(path)
  root = str(path.absolute().parent.parent)  # Configs import from their folder.
  if root not in sys.path:
    sys.path.append(root)
  arguments = ["", f"--config={argument}", *overrides]
  values = flags.FlagValues()
  holder = config_flags.DEFINE_config_file(
    "config", lock_config=True, flag_values=values, sys_argv=arguments
  )
  with _explained():
    values(arguments)
  return holder.value.to_dict()


def _parse(argv: list[str]) -> list[str]:
  for argument in argv:
    if argument.startswith("--config="):
      _check_file(pathlib.Path(argument.removeprefix("--config=").split(":")[0]))
  with _explained():
    return flags.FLAGS(argv)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
  try:
    yield
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
    raise _explanation(error) from error


def _check_file(path: pathlib.Path) -> None:
  if not path.is_file():
    there = {str(p) for p in path.parent.glob("*.py")}
    there -= {str(path.parent / name) for name in ("__init__.py", "base.py")}
    raise ZsljaxError(f"--config: no file {path}. {did_you_mean(str(path), there)}")


def _explanation(error: BaseException) -> ZsljaxError:
  """What was wrong at first, without the tracebacks that absl wraps around it."""
  text = str(error.args[0] if error.args else error)
  field = re.search(r"(\w+)\W+n?Did you mean \"(\w+)\"", text)
  if field:
    text = f"unknown config field {field[1]!r}. Did you mean {field[2]!r}?"
  elif unknown := re.fullmatch(r"\W*(?:Unknown command line flag )?\W*(\w+)\W*", text):
    name = unknown[1]
    text = (
      f"unknown config field {name!r}. The fields are in configs/base.py and in the "
      "system's config file; those of the system are --config.system.NAME"
    )
  explanation = ZsljaxError(f"command line: {text}")
  cause: BaseException | None = error
  while cause:
    if isinstance(cause, ZsljaxError):
      explanation = cause
    cause = cause.__cause__ or cause.__context__
  return explanation
