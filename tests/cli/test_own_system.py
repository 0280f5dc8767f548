"""The guide's system, outside the package, is trained, evaluated and used."""

import pathlib
import re
import shlex
import sys

import numpy as np
import pytest

from zsljax.cli.main import main
from zsljax.models import system as registry
from zsljax.reporting.rows import read_rows

GUIDE = pathlib.Path(__file__).parents[2] / "docs" / "guides" / "own_system.md"
BILINEAR, MINE = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
TRAIN, EVAL = re.findall(r"^\$ zsljax (.*)", GUIDE.read_text(), re.MULTILINE)
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
