"""Configs as a user calls them, with errors a user can read."""

from collections.abc import Mapping, Sequence
import difflib
import inspect
import pathlib
import re
import sys
from typing import Any

from absl import flags
from ml_collections import config_flags

from zsljax.errors import ZsljaxError, did_you_mean

_SHIPPED = pathlib.Path(__file__).parents[1] / "configs"
_NO_CONFIGS = ("__init__", "base")
# A field that a config's file sets, in the function's own indentation.
_ASSIGNED = re.compile(r"  config\.([\w.]+) = ")


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


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Nested fields by their dotted names."""
  fields = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      fields |= flat(value, f"{prefix}{key}.")
    else:
      fields[prefix + key] = value
  return fields


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
      hint = _nested(part, section, config) or did_you_mean(part, section)
      if part == parts[0]:
        hint = (
          "Fields are set by --config.FIELD=VALUE, those of the system by "
          "--config.system.FIELD=VALUE."
        )
      raise ZsljaxError(f"command line: unknown flag {name}. {hint}")
    section = section[part]


def _nested(part: str, section: Mapping, config: Mapping) -> str:
  """A hint at fields of other sections that have nearly this name; else empty."""
  if difflib.get_close_matches(part, section):
    return ""
  named: dict[str, list[str]] = {}
  for field in flat({"config": config}):
    named.setdefault(field.rpartition(".")[2], []).append(field)
  close = difflib.get_close_matches(part, named, 1)
  return f"Did you mean {' or '.join(named[close[0]])}?" if close else ""


def config_names() -> list[str]:
  """Names of the configs that come with zsljax."""
  return sorted(p.stem for p in _SHIPPED.glob("*.py") if p.stem not in _NO_CONFIGS)


def explained_fields(
  argument: str, overrides: Sequence[str] = ()
) -> list[tuple[str, Any, str]]:
  """Fields of a config with their values and comments, those of the system first.

  Args:
    argument: see ``read_config``.
    overrides: see ``read_config``.
  """
  config = read_config(argument, overrides)
  comments = {"system.name": ""} | _comments(argument)
  for field, text in _attributes(config["system"]).items():
    comments[field] = comments.get(field) or text
  values = flat(config)
  places = {field: place for place, field in enumerate(comments)}
  order = sorted(
    values, key=lambda x: (not x.startswith("system."), places.get(x, len(places)))
  )
  section = comments["grid"]
  return [
    (x, values[x], section if x.startswith("grid.") else comments.get(x, ""))
    for x in order
  ]


def _comments(argument: str) -> dict[str, str]:
  """Comments above the fields of a config in its files, by field.

  Fields of one section that follow one another share the comment above them. A config's
  own comment follows that of ``base.py``.
  """
  found: dict[str, str] = {}
  for path in (_SHIPPED / "base.py", _config_file(argument.partition(":")[0])):
    comment: list[str] = []
    above = section = ""
    for line in path.read_text().splitlines():
      match = _ASSIGNED.match(line)
      if line.startswith("  #"):
        comment.append(line.strip("# "))
        continue
      if match:
        name, own = match[1], " ".join(comment)
        if not own and section and section == name.rpartition(".")[0]:
          own = above
        found[name] = f"{found.get(name, '')} {own}".strip()
        above, section = own, name.rpartition(".")[0]
      elif not line.strip():
        above = section = ""
      comment = []
  return found


def _attributes(system: Mapping[str, Any]) -> dict[str, str]:
  """Lines on the preset and the fields of a system, by field of the config."""
  import zsljax.models  # noqa: F401  They register themselves.
  from zsljax.models.registry import import_module, registered

  if module := system.get("module"):
    import_module("config.system.module", module)
  own: Any = registered()[system["name"]]
  text = (inspect.getdoc(own) or "").partition("Attributes:\n")[2]
  text = re.sub(r":\w+:`([^`]*)`", r"\1", text)  # A mark of reStructuredText.
  lines = re.findall(r"^  (\w+): (.*(?:\n    .*)*)", text, re.MULTILINE)
  preset = " or ".join(own.presets)
  if any(own.presets.values()):
    preset += "; decides the fields below that are None"
  return {"system.preset": preset} | {
    f"system.{field}": " ".join(line.split()) for field, line in lines
  }


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
    raise ZsljaxError(
      f"--config: no config {name!r}, expected a file or one of those that come with "
      f"zsljax. {did_you_mean(name, config_names())}"
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
