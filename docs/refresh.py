"""Runs the commands of a guide, and writes their output below them.

  python docs/refresh.py docs/guides/own_data.md --folder=DIR

A command is a line of a ``console`` block that begins with ``$``, up to a line that
does not end in a backslash. DIR holds the files that the guide begins with. The command
``zsljax`` is that of this Python.
"""

import argparse
from collections.abc import Iterator
import os
import pathlib
import re
import subprocess
import sys

_BLOCK = re.compile(r"(?<=```console\n).*?(?=```)", re.DOTALL)
_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n", re.MULTILINE)


def commands(guide: str) -> Iterator[str]:
  """Commands of a guide's text, in order."""
  for block in _BLOCK.findall(guide):
    yield from _COMMAND.findall(block)


def refreshed(guide: str, folder: pathlib.Path) -> str:
  """Text of the guide with what its commands print now, run in ``folder``."""

  def run_block(block: re.Match) -> str:
    return "".join(
      f"$ {command}\n{run(command, folder)}" for command in _COMMAND.findall(block[0])
    )

  return _BLOCK.sub(run_block, guide)


def run(command: str, folder: pathlib.Path) -> str:
  """Standard output of a command that runs in ``folder``.

  Raises:
    RuntimeError: it fails.
  """
  path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
  done = subprocess.run(
    ["bash", "-c", f"set -o pipefail; {command}"],
    cwd=folder,
    env=os.environ | {"PATH": path},
    capture_output=True,
    text=True,
  )
  if done.returncode not in (0, 141):  # 141: `head` has read enough.
    raise RuntimeError(f"{command}\nends with {done.returncode}: {done.stderr}")
  return done.stdout.replace(f"{folder.resolve()}/", "")


def main() -> None:
  """Refreshes the guides that the command line names."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("guides", type=pathlib.Path, nargs="+")
  parser.add_argument("--folder", type=pathlib.Path, required=True)
  args = parser.parse_args()
  for path in args.guides:
    path.write_text(refreshed(path.read_text(), args.folder))


if __name__ == "__main__":
  main()
