"""The command ``zsljax``: finds a verb's file, imports it alone, and runs it.

A verb is a module below ``zsljax.cli`` with ``GROUP``, one of ``GROUPS``;
``add_arguments(parser)``; and ``run(args)``, which imports what the verb needs. The
module's docstring is the verb's help: its first line stands in the overview, and it
ends with an example. ``data/import_coco.py`` is the verb ``data import-coco``.
"""

import argparse
from collections.abc import Sequence
import importlib
import itertools
import os
import pkgutil
import signal
import sys
from types import ModuleType

from zsljax import __version__, cli
from zsljax.cli.compiled import keep_compiled
from zsljax.devices.host_memory import keep_freed
from zsljax.errors import ZsljaxError, did_you_mean, shown_to_user

GROUPS = ("data", "train", "judge", "use", "measure")
# Modules of the package that are no verbs.
_HELPERS = ("main", "common", "compiled")
_STEPS = """from data to predictions:
  zsljax data build --name=birds --images=photos --features=photos.h5 \\
      --classes=birds.csv --dest=DATA
  zsljax train --config=semantic_softmax:own --config.data.name=birds \\
      --config.data.dir=DATA --workdir=W
  zsljax eval --workdir=W
  zsljax predict --workdir=W --features=new.h5 --classes=new.csv

"""


class _Parser(argparse.ArgumentParser):
  def error(self, message: str):
    raise ZsljaxError(f"{self.prog}: {message} (see {self.prog} --help)")


def verbs() -> dict[str, str]:
  """The module of each verb, by what a user types, such as ``data build``."""
  found = {}
  for module in pkgutil.walk_packages(cli.__path__, f"{cli.__name__}."):
    name = module.name.removeprefix(f"{cli.__name__}.")
    if not module.ispkg and name not in _HELPERS:
      found[name.replace(".", " ").replace("_", "-")] = module.name
  return found


def overview(first_word: str = "") -> str:
  """The verbs in their groups, those that begin with a word or all."""
  texts: dict[str, list[str]] = {group: [] for group in GROUPS}
  for verb, module in verbs().items():
    if verb.startswith(f"{first_word} ".lstrip()):
      found = importlib.import_module(module)
      assert found.__doc__ is not None
      line = found.__doc__.splitlines()[0]
      texts[found.GROUP].append(f"  {verb:<23} {line}\n")
  groups = (f"{group}:\n{''.join(lines)}\n" for group, lines in texts.items() if lines)
  steps = "" if first_word else _STEPS
  return (
    f"usage: zsljax VERB --FLAG=VALUE ...\n\n{''.join(groups)}{steps}"
    "zsljax VERB --help says more of each, with an example; or zsljax --version\n"
  )


def parser_of(verb: str) -> tuple[argparse.ArgumentParser, ModuleType]:
  """The parser of a verb's flags, and the verb's module."""
  module = importlib.import_module(verbs()[verb])
  assert module.__doc__ is not None
  text, _, example = module.__doc__.partition("\nExample")
  parser = _Parser(
    f"zsljax {verb}",
    description=text,
    epilog=f"Example{example}",
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  module.add_arguments(parser)
  return parser, module


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, ModuleType]:
  """The flags that follow a verb, and the verb's module.

  Fields of a config are left in ``args.fields``, where the verb takes them.

  Raises:
    ZsljaxError: there is no such verb or flag, or a flag's value is wrong.
  """
  known = verbs()
  words = list(itertools.takewhile(lambda arg: not arg.startswith("-"), argv))
  verb = next(
    (v for v in (" ".join(words[:2]), " ".join(words[:1])) if v in known), None
  )
  if verb is None:
    given = " ".join(words)
    raise ZsljaxError(f"zsljax: unknown verb {given!r}. {did_you_mean(given, known)}")
  parser, module = parser_of(verb)
  args, fields = parser.parse_known_args(argv[len(verb.split()) :])
  if hasattr(args, "fields"):
    args.fields = fields
  elif fields:
    parser.error(f"unrecognized arguments: {' '.join(fields)}")
  return args, module


def _end(number: int, _: object) -> None:
  """Ends the command after it has cleaned up."""
  sys.exit(128 + number)


def _require_platform() -> None:
  """Raises a ``ZsljaxError`` where JAX was told to use devices that are not there."""
  platform = os.environ.get("JAX_PLATFORMS")
  if not platform:
    return
  import jax

  try:
    jax.devices()
  except (AssertionError, RuntimeError) as error:
    raise ZsljaxError(
      f"JAX_PLATFORMS: found {platform!r}, of which there is no device here or for "
      "which this JAX was not installed, expected cpu, or nothing for what there is "
      '(`pip install "zsljax[cuda]"` or "zsljax[tpu]" adds an accelerator)'
    ) from error


@shown_to_user
def main(argv: Sequence[str] | None = None) -> None:
  """Runs the verb that ``argv`` (by default the command's) names."""
  argv = list(sys.argv[1:] if argv is None else argv)
  words = [arg for arg in argv if arg not in ("-h", "--help")]
  if words in ([], ["data"]):
    print(overview(*words), end="")
    return
  if argv == ["--version"]:
    print(f"zsljax {__version__}")
    return
  if os.getcwd() not in sys.path:  # For systems of a user's own.
    sys.path.append(os.getcwd())
  args, module = parse(argv)
  if not module.__name__.startswith("zsljax.cli.data."):  # They use memory once.
    keep_freed()
  if module.GROUP in ("train", "judge", "use"):
    keep_compiled()
  before = signal.signal(signal.SIGTERM, _end)  # Training has its own way to end.
  try:
    module.run(args)
  except (AssertionError, RuntimeError):
    _require_platform()
    raise
  finally:
    signal.signal(signal.SIGTERM, before)
