"""Steps of all systems as compilers of TPUs and GPUs make them, against stored ones.

``make test-compilers`` runs this with the compilers of requirements-compilers.lock, and
``ZSLJAX_COMPILED=1 make test-compilers`` stores what they make, after a look at it.
"""

import importlib.util
import json
import os
import pathlib

import pytest

from zsljax.benchmark import topology

pytestmark = pytest.mark.slow
STORED = pathlib.Path(__file__).with_name("compiled.json")
TOPOLOGIES = {"v5e": "libtpu", "v5e:2x2": "libtpu", "h100": "jax_plugins.xla_cuda13"}
SYSTEMS = (
  ("semantic_softmax", "cub"),
  ("cosine", "cub"),
  ("attended_autoencoder", "cub14"),
  ("msdn", "cub14"),
  ("sdl", "nus"),
)


def installed(module):
  try:
    return importlib.util.find_spec(module) is not None
  except ModuleNotFoundError:
    return False


@pytest.mark.parametrize(("system", "preset"), SYSTEMS)
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_compiled_step_has_not_grown(name, system, preset):
  if not installed(TOPOLOGIES[name]):
    pytest.skip("its compiler is not installed: make test-compilers")
  step = topology.run(name, system, preset, 128, "bfloat16")["training"]
  made = {
    "temporaries": step["bytes_per_device"]["temporaries"],
    "collectives": step["collectives"],
  }
  key, stored = f"{name} {system}", {}
  if STORED.exists():
    stored = json.loads(STORED.read_text())
  if os.environ.get("ZSLJAX_COMPILED"):
    STORED.write_text(json.dumps(stored | {key: made}, indent=1, sort_keys=True) + "\n")
    return
  before = stored[key]
  assert made["temporaries"] <= 1.1 * before["temporaries"] + 2**20
  assert set(made["collectives"]) == set(before["collectives"])
  for kind, found in made["collectives"].items():
    assert found["bytes"] <= 1.1 * before["collectives"][kind]["bytes"]
