import json
import os
import subprocess
import sys

import pytest

from tests.stored_rows import stored_row
from zsljax.errors import ZsljaxError
from zsljax.io.files import read_lines
from zsljax.reporting.metrics_log import MetricsLog, add_evaluations
from zsljax.reporting.rows import add_rows, read_rows, terminal_table


def row(seed=0, h=50.0, gamma=None):
  made = stored_row(protocol="xian", seed=seed, metrics={"t1": 60.0, "h": h})
  if gamma is not None:
    made["calibration"], made["provenance"]["gamma"] = "additive", gamma
  return made


def test_rows_of_the_same_meaning_are_replaced(tmp_path):
  add_rows(tmp_path, [row(0), row(1)])
  add_rows(tmp_path, [row(0, h=70.0)])
  found = {r["seed"]: r["metrics"]["h"] for r in read_rows(tmp_path)}
  assert found == {0: 70.0, 1: 50.0}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda row: row.pop("metrics"), "'metrics' is a required property"),
    (
      lambda row: row.update(metrics={"h": "50"}),
      "metrics.h: '50' is not of",
    ),
    (lambda row: row.update(seed="a"), "seed: 'a' is not of type 'integer'"),
    (lambda row: row.update(selection="best"), "selection: 'best' is not one of"),
    (lambda row: row["provenance"].pop("gamma"), "provenance: 'gamma' is a req"),
    (
      lambda row: row.update(provenance=[]),
      r"provenance: \[\] is not of type",
    ),
    (lambda row: row.update(schema=2), "schema: found 2, expected 3"),
    (lambda row: row.update(step="x" * 5000), "step: 'x{100,250}[.]{3}, expected"),
  ],
)
def test_damaged_rows_are_refused(tmp_path, change, message):
  damaged = row()
  change(damaged)
  (tmp_path / "results.jsonl").write_text(json.dumps(damaged) + "\n")
  for read in (read_rows, lambda folder: add_rows(folder, [row()])):
    with pytest.raises(ZsljaxError, match=f"results.jsonl: {message}"):
      read(tmp_path)


@pytest.mark.parametrize("text", [b'{"schema": 3, "system', b"[1]", b"\xff\xfe", b"3"])
def test_files_that_are_no_rows_are_refused(tmp_path, text):
  (tmp_path / "results.jsonl").write_bytes(text)
  with pytest.raises(ZsljaxError, match="results.jsonl: line 1: .*expected a line as"):
    read_rows(tmp_path)


def test_rows_of_another_gamma_stand_side_by_side(tmp_path):
  for gamma in (0.1, 0.2, 0.1):
    add_rows(tmp_path, [row(gamma=gamma)])
  assert [r["provenance"]["gamma"] for r in read_rows(tmp_path)] == [0.2, 0.1]


def test_rows_of_processes_at_once_are_all_kept(tmp_path):
  code = (
    "import pathlib, sys; from tests.stored_rows import stored_row; "
    "from zsljax.reporting.rows import add_rows\n"
    "for i in range(20):\n"
    "  row = stored_row(seed=int(sys.argv[2]) + i)\n"
    "  add_rows(pathlib.Path(sys.argv[1]), [row])"
  )
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", code, str(tmp_path), str(100 * i)],
      cwd=tmp_path,
      env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    for i in range(3)
  ]
  assert [p.wait() for p in processes] == [0, 0, 0]
  assert len(read_rows(tmp_path)) == 60


def test_terminal_table_is_aligned_and_shows_gamma():
  lines = terminal_table([row(), row(gamma=0.25)]).split("\n")
  assert lines[0] == "protocol xian, selection last"
  assert "additive (0.25)" in lines[4]
  assert [line.rindex("50.00") for line in lines[3:]] == [lines[2].rindex("H") - 4] * 2


def test_resumed_log_drops_what_comes_after_the_checkpoint(tmp_path):
  log = MetricsLog(tmp_path, 0)
  for step in (0, 10, 20):
    log.write(step, {"loss": 1.0})
  log.close()
  log = MetricsLog(tmp_path, 10)
  log.write(10, {"loss": 2.0})
  log.close()
  rows = read_lines(tmp_path / "metrics.jsonl")
  assert rows == [{"step": 0, "loss": 1.0}, {"step": 10, "loss": 2.0}]


def test_tensorboard_has_the_config_and_evaluations(tmp_path):
  log = MetricsLog(tmp_path, 0, {"epochs": 7})
  log.write(0, {"loss": 1.0})
  log.close()
  add_evaluations(tmp_path, 9, {"xian test": {"h": 40.0}})
  events = b"".join(p.read_bytes() for p in (tmp_path / "tensorboard").iterdir())
  assert all(part in events for part in (b'"epochs": 7', b"loss", b"xian test/h"))
