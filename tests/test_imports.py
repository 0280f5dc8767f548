"""Which part of the package may import what."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "zsljax"
# Each floor may import from its own and from those below it.
FLOORS = [
  {
    "errors",
    "numerics",
    "precision",
    "classes",
    "losses",
    "sharding",
    "distributed",
    "checkpoints",
    "reporting",
  },
  {"models", "data"},
  {"training", "encoders"},
  {"evaluation"},
  {"experiment", "explain", "predict"},
  {"flags", "sweeps", "benchmark", "benchmark_loss", "__main__"},
]
ONLY_IN = {
  "apache_beam": {"data"},
  "flax": {"models", "encoders"},
  "orbax": {"checkpoints"},
  "safetensors": {"encoders"},
  "tensorflow": {"data"},
  "tensorflow_datasets": {"data"},
}


def modules():
  for path in sorted(PACKAGE.rglob("*.py")):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part != "__init__":
      yield path, part


def imports(path):
  """Imported modules, and whether each import stands at the module's top."""
  tree = ast.parse(path.read_text())
  for node in ast.walk(tree):
    top = node in tree.body
    if isinstance(node, ast.Import):
      yield from ((alias.name, top) for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
      yield node.module, top


def floor(part):
  (found,) = [i for i, floor in enumerate(FLOORS) if part in floor]
  return found


@pytest.mark.parametrize(("path", "part"), list(modules()), ids=lambda x: str(x)[-40:])
def test_imports_point_downwards(path, part):
  for module, _ in imports(path):
    if module.startswith("zsljax."):
      assert floor(module.split(".")[1]) <= floor(part), f"{path} imports {module}"
    library = module.split(".")[0]
    assert part in ONLY_IN.get(library, {part}), f"{path} imports {module}"


def run_without(*missing, code):
  blocked = f"import sys; sys.modules.update(dict.fromkeys({missing!r}))\n"
  return subprocess.run(
    [sys.executable, "-W", "error::DeprecationWarning", "-c", blocked + code],
    capture_output=True,
    text=True,
  )


def test_core_imports_without_tensorflow():
  done = run_without(
    "tensorflow",
    "tensorflow_datasets",
    code="import zsljax.models, zsljax.losses, zsljax.training, zsljax.benchmark, "
    "zsljax.encoders",
  )
  assert done.returncode == 0, done.stderr


def test_the_blocking_of_modules_blocks():
  done = run_without("jax", code="import zsljax.models")
  assert "ModuleNotFoundError" in done.stderr


def test_help_needs_no_heavy_library():
  heavy = ("jax", "numpy", "tensorflow", "scipy", "h5py")
  code = "from zsljax.__main__ import main\nmain(['data', '--help'])"
  done = run_without(*heavy, code=code)
  assert "import-xlsa17" in done.stdout, done.stderr
