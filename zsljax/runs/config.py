"""Configs as a user calls them, with errors a user can read."""

from collections.abc import Sequence
import pathlib
import re
import sys
from typing import Any

from absl import flags
from ml_collections import config_flags

from zsljax.errors import ZsljaxError, did_you_mean

_SHIPPED = pathlib.Path(__file__).parents[1] / "configs"
_NO_CONFIGS = ("__init__", "base")


def read_config(argument: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
  """The fields of a config, nested, as plain values.

  Args:
    argument: ``NAME:ARGUMENT`` of a shipped config, or ``FILE.py:ARGUMENT``. Modules
      that lie beside a file can be imported from then on.
    overrides: command-line arguments such as ``--config.seed=1``.

  Raises:
    ZsljaxError: there is no such config, argument or field.
  """
  name, colon, chosen = argument.partition(":")
  path = _config_file(name)
  arguments = ["", f"--config={path}{colon}{chosen}", *overrides]
  values = flags.FlagValues()
  holder = config_flags.DEFINE_config_file(
    "config", lock_config=True, flag_values=values, sys_argv=arguments
  )
  try:
    rest = values(arguments)[1:]
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
    raise _explanation(error) from error
  if rest:
    raise ZsljaxError(f"command line: found {rest[0]!r}, expected only flags")
  return holder.value.to_dict()


def _config_file(name: str) -> pathlib.Path:
  """The file of a config, which a user calls by its name or its path."""
  if name.endswith(".py") or "/" in name:
    path = pathlib.Path(name).expanduser()
    if not path.is_file():
      there = [str(p) for p in path.parent.glob("*.py") if p.stem not in _NO_CONFIGS]
      raise ZsljaxError(f"--config: no file {path}. {did_you_mean(str(path), there)}")
    if (folder := str(path.absolute().parent)) not in sys.path:
      sys.path.append(folder)
    return path
  path = _SHIPPED / f"{name}.py"
  if not path.is_file() or name in _NO_CONFIGS:
    there = [p.stem for p in _SHIPPED.glob("*.py") if p.stem not in _NO_CONFIGS]
    raise ZsljaxError(
      f"--config: no config {name!r}, expected a file or one of those that come with "
      f"zsljax. {did_you_mean(name, there)}"
    )
  return path


def _explanation(error: BaseException) -> ZsljaxError:
  """The first error, without the tracebacks that absl wraps around it."""
  text = str(error.args[0] if error.args else error)
  field = re.search(r"(\w+)\W+n?Did you mean \"(\w+)\"", text)
  if field:
    text = f"unknown config field {field[1]!r}. Did you mean {field[2]!r}?"
  elif unknown := re.fullmatch(r"\W*(?:Unknown command line flag )?\W*(\w+)\W*", text):
    text = (
      f"unknown config field {unknown[1]!r}. The fields are in configs/base.py and in "
      "the system's config file; those of the system are --config.system.NAME"
    )
  explanation = ZsljaxError(f"command line: {text}")
  cause: BaseException | None = error
  while cause:
    if isinstance(cause, ZsljaxError):
      explanation = cause
    cause = cause.__cause__ or cause.__context__
  return explanation
