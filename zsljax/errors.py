"""Errors that a user's input can cause, and their form on the terminal."""

from collections.abc import Callable, Iterable, Sequence
import difflib
import functools
import os
import re
import signal
import sys
import textwrap


class ZsljaxError(ValueError):
  """Input that cannot be used.

  The message is one paragraph that names the file or field, the content found there
  and the content expected; overlong words of a damaged file are cut.
  """

  def __init__(self, message: str):
    super().__init__(re.sub(r"(\S{500})\S+", r"\1...", message))


class Stopped(Exception):
  """An order to end a run before its last step; the message says how to continue.

  Attributes:
    signal: the order.
  """

  def __init__(self, message: str, signal: signal.Signals):
    super().__init__(message)
    self.signal = signal


def did_you_mean(name: str, choices: Iterable[str]) -> str:
  """A sentence that lists ``choices``, led by the one closest to ``name``."""
  choices = sorted(choices)
  close = difflib.get_close_matches(name, choices, n=1)
  hint = f"Did you mean {close[0]!r}? " if close else ""
  return f"{hint}Known: {', '.join(choices) or 'none'}."


def require(ok: bool, where: str, found: object, expected: str) -> None:
  """Raises a ``ZsljaxError`` about the file or field ``where`` unless ``ok``."""
  if not ok:
    raise ZsljaxError(f"{where}: found {line_of(found, 1000)}, expected {expected}")


def require_known(
  word: str, known: Iterable[str], where: str, what: str = "unknown"
) -> None:
  """Raises a ``ZsljaxError`` unless ``known`` has ``word``; the closest is named."""
  if word not in known:
    hint = did_you_mean(str(word), known)
    raise ZsljaxError(f"{where}: {what} {word!r}. {hint}")


def some(names: Sequence[str]) -> str:
  """The first five names, and whether there are more."""
  return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def counted(number: int, one: str, many: str | None = None) -> str:
  """A number and what it counts, perhaps with a verb: ``1 class has``, ``2 have``.

  Several are called ``one`` with an s, if not ``many``.
  """
  return f"{number} {one if number == 1 else many or f'{one}s'}"


def line_of(error: object, longest: int = 200) -> str:
  """The first line of an error, shortened where it quotes much of a file."""
  line, *_ = str(error).strip().splitlines() or [type(error).__name__]
  return line if len(line) <= longest else f"{line[:longest]}..."


def in_bytes(size: float) -> str:
  """A number of bytes with a unit: ``2.31 GB``, ``840 MB``, ``12 kB``."""
  for unit, scale in (("GB", 1e9), ("MB", 1e6)):
    if size >= scale:
      return f"{size / scale:.3g} {unit}"
  return f"{size / 1e3:.3g} kB"


def paragraph(text: str, width: int = 88, indent: str = "") -> str:
  """Breaks ``text`` into lines that fit a terminal, without orders to it.

  Args:
    text: any; spaces at its beginning stay.
    width: letters in a line.
    indent: stands before all lines but the first.
  """
  begin = text[: len(text) - len(text.lstrip())]
  text = " ".join(text.split())
  text = "".join(letter if letter.isprintable() else "?" for letter in text)
  return textwrap.fill(
    text,
    width,
    initial_indent=begin,
    subsequent_indent=indent,
    break_long_words=False,
    break_on_hyphens=False,
  )


def shown_to_user(main: Callable) -> Callable:
  """Turns a ``ZsljaxError`` out of ``main`` into a paragraph and exit code 2.

  A run that was stopped exits with 143 after SIGTERM and 130 after Ctrl-C.
  """

  @functools.wraps(main)
  def wrapped(*args, **kwargs):
    try:
      return main(*args, **kwargs)
    except ZsljaxError as error:
      print(paragraph(f"error: {error}"), file=sys.stderr)
      sys.exit(2)
    except BrokenPipeError:  # The reader of the output has gone.
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
      sys.exit(141)
    except Stopped as stopped:
      print(paragraph(str(stopped)), file=sys.stderr)
      sys.exit(128 + stopped.signal)
    except KeyboardInterrupt:
      print("\ninterrupted", file=sys.stderr)
      sys.exit(130)

  return wrapped
