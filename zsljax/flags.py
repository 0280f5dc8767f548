"""Command-line flags of the scripts, with errors a user can read."""

import pathlib
import re

from absl import flags, logging

from zsljax.errors import ZsljaxError, did_you_mean, shown_to_user

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
  return arguments


def _parse(argv: list[str]) -> list[str]:
  for argument in argv:
    if argument.startswith("--config="):
      _check_file(pathlib.Path(argument.removeprefix("--config=").split(":")[0]))
  try:
    return flags.FLAGS(argv)
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
