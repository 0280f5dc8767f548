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
  ("semantic_softmax", "cub", 128),
  ("cosine", "cub", 128),
  ("attended_autoencoder", "cub14", 128),
  ("msdn", "cub14", 128),
  ("msdn", "cub14", 512),  # On a v5e a program of another kind.
  ("sdl", "nus", 128),
)
# Bytes by which temporaries of nothing may grow.
SLACK = 2**14


def installed(module):
  try:
    return importlib.util.find_spec(module) is not None
  except ModuleNotFoundError:
    return False


@pytest.mark.parametrize(("system", "preset", "batch"), SYSTEMS)
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_compiled_step_has_not_grown(name, system, preset, batch):
  if not installed(TOPOLOGIES[name]):
    pytest.skip("its compiler is not installed: make test-compilers")
  steps = topology.run(name, system, preset, batch, "bfloat16")
  training = steps["training"]
  made = {
    "temporaries": training["bytes_per_device"]["temporaries"],
    "temporaries_of_scoring": steps["scoring"]["bytes_per_device"]["temporaries"],
    "collectives": training["collectives"],
    "flops_over_useful": round(training["product_flops_over_useful"], 3),
  }
  # Every device of several computes what does not depend on images.
  assert name == "v5e:2x2" or made["flops_over_useful"] <= 1.05
  assert preset != "cub14" or training["features_read"] <= 2.01
  key, stored = f"{name} {system} {batch}", {}
  if STORED.exists():
    stored = json.loads(STORED.read_text())
  if os.environ.get("ZSLJAX_COMPILED"):
    STORED.write_text(json.dumps(stored | {key: made}, indent=1, sort_keys=True) + "\n")
    return
  before = stored[key]
  assert made["flops_over_useful"] <= before["flops_over_useful"] + 0.01
  for field in ("temporaries", "temporaries_of_scoring"):
    assert made[field] <= 1.1 * before[field] + SLACK
  assert set(made["collectives"]) == set(before["collectives"])
  for kind, found in made["collectives"].items():
    known = before["collectives"][kind]
    assert found["number"] <= known["number"]
    assert found["bytes"] <= 1.1 * known["bytes"]
