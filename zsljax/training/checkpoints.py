"""Checkpoints in a run's folder; the only file that imports Orbax."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
from orbax import checkpoint as ocp

from zsljax.errors import ZsljaxError, line_of, require

_SUMS = "checksums"
# Errors of Orbax and TensorStore when a write fails.
_FAILURES = (OSError, ValueError, RuntimeError, KeyError, TypeError)


class _Manager(ocp.CheckpointManager):
  def reached_preemption(self, step: int) -> bool:
    """False: ``StopSignals`` asks JAX, by numbers of calls.

    Several processes agree to end at the number after the highest that any of them
    asked by. Orbax asks by steps, far beyond all calls.
    """
    del step
    return False


class Checkpoints:
  """The checkpoints of one run, each whole or absent.

  A checkpoint holds the parameters, the rest of the training state, a description of
  the run that it belongs to, and checksums of all arrays, which are compared when it
  is read. Writing goes on in the background; a checkpoint gets its name when all of it
  is on disk.
  """

  def __init__(
    self, workdir: pathlib.Path, run: dict[str, Any], keep: int | None = None
  ):
    """Opens ``workdir/checkpoints``.

    Args:
      workdir: the run's folder.
      run: JSON values that tell this run from others; a checkpoint that
        carries others is refused.
      keep: how many to keep; all when None.
    """
    self.folder = workdir.absolute() / "checkpoints"
    self._run = run
    options = ocp.CheckpointManagerOptions(max_to_keep=keep)
    with self._reading(self.folder):
      self._manager = _Manager(self.folder, options=options)

  def latest_step(self) -> int | None:
    """The step of the newest complete checkpoint."""
    with self._reading(self.folder):
      return self._manager.latest_step()

  def save(self, step: int, params: Any, rest: Any) -> None:
    """Begins to write a checkpoint; waits for the one before.

    Raises:
      ZsljaxError: this one or the one before could not be written.
    """
    sums = {"params": _sums(params), "rest": _sums(rest)}
    items = ocp.args.Composite(
      params=ocp.args.StandardSave(params),
      rest=ocp.args.StandardSave(rest),
      run=ocp.args.JsonSave(self._run | {_SUMS: sums}),
    )
    with self._writing():
      self._manager.save(step, args=items, force=True)

  def wait(self) -> None:
    """Returns when everything begun is on disk.

    Raises:
      ZsljaxError: it could not be written.
    """
    with self._writing():
      self._manager.wait_until_finished()

  def restore_params(self, params: Any, step: int | None = None) -> Any:
    """The parameters at ``step`` (the latest when None).

    Args:
      params: a pytree of ``jax.ShapeDtypeStruct`` with shardings.
      step: number of steps before the checkpoint.

    Raises:
      ZsljaxError: there is none, it is another run's, or it cannot be read.
    """
    return self._restore(step, params=params)["params"]

  def restore(self, params: Any, rest: Any, step: int) -> tuple[Any, Any]:
    """Parameters and the rest of the state; as ``restore_params``."""
    restored = self._restore(step, params=params, rest=rest)
    return restored["params"], restored["rest"]

  def _restore(self, step: int | None, **items: Any) -> Any:
    with self._reading(self.folder):
      steps = sorted(self._manager.all_steps())
    require(len(steps) > 0, str(self.folder), "no checkpoint yet", "one")
    step = steps[-1] if step is None else step
    require(step in steps, str(self.folder), f"checkpoints {steps}", f"one of {step}")
    folder = self.folder / str(step)
    with self._reading(folder):
      run_item = ocp.args.Composite(run=ocp.args.JsonRestore())
      run = self._manager.restore(step, args=run_item)["run"]
      for field, expected in self._run.items():
        found = run.get(field)
        require(found == expected, f"{folder}: {field}", repr(found), repr(expected))
      items = {name: ocp.args.StandardRestore(item) for name, item in items.items()}
      restored = self._manager.restore(step, args=ocp.args.Composite(**items))
      sums = run.get(_SUMS, {})  # A checkpoint of before has none.
      for name in sums.keys() & items.keys():
        same = _sums(restored[name]) == sums[name]
        expected = "those that were saved: remove the folder"
        require(same, f"{folder}: {name}", "other numbers", expected)
      return restored

  @contextlib.contextmanager
  def _reading(self, folder: pathlib.Path) -> Iterator[None]:
    """Names the checkpoint that cannot be read."""
    try:
      yield
    except ZsljaxError:
      raise
    except Exception as error:  # Orbax raises bare ones too.
      raise ZsljaxError(
        f"{folder}: cannot be read as a checkpoint of this run "
        f"({type(error).__name__}: {line_of(error)}). If the folder was damaged, "
        "remove it and the run continues from the one before."
      ) from error

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    """Names the folder and its free space where a write fails."""
    try:
      yield
    except _FAILURES as error:
      free = shutil.disk_usage(self.folder).free
      raise ZsljaxError(
        f"{self.folder}: could not write a checkpoint ({type(error).__name__}: "
        f"{line_of(error)}); "
        f"{free / 2**20:.1f} MiB are free there. The checkpoints before it are "
        "whole: make room and start the same command again."
      ) from error

  def close(self) -> None:
    """Waits for writes and frees the background threads."""
    self.wait()
    self._manager.close()


def _sums(tree: Any) -> list[int]:
  """A checksum of each array of a tree."""
  return [int(x) for x in jax.device_get(_sums_of(jax.tree.leaves(tree)))]


@jax.jit
def _sums_of(arrays: list[jax.Array]) -> list[jax.Array]:
  """Sums modulo 2**32 of the arrays' bits, each word times an odd number of its own.

  One word that is another changes the sum; however an array is divided over devices, it
  is the same.
  """

  def of(array: jax.Array) -> jax.Array:
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
      array = jax.random.key_data(array)
    if array.dtype == bool:
      array = array.astype(jnp.uint8)
    width = min(array.dtype.itemsize, 4)
    bits = jax.lax.bitcast_convert_type(array, f"uint{8 * width}").astype(jnp.uint32)
    words = bits.reshape(-1)
    odd = 2 * jnp.arange(words.size, dtype=jnp.uint32) + 1
    return jnp.sum(words * odd, dtype=jnp.uint32)

  return [of(array) for array in arrays]


def abstract(tree: Any, shardings: Any) -> Any:
  """Shapes and dtypes of ``tree`` (arrays or shapes), laid out as ``shardings`` says.

  ``shardings`` is one sharding for all, or a tree of them.
  """
  if isinstance(shardings, jax.sharding.Sharding):
    shardings = jax.tree.map(lambda _: shardings, tree)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
  )
