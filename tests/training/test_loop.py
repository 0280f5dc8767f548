import dataclasses
import os
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zsljax import training
from zsljax.devices.mesh import make_mesh
from zsljax.errors import Stopped, ZsljaxError
from zsljax.io.files import read_lines
from zsljax.reporting.metrics_log import MetricsLog
from zsljax.training.checkpoints import Checkpoints


class Killed(Exception):
  pass


class Interrupted:
  """Batches that call ``interrupt`` in the place of the one after ``count``."""

  def __init__(self, batches, count, interrupt):
    self.num_examples, self.table = batches.num_examples, batches.table
    self._batches, self._count, self._interrupt = batches, count, interrupt

  def batches(self, start):
    return self._cut(self._batches.batches(start))

  def rows(self, start):
    return self._cut(self._batches.rows(start))

  def _cut(self, stream):
    for i, item in enumerate(stream):
      if i == self._count:
        self._interrupt()
      yield item


def die():
  raise Killed


def be_told():
  os.kill(os.getpid(), signal.SIGTERM)


def ctrl_c():
  os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def run(toy, optimizer):
  """Trains the toy system; after some batches the process may be interrupted."""

  def train(
    workdir,
    steps=12,
    interrupt=None,
    name="adam",
    devices=1,
    keep=None,
    seed=3,
    at_once=0,
    host_rows=None,
    watch_every=0,
    spoil=False,
    pretrain_steps=0,
    save_seconds=0.0,
    optimizer_used=None,
    **fields,
  ):
    system, spec, classes, batches = toy
    system = dataclasses.replace(system, pretrain_steps=pretrain_steps)
    fields = {"learning_rate": 1e-2, "memory": 5} | fields
    size = 0 if name == "lbfgs" else 8
    used = optimizer_used or optimizer(size, steps, name=name, **fields)
    if interrupt:
      batches = Interrupted(batches, *interrupt)
    mesh = make_mesh(devices)
    checkpoints = Checkpoints(workdir, {"system": "toy"}, keep)
    inputs = training.HostInputs(batches.batches, mesh, batches.num_examples)
    if at_once:
      inputs = training.DeviceInputs(
        batches.table, batches.rows, mesh, batches.num_examples, at_once, host_rows
      )
    try:
      return training.train(
        system,
        used,
        lambda: training.init_state(system, used, spec, seed),
        inputs,
        classes,
        training.Schedule(
          steps,
          log_every=2,
          save_every=3,
          watch_every=watch_every,
          save_seconds=save_seconds,
        ),
        checkpoints,
        lambda start: MetricsLog(workdir, start),
        mesh,
        watching(system, spec, classes, mesh, spoil) if watch_every else None,
      )
    finally:
      checkpoints.close()

  return train


def watching(system, spec, classes, mesh, spoil=False, count=11):
  """The mean score of some images; if told to, refuses values that are not finite."""
  table = {
    "features": np.random.default_rng(1).random((count, *spec.feature_shape)),
    "labels": np.zeros(count, np.int32),
  }
  images = training.DeviceImages.placed(table, 4, mesh, count)

  def outputs(params, images):
    def score(batch):
      scores = system.scores(params, batch.features, classes)
      return jnp.where(batch.mask, scores.sum(1), 0)

    return images.map(score)

  def metrics(out):
    assert np.isfinite(out).all() or not spoil
    return {"val_mean": float(out.sum() / count)}

  return training.PeriodicEval(images, outputs, metrics, "val_mean")


