import contextlib
import importlib
import os
import pathlib
import resource
import signal
import subprocess
import sys

from absl import flags
import hypothesis
import jax
import numpy as np
import pytest

from zsljax.benchmark import ceilings, feeding
from zsljax.classes import ClassSpace
from zsljax.data import make_feature_set, prepare
from zsljax.io import checksums
from zsljax.runs import train
from zsljax.training import make_optimizer

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# The same small programs are compiled many times over, here and in subprocesses.
for name, value in {
  "jax_compilation_cache_dir": os.path.join(ROOT, ".pytest_cache", "jax"),
  "jax_persistent_cache_min_compile_time_secs": 0,
  "jax_persistent_cache_min_entry_size_bytes": 0,
}.items():
  jax.config.update(name, value)
  os.environ[name.upper()] = str(value)
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
for profile, examples in (("quick", 5), ("thorough", 25)):
  hypothesis.settings.register_profile(
    profile, derandomize=True, deadline=None, max_examples=examples
  )
hypothesis.settings.load_profile("quick")
flags.FLAGS.mark_as_parsed()
checksums.KNOWN = pathlib.Path(ROOT, ".pytest_cache", "checked")
os.environ.pop("COLUMNS", None)  # Workers of pytest-xdist have it: no terminal is here.
# A shell lets its background jobs ignore Ctrl-C, which tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, ROOT)  # For `configs`, which is not installed.


@pytest.fixture
def float64():
  with jax.enable_x64(True):
    yield


@pytest.fixture
def class_space():
  """Makes a random class space; the last ``unseen`` classes are unseen."""

  def make(classes=6, attributes=4, unseen=2, seed=0):
    rng = np.random.default_rng(seed)
    return ClassSpace.create(
      [f"class {i}" for i in range(classes)],
      rng.standard_normal((classes, attributes)),
      seen=np.arange(classes) < classes - unseen,
      ids=rng.permutation(10 * classes)[:classes],
    )

  return make


@pytest.fixture(scope="session")
def short_run(tmp_path_factory):
  """Trains a config for one epoch, once a session, and returns the workdir."""
  made = {}

  def run(name, dataset="digits"):
    if (name, dataset) not in made:
      folder = tmp_path_factory.mktemp(f"{name}_{dataset}")
      config = importlib.import_module(f"zsljax.configs.{name}").get_config(dataset)
      config.data.dir = str(folder / "data")
      config.mesh.data, config.epochs = 1, 1
      train.train(config.to_dict(), folder / "run")
      made[name, dataset] = folder / "run"
    return made[name, dataset]

  return run


@pytest.fixture
def stand_in():
  """Stores a small random dataset under the name of a real one.

  ``options`` go before what describes it.
  """

  def store(name, dest, storage="source", shape=(12,), **options):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 10)
    seen = np.flatnonzero(labels < 6)
    described = {
      "name": name,
      "features_kind": "random",
      "class_embedding": "att",
      "split_version": "made up",
      "features": rng.standard_normal((80, *shape)).astype(np.float32),
      "labels": labels,
      "class_names": [f"class {i}" for i in range(8)],
      "embeddings": rng.standard_normal((8, 5)),
      "attribute_vectors": rng.standard_normal((5, 7)),
      "trainval": seen[seen % 5 != 0],
      "test_seen": seen[seen % 5 == 0],
      "test_unseen": np.flatnonzero(labels >= 6),
      "validation_classes": [0, 1],
      "where": "made up",
      "sources": {},
    }
    prepare(make_feature_set(**(described | options)), dest, storage)

  return store


@pytest.fixture
def optimizer():
  """Makes an optimizer from the shipped fields and those given."""
  from zsljax.configs import base

  def make(batch_size=8, total_steps=100, **fields):
    config = base.get_config().optimizer.to_dict() | fields
    return make_optimizer(config, batch_size, total_steps)

  return make


@pytest.fixture
def full_disk():
  """Within it no file can grow beyond 64 KiB, as if the disk were full."""

  @contextlib.contextmanager
  def limited():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
      yield
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, before)

  return limited


@pytest.fixture
def command(tmp_path):
  """Runs train.py, eval.py or -m zsljax as a user would."""

  def run(*arguments, check=True, **options):
    environment = os.environ | {"HOME": str(tmp_path / "home")}
    done = subprocess.run(
      [sys.executable, *map(str, arguments)],
      cwd=ROOT,
      env=environment | options.pop("env", {}),
      capture_output=True,
      text=True,
      **options,
    )
    if check:
      assert done.returncode == 0, done.stdout + done.stderr
    return done

  return run


@pytest.fixture
def real_data():
  """The folder of real files, where there is one."""
  folder = pathlib.Path(os.environ.get("ZSLJAX_DATA", "") or "absent").absolute()
  if not folder.is_dir():
    pytest.skip("ZSLJAX_DATA names no folder")
  return folder


@pytest.fixture
def small_ceilings(monkeypatch):
  """Benchmarks in a moment: small ceilings, and a table of one batch."""
  monkeypatch.setitem(ceilings._SIDES, True, 128)
  monkeypatch.setitem(ceilings._COPIED, True, 2**16)
  monkeypatch.setattr(feeding, "_TABLE_BYTES", 0)
