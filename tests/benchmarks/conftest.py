import importlib
import pathlib

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
  """Imports a script of benchmarks/, which finds its neighbours as when it is run."""
  monkeypatch.syspath_prepend(FOLDER)
  return importlib.import_module