def logged(workdir):
  return read_lines(workdir / "metrics.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("at_once", [0, 2])
def test_watching_changes_nothing_and_is_of_the_state_after_the_step(
  run, toy, tmp_path, at_once
):
  expected = run(tmp_path / "alone", at_once=at_once)
  found = run(tmp_path / "watched", at_once=at_once, watch_every=5)
  chex.assert_trees_all_equal(found.params, expected.params)
  lines = logged(tmp_path / "watched")
  means = {line["step"]: line["val_mean"] for line in lines if "val_mean" in line}
  assert list(means) == [4, 9, 11]
  system, spec, classes, _ = toy
  watch = watching(system, spec, classes, make_mesh(1))
  for step in (4, 11):
    state = run(tmp_path / str(step), steps=step + 1)
    scores = jax.jit(watch.outputs)(state.params, watch.images)
    assert means[step] == pytest.approx(watch.metrics(scores)["val_mean"], rel=1e-6)


@pytest.mark.parametrize("at_once", [1, 5, pytest.param(12, marks=pytest.mark.slow)])
def test_resident_run_equals_a_sent_one(run, tmp_path, at_once):
  sent = run(tmp_path / "sent")
  resident = run(tmp_path / "resident", at_once=at_once)
  chex.assert_trees_all_equal(resident.params, sent.params)
  chex.assert_trees_all_equal(resident.opt_state, sent.opt_state)
  # JAX 0.12 sums a logged loss in another order within a scan; states stay equal.
  for one, other in zip(
    logged(tmp_path / "resident"), logged(tmp_path / "sent"), strict=True
  ):
    assert one == pytest.approx(other, rel=1e-6)


@pytest.mark.parametrize("fields", [{}, {"at_once": 3, "host_rows": 32}])
def test_four_devices_equal_one(run, tmp_path, fields):
  one = run(tmp_path / "one")
  four = run(tmp_path / "four", devices=4, **fields)
  chex.assert_trees_all_close(one.params, four.params, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  "fields",
  [
    {"at_once": 2, "watch_every": 2},
    *(
      pytest.param(fields, marks=pytest.mark.slow)
      for fields in (
        {},
        {"name": "lbfgs", "pretrain_steps": 3},
        {"schedule": "one_cycle", "weight_decay": 0.1, "clip_norm": 0.5},
        {"at_once": 2},
      )
    ),
  ],
)
def test_interrupted_run_ends_bit_identical(run, tmp_path, fields):
  expected = run(tmp_path / "whole", **fields)
  for count in (6, 5):  # Prefetched batches die two steps early.
    with pytest.raises(Killed):
      run(tmp_path / "cut", interrupt=(count, die), **fields)
  assert 0 < Checkpoints(tmp_path / "cut", {"system": "toy"}).latest_step() < 12
  found = run(tmp_path / "cut", **fields)
  chex.assert_trees_all_equal(found.params, expected.params)
  chex.assert_trees_all_equal(found.opt_state, expected.opt_state)
  lines = logged(tmp_path / "whole")
  assert logged(tmp_path / "cut") == lines
  assert {0, 2, 4, 6, 8, 10, 11} <= {line["step"] for line in lines}
  if "watch_every" in fields:
    assert sum("val_mean" in line for line in lines) == 6


@pytest.mark.parametrize(
  ("name", "told", "by"),
  [
    ("adam", be_told, "SIGTERM"),
    pytest.param("lbfgs", be_told, "SIGTERM", marks=pytest.mark.slow),
    ("adam", ctrl_c, "SIGINT"),
  ],
)
def test_run_that_is_told_to_end_saves_and_continues(run, tmp_path, name, told, by):
  expected = run(tmp_path / "whole", name=name)
  with pytest.raises(Stopped, match=f"by {by} at step 5 of 12, which is saved"):
    run(tmp_path / "cut", interrupt=(6, told), name=name)  # Made two ahead.
  found = run(tmp_path / "cut", name=name)
  chex.assert_trees_all_equal(found.params, expected.params)
  chex.assert_trees_all_equal(found.opt_state, expected.opt_state)
  assert logged(tmp_path / "cut") == logged(tmp_path / "whole")


def test_checkpoints_come_by_the_clock_too(run, tmp_path):
  expected = run(tmp_path / "whole")
  found = run(tmp_path / "often", save_seconds=1e-9)
  chex.assert_trees_all_equal(found.params, expected.params)
  saved = {int(path.name) for path in (tmp_path / "often" / "checkpoints").iterdir()}
  assert saved == set(range(1, 13))


def test_finished_run_is_left_as_it_is(run, tmp_path):
  first = run(tmp_path)
  again = run(tmp_path)
  chex.assert_trees_all_equal(first.params, again.params)


def test_checkpoints_hold_the_state_of_their_step(run, tmp_path):
  """Saving in the background must not see the buffers of later steps."""
  run(tmp_path / "long", steps=12, keep=3)
  short = run(tmp_path / "short", steps=6)
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), short.params
  )
  checkpoints = Checkpoints(tmp_path / "long", {"system": "toy"})
  chex.assert_trees_all_equal(checkpoints.restore_params(shapes, 6), short.params)
  names = {path.name for path in (tmp_path / "long" / "checkpoints").iterdir()}
  assert names == {"6", "9", "12"}  # Old ones are removed.


def test_loss_that_is_not_finite_ends_the_run(run, toy, tmp_path):
  with pytest.raises(ZsljaxError, match="lower config.optimizer.learning_rate"):
    # Said before a metric of such parameters is computed.
    run(tmp_path / "a", learning_rate=1e30, watch_every=1, spoil=True)
  explosive = optax.with_extra_args_support(optax.sgd(np.inf))
  with pytest.raises(ZsljaxError, match="update_norm is .* at step 0"):
    run(tmp_path / "b", steps=1, optimizer_used=explosive)
  assert not list((tmp_path / "b" / "checkpoints").glob("*"))
  *_, batches = toy
  batches._features[:] = np.inf
  with pytest.raises(ZsljaxError, match="loss is nan at step 0"):
    run(tmp_path / "c")
