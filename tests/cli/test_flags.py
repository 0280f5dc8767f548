"""Configs by name and by file, and the folder of compiled programs."""

import os
import pathlib

import pytest

from zsljax import configs
from zsljax.cli import compiled
from zsljax.errors import ZsljaxError
from zsljax.runs.config import read_config


def test_a_config_is_called_by_its_name_or_its_file(tmp_path, monkeypatch):
  config = read_config("sdl:corel5k", ["--config.data.dir=D"])
  assert (config["data"]["dir"], config["data"]["name"]) == ("D", "corel5k")
  shipped = pathlib.Path(configs.__file__).parent / "sdl.py"
  monkeypatch.chdir(tmp_path)
  pathlib.Path("mine.py").write_text(shipped.read_text())
  assert read_config("mine.py:corel5k", ["--config.data.dir", "D"]) == config
  for wrong, message in (
    ("./mien.py:corel5k", "no file mien.py. Did you mean 'mine.py'"),
    ("sld:corel5k", "no config 'sld', expected a file or .* Did you mean 'sdl'"),
    ("base", "no config 'base'"),
  ):
    with pytest.raises(ZsljaxError, match=message):
      read_config(wrong)


FOLDER = "JAX_COMPILATION_CACHE_DIR"


def test_programs_are_kept_where_nothing_else_is_said(tmp_path, monkeypatch):
  monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path)})
  compiled.keep_compiled()
  assert os.environ[FOLDER] == str(tmp_path / ".cache" / "zsljax" / "compiled")
  assert pathlib.Path(os.environ[FOLDER]).is_dir()
  os.environ[FOLDER] = "/elsewhere"
  compiled.keep_compiled()
  assert os.environ[FOLDER] == "/elsewhere"


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path, monkeypatch, caplog):
  (tmp_path / ".cache").write_text("")
  monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path)})
  compiled.keep_compiled()
  assert FOLDER not in os.environ and "nothing compiled is kept" in caplog.text
