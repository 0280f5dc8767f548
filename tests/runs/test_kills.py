"""Runs of five systems end alike, whatever signals they got on the way.

``ZSLJAX_KILLS=N`` sends N signals to each run instead of three.
"""

import os
import random
import signal
import time
import warnings

import chex
import pytest

from tests.devices import test_processes
from tests.devices.test_processes import none_left  # noqa: F401
from zsljax.runs.train import train
from zsljax.runs.workdir import read_manifest

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SYSTEMS = ("semantic_softmax", "attended_autoencoder", "msdn", "cosine", "sdl")
KILLS = int(os.environ.get("ZSLJAX_KILLS", 3))


def start(workdir, system, processes):
  # One process takes many epochs until the next signal, several wait for each other.
  epochs = 4 + (40 if processes == 1 else 5) * KILLS
  cache = "none" if system in ("cosine", "sdl") else "auto"
  fields = (f"epochs={epochs}", "checkpoint.every_epochs=1", "log_every=5")
  fields += (f"data.cache={cache}",)
  test_processes.DATA.setdefault(system, "digits")
  return test_processes.start(workdir, *fields, processes=processes, config=system)


def drafts(workdir):
  return [p for p in (workdir / "checkpoints").glob("*") if not p.name.isdigit()]


def final(workdir):
  """The state at the end of a run, and the lines of its metrics."""
  with warnings.catch_warnings(action="ignore"):  # Of another number of processes.
    state = train(read_manifest(workdir)["config"], workdir)
  return state, (workdir / "metrics.jsonl").read_text()


def interrupt(run, workdir, number, rng):
  """Sends a signal, every other one while a checkpoint is being written."""
  step = test_processes.steps_on_disk(workdir)
  goal = step + rng.randint(1, 30)
  alive = lambda: all(process.poll() is None for process in run)  # noqa: E731
  while alive() and test_processes.steps_on_disk(workdir) < goal:
    time.sleep(0.01)
  until = time.monotonic() + 3 * (number % 2)
  while alive() and time.monotonic() < until and not drafts(workdir):
    time.sleep(0.0005)
  time.sleep(rng.random() * (0.01 if number % 2 else 0.3))
  which = SIGNALS[number % 3]
  # A system ends one process of several; a user, or a lack of memory, all.
  for process in [rng.choice(run)] if which == signal.SIGTERM else run:
    process.send_signal(which)
  codes, outputs = test_processes.ended(run)
  expected = {-which, 128 + which, 0}
  if len(run) > 1:  # A process whose neighbour is gone ends in its own way.
    expected |= {1, -6, 255}
    if any("Checkpoints are whole" in said for said in outputs):
      expected.add(2)
  assert set(codes) <= expected, outputs
  return 0 not in codes


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("system", SYSTEMS)
def test_signals_change_no_bit(system, processes, tmp_path):
  whole, cut = tmp_path / "whole", tmp_path / "cut"
  codes, outputs = test_processes.ended(start(whole, system, processes))
  assert codes == [0] * processes, outputs
  rng, sent = random.Random(system), 0
  for number in range(KILLS):
    sent += interrupt(start(cut, system, processes), cut, number, rng)
  codes, outputs = test_processes.ended(start(cut, system, processes))
  assert codes == [0] * processes, outputs
  print(f"{system}, {processes} processes: {sent} signals before the end")
  (expected, lines), (found, same_lines) = final(whole), final(cut)
  chex.assert_trees_all_equal(
    (found.params, found.opt_state, found.step),
    (expected.params, expected.opt_state, expected.step),
  )
  assert same_lines == lines
