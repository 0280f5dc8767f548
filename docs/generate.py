"""Writes the pages of commands and configs from what the command line says."""

import os
import pathlib

from zsljax.cli.main import GROUPS, parser_of, verbs
from zsljax.configs import base
from zsljax.runs.config import config_names, explained_fields, flat


def commands() -> str:
  """Page with the help of every verb, in the groups of ``zsljax --help``."""
  os.environ["COLUMNS"] = "88"
  sections: dict[str, list[str]] = {group: [] for group in GROUPS}
  for verb in verbs():
    parser, module = parser_of(verb)
    sections[module.GROUP].append(
      f"### {verb}\n\n```text\n{parser.format_help().strip()}\n```\n"
    )
  groups = (f"## {group}\n\n" + "\n".join(found) for group, found in sections.items())
  return "# Commands\n\n" + "\n".join(groups)


def configs() -> str:
  """Page with the fields of every config, as they are for a dataset of one's own.

  Fields of all systems come first, with the defaults of ``base.py``; a config's section
  has those of its system, and other defaults.
  """
  defaults = flat(base.get_config().to_dict())
  shared, sections = {}, []
  for name in config_names():
    lines = []
    for field, value, comment in explained_fields(f"{name}:own"):
      if field not in defaults:
        lines.append(_line(field, value, comment))
        continue
      default = _line(field, defaults[field], comment)
      shared[field] = min(shared.get(field, default), default, key=len)
      if value != defaults[field] and field != "data.name":
        lines.append(_line(field, value, ""))
    sections.append(f"## {name}\n\n" + "\n".join(lines))
  return "\n\n".join(
    [
      "# Configs",
      "Values are those of `NAME:own`, for a dataset of your own. `zsljax config "
      "NAME:ARGUMENT` shows others, `--config.FIELD=VALUE` sets a field.",
      "## Fields of all systems",
      "\n".join(shared.values()),
      *sections,
    ]
  )


def _line(field: str, value: object, comment: str) -> str:
  return f"- `{field} = {value!r}`" + (f": {comment}" if comment else "")


def write(folder: pathlib.Path) -> None:
  """Writes both pages into ``folder``."""
  folder.mkdir(exist_ok=True)
  (folder / "commands.md").write_text(commands())
  (folder / "configs.md").write_text(configs())
