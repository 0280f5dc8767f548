import json
import os

import pytest

from zsljax.errors import ZsljaxError
from zsljax.io.files import append_line, locked, read_lines, replacing, write_json


def test_lock_that_is_held_is_said(tmp_path):
  with (
    locked(tmp_path / "lock"),
    pytest.raises(ZsljaxError, match="taken"),
    locked(tmp_path / "lock", or_else="taken"),
  ):
    pass


def test_append_after_a_cut_off_line(tmp_path):
  path = tmp_path / "x.jsonl"
  append_line(path, {"step": 1})
  with path.open("a") as file:
    file.write('{"step": 2, "lo')
  append_line(path, {"step": 3})
  assert [r["step"] for r in read_lines(path)] == [1, 3]
  append_line(path, {})
  path.write_text(path.read_text() + "[1]\n")
  with pytest.raises(ZsljaxError, match=r"line 5: \[1\] is not of type 'object'"):
    read_lines(path)


def test_failed_write_keeps_the_old_file(tmp_path):
  path = tmp_path / "x.json"
  write_json(path, {"a": 1})
  (tmp_path / f"x.json.{os.getpid()}.draft").mkdir()
  with pytest.raises(ZsljaxError, match="x.json: could not be written"):
    write_json(path, {"a": 2})
  assert json.loads(path.read_text()) == {"a": 1}


def test_a_draft_that_is_given_up_leaves_nothing(tmp_path):
  with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "x") as draft:
    draft.write_text("half")
    raise KeyboardInterrupt
  assert not list(tmp_path.iterdir())
