"""Runs of two processes on this machine, and what ends them."""

import dataclasses
import importlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import chex
import numpy as np
import pytest

from zsljax.data import TrainingData
from zsljax.devices import processes as distributed
from zsljax.errors import ZsljaxError
from zsljax.io.files import read_lines
from zsljax.runs.config import read_config
from zsljax.runs.experiment import Experiment
from zsljax.training.checkpoints import Checkpoints

train = importlib.import_module("zsljax.runs.train")
evaluate = importlib.import_module("zsljax.runs.evaluate")

ROOT = pathlib.Path(__file__).parents[2]
FIELDS = ("optimizer.name=adam", "batch_size=64", "checkpoint.every_epochs=5")
DATA = {"semantic_softmax": "digits", "cosine": "digits", "sdl": "multidigit"}
_STARTED: list[subprocess.Popen] = []


def start(workdir, *fields, processes=2, each=(), config="semantic_softmax"):
  """Starts the processes of a run; ``each`` are further fields of the second."""
  command = [
    "train.py",
    f"--config=configs/{config}.py:{DATA[config]}",
    f"--config.data.dir={workdir.parent / 'data'}",
    *(f"--config.{field}" for field in (*FIELDS, *fields)),
  ]
  return started(command, workdir, processes, [f"--config.{field}" for field in each])


def started(command, workdir, processes=2, each=()):
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  own = [
    [f"--num_processes={processes}", f"--process_id={i}"] for i in range(processes)
  ]
  if processes == 1:
    own = [[]]
  else:
    own = [[f"--coordinator=127.0.0.1:{port}", *flags] for flags in own]
    own[1] += each
  run = [
    subprocess.Popen(
      [sys.executable, *command, f"--workdir={workdir}", *flags],
      cwd=ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for flags in own
  ]
  _STARTED.extend(run)
  return run


@pytest.fixture(autouse=True)
def none_left():
  yield
  for process in _STARTED:
    process.kill()
    process.wait()
    process.stdout.close()
  _STARTED.clear()


def ended(run, timeout=300):
  """Exit codes, and what was written, in one line each."""
  outputs = [
    " ".join(process.communicate(timeout=timeout)[0].split()) for process in run
  ]
  return [process.returncode for process in run], outputs


def steps_on_disk(workdir):
  names = [path.name for path in (workdir / "checkpoints").glob("*")]
  return max((int(name) for name in names if name.isdigit()), default=0)


def wait_for_step(run, workdir, step):
  while steps_on_disk(workdir) < step:
    assert all(process.poll() is None for process in run), ended(run)
    time.sleep(0.01)


def final(workdir):
  config = json.loads((workdir / "manifest.json").read_text())["config"]
  config["mesh"]["data"] = 1
  run = Experiment.build(config)
  checkpoints = Checkpoints(workdir, run.identity())
  return checkpoints.latest_step(), checkpoints.restore_params(run.param_shapes())


def in_one_process(config, workdir, monkeypatch):
  """Parameters after one process was trained on the batches of two."""
  of_host = TrainingData.batches

  def both(data, step=0):
    hosts = (dataclasses.replace(data, host=i, num_hosts=2) for i in range(2))
    for parts in zip(*(of_host(host, step) for host in hosts), strict=True):
      yield {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

  monkeypatch.setattr(TrainingData, "batches", both)
  config["data"]["cache"] = "host"
  return train.train(config, workdir).params


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["none", "device"])
def test_two_processes_equal_one(tmp_path, cache, monkeypatch):
  fields = ("epochs=2", f"data.cache={cache}")
  codes, outputs = ended(start(tmp_path / "two", *fields))
  assert codes == [0, 0], outputs
  assert "2 cpu device(s) of 2 processes" in outputs[0]
  assert "step 30; now" in outputs[0] and "step 30" not in outputs[1]
  step, found = final(tmp_path / "two")
  overrides = [f"--config.{field}" for field in (*FIELDS, *fields, "mesh.data=1")]
  overrides.append(f"--config.data.dir={tmp_path / 'data'}")
  config = read_config(f"{ROOT}/configs/semantic_softmax.py:digits", overrides)
  assert step == 30
  expected = in_one_process(config, tmp_path / "one", monkeypatch)
  chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("config", "protocol", "processes"),
  [
    ("semantic_softmax", "xian", 1),
    ("semantic_softmax", "xian", 2),
    ("cosine", "embeddings", 2),
    ("sdl", "lesa", 2),
  ],
)
def test_watched_metrics_are_those_of_all_images(tmp_path, config, protocol, processes):
  fields = ("epochs=2", "data.train_split=train", "evaluation.every_epochs=1")
  run = start(tmp_path / "two", *fields, processes=processes, config=config)
  codes, outputs = ended(run)
  assert codes == [0] * processes, outputs
  watched = read_lines(tmp_path / "two" / "metrics.jsonl")[-1]
  row, *_ = evaluate.evaluate(tmp_path / "two", "val", protocol=protocol)
  found = {name: watched[f"val_{name}"] for name in row["metrics"]}
  assert found == pytest.approx(row["metrics"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("config", "flags"),
  [
    ("semantic_softmax", ["--split=val"]),
    ("semantic_softmax", ["--protocol=retrieval"]),
    ("cosine", ["--pairs=pairs.txt"]),
    ("sdl", []),
  ],
)
def test_two_processes_evaluate_as_one(tmp_path, config, flags):
  fields = "epochs=1", "data.train_split=train"
  codes, outputs = ended(start(tmp_path / "run", *fields, processes=1, config=config))
  assert codes == [0], outputs
  pairs = tmp_path / "pairs.txt"
  rows = Experiment.of_run(tmp_path / "run").dataset
  rows = rows.source_rows(rows.test_splits[:1])
  pairs.write_text("".join(f"{a} {b}\n" for a, b in zip(rows, rows[::-1], strict=True)))
  flags = [flag.replace("pairs.txt", str(pairs)) for flag in flags]
  found = []
  for processes in (1, 2):
    command = ["eval.py", *flags]
    codes, outputs = ended(started(command, tmp_path / "run", processes))
    assert codes == [0] * processes, outputs
    written = tmp_path / "run" / "results.jsonl"
    found.append(read_lines(written))
    written.unlink()
  assert "rows in" in outputs[0] and "rows in" not in outputs[1]
  for one, two in zip(*found, strict=True):
    assert one["metrics"] == pytest.approx(two["metrics"], abs=1e-4)
    assert one["protocol"] == two["protocol"]


@pytest.mark.slow
def test_run_continues_on_another_number_of_processes(tmp_path):
  run = start(tmp_path / "w", "epochs=200")
  wait_for_step(run, tmp_path / "w", 75)
  run[0].send_signal(signal.SIGTERM)
  codes, outputs = ended(run)
  assert codes == [143, 143], outputs
  assert all("stopped by SIGTERM at step" in output for output in outputs)
  codes, outputs = ended(start(tmp_path / "w", "epochs=200", processes=1))
  assert codes == [0], outputs
  assert "was begun with other processes 2 -> 1" in outputs[0]
  assert steps_on_disk(tmp_path / "w") == 3000


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_lost_process_ends_the_other(tmp_path, lost):
  run = start(tmp_path / "w", "epochs=100000")
  wait_for_step(run, tmp_path / "w", 75)
  run[lost].kill()
  began = time.monotonic()
  codes, outputs = ended([run[1 - lost]])
  assert time.monotonic() < began + 60
  assert codes != [0]
  assert "start all processes again with the same command" in outputs[0]
  assert "JAX distributed service detected fatal errors" in outputs[0]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("field", "message"),
  [
    ("seed=3", "config.seed: found 3 on process 1, expected 0 as on process 0"),
    ("batch_size=63", "config.batch_size: found 63 on process 1, expected 64 as on"),
  ],
)
def test_processes_that_differ_end_with_the_field(tmp_path, field, message):
  codes, outputs = ended(start(tmp_path / "w", each=[field]), timeout=90)
  assert 0 not in codes
  for output in outputs:
    assert message in output
  assert not (tmp_path / "w" / "checkpoints").exists()


