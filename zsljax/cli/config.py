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
  from zsljax.runs.config import explained_fields, flat, read_config

  values = flat(read_config(args.config, args.fields))
  comments = explained_fields(args.config)
  width = min(shutil.get_terminal_size().columns, 88)
  places = {field: i for i, field in enumerate(comments)}
  order = sorted(
    values, key=lambda x: (not x.startswith("system."), places.get(x, len(places)))
  )
  for comment, fields in itertools.groupby(order, lambda x: comments.get(x, "")):
    for field in fields:
      print(f"{field} = {values[field]!r}")
    if text := textwrap.wrap(comment.replace("`", ""), width - 4):
      print(textwrap.indent("\n".join(text), "    "))
