"""Shows the fields of a config, with what they do.

Fields of the system come first, then those that all systems share.

Example:
  zsljax config msdn:cub
"""

import itertools
import shutil
import textwrap

GROUP = "train"


def add_arguments(parser) -> None:
  parser.add_argument("config", metavar="NAME:ARGUMENT", help="as --config of train")
  parser.set_defaults(fields=[])


def run(args) -> None:
  from zsljax.runs.config import explained_fields

  width = min(shutil.get_terminal_size().columns, 88)
  fields = explained_fields(args.config, args.fields)
  for comment, together in itertools.groupby(fields, lambda x: x[2]):
    for field, value, _ in together:
      print(f"{field} = {value!r}")
    if text := textwrap.wrap(comment.replace("`", ""), width - 4):
      print(textwrap.indent("\n".join(text), "    "))
