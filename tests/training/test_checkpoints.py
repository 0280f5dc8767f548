import chex
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax.devices.mesh import make_mesh, over_batch, replicated
from zsljax.errors import ZsljaxError
from zsljax.training.checkpoints import Checkpoints, _sums, abstract

PARAMS = {"kernel": jnp.arange(6.0).reshape(2, 3)}
REST = {"step": jnp.int32(4), "rng": jax.random.key(1)}


@pytest.fixture
def shapes():
  return abstract((PARAMS, REST), replicated(make_mesh(1)))


def save(workdir, step=4, run="a"):
  checkpoints = Checkpoints(workdir, {"system": run})
  checkpoints.save(step, PARAMS, REST)
  checkpoints.close()


def test_round_trip(tmp_path, shapes):
  save(tmp_path)
  checkpoints = Checkpoints(tmp_path, {"system": "a"})
  params, rest = checkpoints.restore(*shapes, checkpoints.latest_step())
  chex.assert_trees_all_equal(params, PARAMS)
  chex.assert_trees_all_equal(
    jax.random.key_data(rest["rng"]), jax.random.key_data(REST["rng"])
  )
  chex.assert_trees_all_equal(checkpoints.restore_params(shapes[0]), PARAMS)


def test_checkpoints_that_cannot_be_used_are_named(tmp_path, shapes):
  params, _ = shapes
  wide = abstract({"kernel": jnp.zeros((2, 4))}, replicated(make_mesh(1)))
  with pytest.raises(ZsljaxError, match="no checkpoint yet"):
    Checkpoints(tmp_path, {"system": "a"}).restore_params(params)
  save(tmp_path)
  for run, shape, step, message in (
    ("b", params, None, "system: found 'a', expected 'b'"),
    ("a", params, 5, r"found checkpoints \[4\], expected one of 5"),
    ("a", wide, None, "checkpoints/4: cannot be read"),
  ):
    with pytest.raises(ZsljaxError, match=message):
      Checkpoints(tmp_path, {"system": run}).restore_params(shape, step)
  for file in (tmp_path / "checkpoints" / "4" / "params").rglob("*"):
    if file.is_file():
      file.write_bytes(b"")
  with pytest.raises(ZsljaxError, match="checkpoints/4: cannot be read"):
    Checkpoints(tmp_path, {"system": "a"}).restore_params(params)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff" * 100, b'{"a": 1}'])
@pytest.mark.parametrize(
  "file", ["params", "params/*", "run/*", "_CHECKPOINT_METADATA"]
)
def test_damaged_files_of_a_checkpoint_are_one_sentence(
  tmp_path, shapes, content, file
):
  save(tmp_path)
  paths = [p for p in (tmp_path / "checkpoints" / "4").glob(file) if p.is_file()]
  for path in paths:
    path.write_bytes(content)
  try:
    checkpoints = Checkpoints(tmp_path, {"system": "a"})
    found = checkpoints.restore_params(shapes[0])
  except ZsljaxError as error:
    assert len(str(error).splitlines()) == 1
  else:  # Files that only describe.
    chex.assert_trees_all_equal(found, PARAMS)


def test_saving_does_not_ask_by_step_if_the_run_is_to_end(tmp_path, monkeypatch):
  asked = []
  monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", asked.append)
  save(tmp_path)
  assert asked == []


def test_half_written_checkpoint_does_not_count(tmp_path):
  save(tmp_path)
  draft = tmp_path / "checkpoints" / "8.orbax-checkpoint-tmp"
  draft.mkdir()
  assert Checkpoints(tmp_path, {"system": "a"}).latest_step() == 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_full_disk_is_said_and_spoils_nothing(tmp_path, shapes, full_disk):
  save(tmp_path)
  checkpoints = Checkpoints(tmp_path, {"system": "a"})
  noise = np.random.default_rng(0).standard_normal(2**16).astype(np.float32)
  with full_disk(), pytest.raises(ZsljaxError, match="could not write a checkpoint"):
    checkpoints.save(8, {"kernel": jnp.asarray(noise)}, REST)
    checkpoints.wait()
  again = Checkpoints(tmp_path, {"system": "a"})
  assert again.latest_step() == 4
  chex.assert_trees_all_equal(again.restore_params(shapes[0]), PARAMS)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "int32", "uint8"])
def test_other_numbers_are_refused(tmp_path, monkeypatch, dtype, float64):
  """Data files of Orbax have no checksums of their own."""
  params = {"kernel": jnp.arange(6, dtype=dtype).reshape(2, 3), "bias": jnp.ones(2)}
  shapes = abstract(params, replicated(make_mesh(1)))
  checkpoints = Checkpoints(tmp_path, {"system": "a"})
  checkpoints.save(4, params, REST)
  checkpoints.close()
  chex.assert_trees_all_equal(
    Checkpoints(tmp_path, {"system": "a"}).restore_params(shapes), params
  )
  changed = params | {"kernel": params["kernel"].at[1, 1].set(0)}
  other = Checkpoints(tmp_path, {"system": "a"})
  monkeypatch.setattr(other._manager, "restore", restoring(other._manager, changed))
  with pytest.raises(ZsljaxError, match="checkpoints/4: params: found other numbers"):
    other.restore_params(shapes)


def restoring(manager, params):
  restore = manager.restore

  def restored(step, args):
    found = restore(step, args=args)
    return found if "run" in found else {"params": params}

  return restored


def test_sums_are_of_all_devices_together():
  numbers = jnp.arange(64.0).reshape(8, 8)
  layouts = (replicated(make_mesh(1)), over_batch(make_mesh(4)))
  first, second = (jax.device_put(numbers, layout) for layout in layouts)
  assert _sums([first]) == _sums([second]) != _sums([numbers.T])
