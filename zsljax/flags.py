"""Command-line flags of the scripts, with errors a user can read."""

import pathlib

from absl import flags, logging
from ml_collections import config_flags

from zsljax.errors import ZsljaxError, shown_to_user

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
  try:
    arguments = flags.FLAGS(argv)
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
    raise _explanation(error) from error
  if "config" in flags.FLAGS and flags.FLAGS["config"].present:
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    path = pathlib.Path(path.split(":")[0])
    if not path.is_file():
      beside = sorted(str(p) for p in path.parent.glob("*.py"))
      raise ZsljaxError(
        f"--config: no file {path}, expected one of {', '.join(beside) or '-'}"
      )
  return arguments


def _explanation(error: BaseException) -> ZsljaxError:
  """What was wrong at first, without the tracebacks that absl wraps around it."""
  text = str(error.args[0] if error.args else error)
  explanation = ZsljaxError(f"command line: {text}")
  cause: BaseException | None = error
  while cause:
    if isinstance(cause, ZsljaxError):
      explanation = cause
    cause = cause.__cause__ or cause.__context__
  return explanation
