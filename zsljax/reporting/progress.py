"""The bar that shows how far a long computation is."""

import sys

import tqdm


def step_bar(total: int, what: str, initial: int = 0, unit: str = "step") -> tqdm.tqdm:
  """A bar with rate and time left; a line now and then in a log file."""
  return tqdm.tqdm(
    total=total,
    initial=initial,
    unit=unit,
    desc=what,
    mininterval=0.1 if sys.stderr.isatty() else 10,
  )
