"""The bar that shows how far a training run is."""

import sys

import tqdm


def step_bar(total: int, what: str, initial: int = 0, shown: bool = True) -> tqdm.tqdm:
  """A bar of steps with rate and time left; a line now and then in a log file."""
  return tqdm.tqdm(
    total=total,
    initial=initial,
    unit="step",
    desc=what,
    disable=not shown,
    mininterval=0.1 if sys.stderr.isatty() else 10,
  )