@pytest.mark.slow
def test_process_that_is_alone_says_so(tmp_path):
  first, second = start(tmp_path / "w")
  second.kill()
  codes, outputs = ended([first])
  assert codes != [0] and "waiting up to 50 s for the other processes" in outputs[0]


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("host:1", 2, None), "--process_id: found nothing, expected a value, as --coord"),
    ((None, 2, 0), "--coordinator: found nothing"),
    (("host", 2, 0), "--coordinator: found 'host', expected HOST:PORT"),
    (("host:1", 2, 2), "--process_id: found 2, expected 0 to 1"),
  ],
)
def test_flags_of_several_processes_are_checked(arguments, message):
  with pytest.raises(ZsljaxError, match=message), distributed.joined(*arguments):
    pass


def test_one_process_stays_alone(monkeypatch):
  monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
  with distributed.joined():
    distributed.require_agreement({"anything": 1})
    own = {"scores": np.ones((3, 2)), "labels": np.arange(3)}
    assert distributed.of_all_processes(own) is own


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signals_are_noticed_and_given_back(number):
  before = signal.getsignal(number)
  with distributed.StopSignals() as signals:
    assert not signals.told()
    os.kill(os.getpid(), number)
    assert signals.told() and signals.received == number
    if number == signal.SIGINT:
      assert signal.getsignal(number) == signal.SIG_DFL  # A second one kills.
  assert signal.getsignal(number) == before


def test_alarm_rings_by_the_clock(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(distributed.time, "monotonic", lambda: now[0])
  alarm, rung = distributed.Alarm(5.0), []
  for _ in range(12):
    now[0] += 1
    rung.append(alarm.rings())
  assert np.flatnonzero(rung).tolist() == [4, 9]
  assert not distributed.Alarm(0.0).rings()


def test_alarm_of_several_processes_rings_by_calls_that_the_first_counts(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(distributed.time, "monotonic", lambda: now[0])
  monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
  told = []
  monkeypatch.setattr(
    distributed.multihost_utils,
    "broadcast_one_to_all",
    lambda value: told.append(int(value)) or value,
  )
  alarm, rung = distributed.Alarm(40.0), []
  for call in range(40):
    now[0] += 100 if call == 0 else 4  # The first is compiled.
    rung.append(alarm.rings())
  assert told == [1, 10, 10, 10, 10, 10]
  assert np.flatnonzero(rung).tolist() == [0, 9, 19, 29, 39]
