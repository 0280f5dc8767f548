"""The package's floors, and which part may import which library."""

import ast
import graphlib
import pathlib
import re
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "zsljax"
# A room imports from its own floor and from those below it.
FLOORS = [
  {"errors", "numerics", "classes", "io", "devices", "losses"},
  {"models", "data"},
  {"encoders", "training", "evaluation", "reporting"},
  {"runs"},
  {"predict", "explain", "benchmark", "classifier", "cli", "__main__"},
]
FLOOR = {room: i for i, floor in enumerate(FLOORS) for room in floor}
ONLY_IN = {
  "apache_beam": "zsljax.data.",
  "flax": ("zsljax.models.", "zsljax.encoders."),
  "orbax": "zsljax.training.checkpoints",
  "safetensors": "zsljax.encoders.",
  "tensorflow": "zsljax.data.",
  "tensorflow_datasets": "zsljax.data.",
}
NOT_AT_TOP = ("apache_beam", "matplotlib", "sklearn", "tensorflow", "tokenizers")
# Modules whose classes are made from those of a library.
BASES = (("zsljax.classifier", "sklearn"),)
PRIVATE = re.compile(
  r"jax\._src|orbax.*_src|tensorflow_datasets\.core\.(shuffle|writer)"
)


def module_name(path):
  name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
  return name.removesuffix(".__init__")


MODULES = {
  module_name(path): path
  for path in sorted(PACKAGE.rglob("*.py"))
  if "configs" not in path.parts
}


def imports(path):
  """Imported modules, and whether each import stands at the module's top."""
  tree = ast.parse(path.read_text())
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from ((alias.name, node in tree.body) for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      for alias in node.names:
        inner = f"{node.module}.{alias.name}"
        yield (inner if inner in MODULES else node.module), node in tree.body


def room(module):
  return module.split(".")[1] if "." in module else None


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_downwards(name):
  for module, at_top in imports(MODULES[name]):
    if room(name) and module.startswith("zsljax."):
      assert FLOOR[room(module)] <= FLOOR[room(name)], f"imports {module}"
    library = module.split(".")[0]
    assert name.startswith(ONLY_IN.get(library, "zsljax")), f"imports {module}"
    top = at_top and (name, library) not in BASES
    assert not (top and library in NOT_AT_TOP), f"imports {library} at its top"
  assert not PRIVATE.search(MODULES[name].read_text())


def test_every_room_has_a_floor_and_there_is_no_circle():
  assert {room(name) for name in MODULES} - {None} == FLOOR.keys()
  found = {name: set(imports(path)) for name, path in MODULES.items()}
  modules = {
    name: {module for module, at_top in found[name] if at_top and module in MODULES}
    for name in MODULES
  }
  rooms = {
    of: {room(m) for name in MODULES if room(name) == of for m, _ in found[name]
         if m in MODULES} - {of, None}
    for of in FLOOR
  }  # fmt: skip
  for graph in (modules, rooms):
    list(graphlib.TopologicalSorter(graph).static_order())


def run_without(*missing, code):
  blocked = f"import sys; sys.modules.update(dict.fromkeys({missing!r}))\n"
  return subprocess.run(
    [sys.executable, "-W", "error::DeprecationWarning", "-c", blocked + code],
    capture_output=True,
    text=True,
  )


def test_core_imports_without_tensorflow():
  rooms = ("models", "losses", "training", "evaluation", "benchmark", "encoders")
  done = run_without(
    *("tensorflow", "tensorflow_datasets", "sklearn", "matplotlib"),
    code=f"import numpy as np, {', '.join(f'zsljax.{name}' for name in rooms)}\n"
    "zsljax.evaluate(np.eye(3), np.arange(3), np.array([True, False, False]))",
  )
  assert done.returncode == 0, done.stderr


def test_the_blocking_of_modules_blocks():
  done = run_without("jax", code="import zsljax.models")
  assert "ModuleNotFoundError" in done.stderr
