"""Configs as a user calls them, with errors a user can read."""

from collections.abc import Mapping, Sequence
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
  flag = f"--config={_config_file(name)}{colon}{chosen}"
  config = _parse(flag)
  for override in overrides:
    if override.startswith("--"):
      _check_flag(override, config)
  return _parse(flag, *overrides) if overrides else config


def _parse(*arguments: str) -> dict[str, Any]:
  """The config that flags describe, nested, as plain values."""
  values, argv = flags.FlagValues(), ["", *arguments]
  holder = config_flags.DEFINE_config_file(
    "config", lock_config=True, flag_values=values, sys_argv=argv
  )
  try:
    rest = values(argv)[1:]
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
    raise _explanation(error) from error
  if rest:
    raise ZsljaxError(f"command line: found {rest[0]!r}, expected only flags")
  return holder.value.to_dict()


def _check_flag(flag: str, config: Mapping[str, Any]) -> None:
  """Raises unless a flag sets a field that the config has."""
  name = flag.partition("=")[0]
  parts = re.sub(r"^--(no(?=config))?|\[.*", "", name).split(".")
  section: Any = {"config": config}
  for part in parts:
    if not isinstance(section, Mapping):
      return  # The parser says why a value has no fields.
    if part not in section:
      hint = did_you_mean(part, section)
      if part == parts[0]:
        hint = (
          "Fields are set by --config.FIELD=VALUE, those of the system by "
          "--config.system.FIELD=VALUE."
        )
      raise ZsljaxError(f"command line: unknown flag {name}. {hint}")
    section = section[part]


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
  explanation = ZsljaxError(f"command line: {text}")
  cause: BaseException | None = error
  while cause:
    if isinstance(cause, ZsljaxError):
      explanation = cause
    cause = cause.__cause__ or cause.__context__
  return explanation
