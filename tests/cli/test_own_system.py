"""The guide's system, outside the package, is trained, evaluated and used."""

import pathlib
import re
import shlex
import sys

import numpy as np
import pytest

from zsljax.cli.main import main
from zsljax.data import open_dataset
from zsljax.errors import ZsljaxError
from zsljax.models import registry
from zsljax.reporting.rows import read_chosen, read_rows

GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "own_system.md"
BILINEAR, MINE = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
TRAIN, EVAL = re.findall(r"^\$ zsljax (.*)", GUIDE.read_text(), re.MULTILINE)
FIGURES = """
import dataclasses
from zsljax.data.builtin.digits import read_digits


def make():
  return dataclasses.replace(read_digits("pixels"), name="figures")


def nothing():
  return None
"""
SHORT = ("--config.epochs=1", "--config.batch_size=500", "--config.mesh.data=1")


@pytest.fixture
def forget(monkeypatch):
  """Lets the next command start as in another process."""
  monkeypatch.setattr(registry, "_SYSTEMS", dict(registry._SYSTEMS))
  monkeypatch.setattr(sys, "path", list(sys.path))

  def forget():
    registry._SYSTEMS.pop("bilinear", None)
    sys.modules.pop("bilinear", None)

  yield forget
  forget()


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "bilinear.py").write_text(BILINEAR)
  (tmp_path / "mine.py").write_text(MINE)
  return tmp_path


def test_system_of_the_guide(folder, forget, capsys):
  assert len((BILINEAR + MINE).splitlines()) < 60
  main([*shlex.split(TRAIN), *SHORT])
  forget()
  main(shlex.split(EVAL))
  assert "bilinear (paper)" in capsys.readouterr().out
  (row,) = read_rows(folder / "W")
  assert row["provenance"]["config"]["system"]["module"] == "bilinear"
  assert 0 <= row["metrics"]["h"] <= 100
  forget()
  np.save(folder / "x.npy", np.random.default_rng(0).uniform(0, 1, (2, 64)))
  main(["predict", "--workdir=W", "--features=x.npy", "--top_k=1"])
  assert "image 1" in capsys.readouterr().out
  forget()
  (folder / "bilinear.py").unlink()
  with pytest.raises(SystemExit):
    main(shlex.split(EVAL))
  assert "found 'bilinear', which cannot be imported" in capsys.readouterr().err


@pytest.mark.slow
def test_system_of_the_guide_in_a_sweep_and_resumed(folder, forget, capsys):
  sweep = ["sweep", "--config=mine.py:digits", "--workdir=S", "--folds=2", *SHORT]
  main([*sweep, "--seeds=1", "--config.selection.stops=1"])
  for command in (
    ["explain", "--workdir=S/seed_0", "--dest=report", "--number=1", "--map=pca"],
    ["eval", "--workdir=S/seed_0"],
    ["train", "--config=mine.py:digits", "--workdir=S/seed_0", *SHORT],
  ):
    forget()
    (point,) = [read_chosen(folder / "S")["point"]]
    fields = [f"--config.{k}={v}" for k, v in point.items()]
    main(command + (fields if command[0] == "train" else []))
  assert (folder / "report" / "report.html").exists()
  assert "bilinear (paper" in capsys.readouterr().out


def test_systems_and_datasets_of_installed_packages(folder, forget, monkeypatch):
  about = folder / "bilinear-1.0.dist-info"
  about.mkdir()
  (about / "METADATA").write_text(
    "Metadata-Version: 2.1\nName: bilinear\nVersion: 1.0\n"
  )
  (about / "entry_points.txt").write_text(
    "[zsljax.systems]\nbilinear = bilinear\nlost = nowhere\n"
    "[zsljax.datasets]\nfigures = figures:make\nempty = figures:nothing\n"
  )
  (folder / "figures.py").write_text(FIGURES)
  monkeypatch.syspath_prepend(folder)
  config = registry.build_system({"name": "bilinear", "l2": 0.5})
  assert config.l2 == 0.5 and registry.outside_module(config) == "bilinear"
  stored = open_dataset({"name": "figures", "dir": str(folder), "features": None})
  assert stored.metadata["name"] == "figures"
  with pytest.raises(ZsljaxError, match="name=lost: found 'nowhere', which cannot be"):
    registry.build_system({"name": "lost"})
  with pytest.raises(
    ZsljaxError, match="figures:nothing.: found NoneType, expected a F"
  ):
    open_dataset({"name": "empty", "dir": str(folder), "features": None})


@pytest.mark.parametrize(
  ("old", "new", "message"),
  [
    ("import jax\n", "import jaxx\n", "config.system.module: found 'bilinear', which"),
    ("def score(", "def scored(", "system bilinear.Bilinear: found no score()"),
    ('name = "bilinear"', 'name = "linear"', "unknown system 'bilinear'"),
    (
      "classes.unit_embeddings().T",
      "classes.unit_embeddings()[:5].T",
      "bilinear.Bilinear: scores: found shape (3, 5), expected (3, 10), images by",
    ),
    (
      "return fit + penalty, {",
      "return batch.mask * fit, {",
      "bilinear.Bilinear: loss of loss: found shape (3,), expected a scalar",
    ),
    ("return fit + penalty, {", "return fit  # {", "the loss and a dict of its parts"),
  ],
)
def test_what_is_wrong_with_a_system_is_named(
  folder, forget, capsys, old, new, message
):
  changed = BILINEAR.replace(old, new)
  assert changed != BILINEAR
  (folder / "bilinear.py").write_text(changed)
  with pytest.raises(SystemExit):
    main([*shlex.split(TRAIN), *SHORT])
  assert message in " ".join(capsys.readouterr().err.split())
  assert not (folder / "W").exists()
