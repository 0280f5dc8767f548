"""Checks of a system's fields, for its ``__post_init__``."""

from collections.abc import Mapping, Sequence
from typing import Any

from zsljax.errors import require


def check_fields(
  system: Any,
  choices: Mapping[str, Sequence[str]] | None = None,
  not_negative: Sequence[str] = (),
  positive: Sequence[str] = (),
  at_least_one: Sequence[str] = (),
  shares: Sequence[str] = (),
) -> None:
  """Checks the values of a system's fields, given by their names.

  Args:
    system: the system.
    choices: by a field's name, the words that it may be.
    not_negative: fields of 0 or more.
    positive: fields of more than 0.
    at_least_one: fields of 1 or more.
    shares: fields between 0 and 1.

  Raises:
    ZsljaxError: a field has another value; the message names it.
  """
  for field, words in (choices or {}).items():
    value = getattr(system, field)
    expected = f"one of {', '.join(words)}"
    require(value in words, f"config.system.{field}", repr(value), expected)
  for fields, low, high, expected in (
    (not_negative, 0, float("inf"), "0 or more"),
    (at_least_one, 1, float("inf"), "1 or more"),
    (shares, 0, 1, "between 0 and 1"),
  ):
    for field in fields:
      value = getattr(system, field)
      require(low <= value <= high, f"config.system.{field}", value, expected)
  for field in positive:
    value = getattr(system, field)
    require(value > 0, f"config.system.{field}", value, "more than 0")
