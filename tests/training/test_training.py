import dataclasses
import itertools
import os
import signal
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zsljax import training
from zsljax.configs import base
from zsljax.data import TrainingData, open_dataset
from zsljax.devices.mesh import make_mesh, replicated
from zsljax.errors import Stopped, ZsljaxError
from zsljax.io.files import read_lines
from zsljax.models import Batch
from zsljax.reporting.metrics_log import MetricsLog
from zsljax.training.checkpoints import Checkpoints


class Killed(Exception):
  pass


class Dying:
  """Batches that end the process after ``count`` of them."""

  def __init__(self, batches, count):
    self.num_examples = batches.num_examples
    self.steps_per_epoch = batches.steps_per_epoch
    self._batches, self._count = batches, count

  def batches(self, start):
    stream = self._batches.batches(start)
    for _ in range(self._count):
      yield next(stream)
    raise Killed

  def table(self):
    return self._batches.table()

  def rows(self, start):
    stream = self._batches.rows(start)
    for _ in range(self._count):
      yield next(stream)
    raise Killed


def run(
  toy,
  workdir,
  steps=12,
  stop_after=None,
  name="adam",
  devices=1,
  keep=None,
  seed=3,
  fields=None,
  at_once=0,
  host_rows=None,
  watch_every=0,
  spoil=False,
):
  """Trains the toy system; ``stop_after`` batches the process 'dies'."""
  system, spec, classes, batches = toy
  config = base.get_config().optimizer.to_dict()
  config |= {"name": name, "learning_rate": 1e-2, "memory": 5} | (fields or {})
  optimizer = training.make_optimizer(config, 0 if name == "lbfgs" else 8, steps)
  if stop_after is not None:
    batches = Dying(batches, stop_after)
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
      optimizer,
      lambda: training.init_state(system, optimizer, spec, seed),
      inputs,
      classes,
      training.Schedule(
        total_steps=steps, log_every=2, save_every=3, watch_every=watch_every
      ),
      checkpoints,
      lambda start: MetricsLog(workdir, start),
      mesh,
      watching(system, spec, classes, mesh, spoil) if watch_every else None,
    )
  finally:
    checkpoints.close()


def watching(system, spec, classes, mesh, spoil=False, count=11):
  """Watches the mean score of some images; if told to, refuses what is not finite."""
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


@pytest.mark.parametrize("at_once", [0, 2])
def test_watching_changes_nothing_and_is_of_the_state_after_the_step(
  toy, tmp_path, at_once
):
  expected = run(toy, tmp_path / "alone", at_once=at_once)
  found = run(toy, tmp_path / "watched", at_once=at_once, watch_every=5)
  chex.assert_trees_all_equal(found.params, expected.params)
  lines = read_lines(tmp_path / "watched" / "metrics.jsonl")
  means = {line["step"]: line["val_mean"] for line in lines if "val_mean" in line}
  assert list(means) == [4, 9, 11]
  system, spec, classes, _ = toy
  watch = watching(system, spec, classes, make_mesh(1))
  for step in (4, 11):
    state = run(toy, tmp_path / str(step), steps=step + 1)
    scores = jax.jit(watch.outputs)(state.params, watch.images)
    assert means[step] == pytest.approx(watch.metrics(scores)["val_mean"], rel=1e-6)


def test_infinite_loss_is_said_before_what_is_watched(toy, tmp_path):
  fields = {"learning_rate": 1e30}
  with pytest.raises(ZsljaxError, match="lower config.optimizer.learning_rate"):
    run(toy, tmp_path, fields=fields, watch_every=1, spoil=True)


def test_interrupted_watched_run_has_the_same_log(toy, tmp_path):
  run(toy, tmp_path / "whole", at_once=2, watch_every=2)
  with pytest.raises(Killed):
    run(toy, tmp_path / "cut", stop_after=8, at_once=2, watch_every=2)
  run(toy, tmp_path / "cut", at_once=2, watch_every=2)
  whole, cut = (read_lines(tmp_path / k / "metrics.jsonl") for k in ("whole", "cut"))
  assert whole == cut and sum("val_mean" in line for line in whole) == 6


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize(("count", "size"), [(11, 4), (8, 8), (3, 8), (13, 12)])
def test_images_are_gone_through_once(devices, count, size):
  table = {
    "features": np.arange(2.0 * count, dtype=np.float32).reshape(count, 2),
    "labels": np.arange(count, dtype=np.int32),
  }
  images = training.DeviceImages.placed(table, size, make_mesh(devices), count)
  assert images.rows.shape[1] <= size and images.rows.shape[1] % devices == 0
  found = jax.device_get(jax.jit(lambda images: images.map(lambda b: b))(images))
  np.testing.assert_array_equal(found.labels[found.mask], table["labels"])
  np.testing.assert_array_equal(found.features[found.mask], table["features"])


@pytest.mark.parametrize("at_once", [1, 2, 5, 12])
def test_resident_run_equals_a_sent_one(toy, tmp_path, at_once):
  sent = run(toy, tmp_path / "sent")
  resident = run(toy, tmp_path / "resident", at_once=at_once)
  chex.assert_trees_all_equal(resident.params, sent.params)
  chex.assert_trees_all_equal(resident.opt_state, sent.opt_state)
  lines = [read_lines(tmp_path / k / "metrics.jsonl") for k in ("sent", "resident")]
  assert lines[0] == lines[1] and len(lines[0]) == 7


def test_interrupted_resident_run_ends_bit_identical(toy, tmp_path):
  expected = run(toy, tmp_path / "whole", at_once=2)
  with pytest.raises(Killed):
    run(toy, tmp_path / "cut", stop_after=8, at_once=2)
  assert Checkpoints(tmp_path / "cut", {"system": "toy"}).latest_step() == 6
  found = run(toy, tmp_path / "cut", at_once=2)
  chex.assert_trees_all_equal(found.params, expected.params)
  assert [r["step"] for r in read_lines(tmp_path / "cut" / "metrics.jsonl")] == [
    0, 2, 4, 6, 8, 10, 11,
  ]  # fmt: skip


def test_split_table_trains_as_a_whole_one(toy, tmp_path):
  one = run(toy, tmp_path / "one", at_once=3)
  four = run(toy, tmp_path / "four", at_once=3, devices=4, host_rows=32)
  chex.assert_trees_all_close(one.params, four.params, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "pretrain_steps"), [("adam", 0), ("lbfgs", 3)])
def test_interrupted_run_ends_bit_identical(toy, tmp_path, name, pretrain_steps):
  system, *rest = toy
  toy = (dataclasses.replace(system, pretrain_steps=pretrain_steps), *rest)
  expected = run(toy, tmp_path / "whole", name=name)
  for stop in (6, 5):  # Prefetched batches die two steps early.
    with pytest.raises(Killed):
      run(toy, tmp_path / "cut", stop_after=stop, name=name)
  found = run(toy, tmp_path / "cut", name=name)
  chex.assert_trees_all_equal(found.params, expected.params)
  chex.assert_trees_all_equal(found.opt_state, expected.opt_state)
  steps = [r["step"] for r in read_lines(tmp_path / "cut" / "metrics.jsonl")]
  whole = [r["step"] for r in read_lines(tmp_path / "whole" / "metrics.jsonl")]
  assert steps == whole == [0, 2, 4, 6, 8, 10, 11]


class Told(Dying):
  """Batches during which the process is told to end."""

  def batches(self, start):
    for i, batch in enumerate(self._batches.batches(start)):
      if i == self._count:
        os.kill(os.getpid(), signal.SIGTERM)
      yield batch


@pytest.mark.parametrize("name", ["adam", "lbfgs"])
def test_run_that_is_told_to_end_saves_and_continues(toy, tmp_path, name):
  expected = run(toy, tmp_path / "whole", name=name)
  *rest, batches = toy
  with pytest.raises(Stopped, match="at step 5 of 12, which is saved"):
    run((*rest, Told(batches, 6)), tmp_path / "cut", name=name)  # Made two ahead.
  found = run(toy, tmp_path / "cut", name=name)
  chex.assert_trees_all_equal(found.params, expected.params)
  chex.assert_trees_all_equal(found.opt_state, expected.opt_state)
  lines = [read_lines(tmp_path / k / "metrics.jsonl") for k in ("whole", "cut")]
  assert lines[0] == lines[1]


def test_finished_run_is_left_as_it_is(toy, tmp_path):
  first = run(toy, tmp_path)
  again = run(toy, tmp_path)
  chex.assert_trees_all_equal(first.params, again.params)


def test_checkpoints_hold_what_the_state_was(toy, tmp_path):
  """Saving in the background must not see the buffers of later steps."""
  run(toy, tmp_path / "long", steps=12)
  short = run(toy, tmp_path / "short", steps=6)
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), short.params
  )
  checkpoints = Checkpoints(tmp_path / "long", {"system": "toy"})
  chex.assert_trees_all_equal(checkpoints.restore_params(shapes, 6), short.params)


def test_old_checkpoints_are_removed(toy, tmp_path):
  run(toy, tmp_path, keep=2)
  names = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
  assert names == [9, 12]


def test_seed_decides_the_result(toy, tmp_path):
  first = run(toy, tmp_path / "a")
  second = run(toy, tmp_path / "b")
  other = run(toy, tmp_path / "c", seed=4)
  chex.assert_trees_all_equal(first.params, second.params)
  with pytest.raises(AssertionError):
    chex.assert_trees_all_equal(first.params, other.params)


def test_four_devices_equal_one(toy, tmp_path):
  one = run(toy, tmp_path / "one")
  four = run(toy, tmp_path / "four", devices=4)
  chex.assert_trees_all_close(one.params, four.params, rtol=1e-5, atol=1e-6)


def test_step_is_traced_once_and_the_check_for_it_fires(toy, optimizer):
  system, spec, classes, batches = toy
  optimizer = optimizer(learning_rate=1e-2)
  step = training.make_train_step(system, optimizer)
  counted = jax.jit(chex.assert_max_traces(step, n=1))
  state = training.init_state(system, optimizer, spec, 0)
  state, classes = jax.device_put((state, classes), replicated(make_mesh(1)))
  stream = training.feed(batches.batches(0), make_mesh(1), 32)
  for _ in range(3):
    state, _ = counted(state, next(stream), classes)
  batch = next(stream)
  half = Batch(batch.features[:4], batch.labels[:4], batch.mask[:4], 32)
  with pytest.raises(AssertionError, match="traced"):
    counted(state, half, classes)


def test_converged_step_changes_nothing(toy, optimizer):
  system, spec, classes, batches = toy
  optimizer = optimizer(learning_rate=1e-2)
  state = training.init_state(system, optimizer, spec, 0)
  batch = next(training.feed(batches.batches(0), make_mesh(1), 32))
  for tolerance, converged in ((1e9, True), (1e-9, False)):
    step = training.make_train_step(system, optimizer, tolerance)
    new, metrics = step(state, batch, classes)
    assert bool(metrics["converged"]) == converged
    same = np.array_equal(
      new.params["prototypes"]["kernel"], state.params["prototypes"]["kernel"]
    )
    assert same == converged and int(new.step) == (not converged)


def test_metrics_are_of_the_parameters_before_the_update(toy, optimizer):
  system, spec, classes, batches = toy
  optimizer = optimizer(learning_rate=1e-2)
  state = training.init_state(system, optimizer, spec, 0)
  batch = next(training.feed(batches.batches(0), make_mesh(1), 32))
  _, metrics = training.make_train_step(system, optimizer)(state, batch, classes)
  loss, parts = system.loss(state.params, batch, classes, None)
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
  assert parts.keys() <= metrics.keys()
  gradient = jax.grad(lambda p: system.loss(p, batch, classes, None)[0])(state.params)
  np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(gradient), rtol=1e-5)


def test_infinite_loss_stops_the_run(toy, tmp_path):
  _, _, _, batches = toy
  batches._features[:] = np.inf
  with pytest.raises(ZsljaxError, match="loss is nan at step 0"):
    run(toy, tmp_path)


def test_last_update_must_be_finite(toy, tmp_path, monkeypatch):
  explosive = optax.with_extra_args_support(optax.sgd(np.inf))
  monkeypatch.setattr(training, "make_optimizer", lambda *_: explosive)
  with pytest.raises(ZsljaxError, match="update_norm is .* at step 0"):
    run(toy, tmp_path, steps=1)
  assert not list((tmp_path / "checkpoints").glob("*"))


def test_feed_keeps_order_and_sends_a_repeated_batch_once(toy):
  _, _, _, batches = toy
  stream = batches.batches(0)
  host = [next(stream) for _ in range(5)]
  fed = list(training.feed(host, make_mesh(2), 32))
  for sent, batch in zip(host, fed, strict=True):
    np.testing.assert_array_equal(batch.features, sent["features"])
  first, second = training.feed([host[0], host[0]], make_mesh(1), 32)
  assert first is second


def test_feed_converts_float64_and_keeps_bfloat16(toy):
  _, _, _, batches = toy
  batch = next(batches.batches(0))
  for dtype, expected in ((np.float64, jnp.float32), (jnp.bfloat16, jnp.bfloat16)):
    batch["features"] = batch["features"].astype(dtype)
    placed = training.to_mesh(batch, make_mesh(1), 32)
    assert placed.features.dtype == expected
    assert placed.astype(jnp.float32).features.dtype == jnp.float32


def taken(inputs, mesh, start, steps):
  """What each of ``steps`` steps is given, through the calls that training makes."""
  seen = jax.jit(
    inputs.steps(lambda state, batch, classes: (state, {"batch": batch})),
    static_argnums=2,
  )
  pieces, found = inputs.pieces(start, lambda step: step + 3 - step % 3), []
  while len(found) < steps:
    piece, count = next(pieces)
    _, metrics = seen(0, piece, None)
    found += [jax.tree.map(lambda x, i=i: x[i], metrics["batch"]) for i in range(count)]
  return found[:steps]


@pytest.mark.parametrize(("devices", "split"), [(1, False), (4, False), (4, True)])
@pytest.mark.parametrize("sampling", ["epochs", "independent", "class_balanced"])
def test_resident_batches_equal_sent_ones(tmp_path, devices, split, sampling):
  store = open_dataset({"name": "digits", "features": None, "dir": tmp_path})
  size = 4 if sampling == "class_balanced" else 256
  data = TrainingData(store, "trainval", size, 0, "device", sampling)
  mesh = make_mesh(devices)
  resident = training.DeviceInputs(
    data.table, data.rows, mesh, 32, 2, data.host_rows if split else None
  )
  sent = training.HostInputs(data.batches, mesh, 32)
  both = (taken(inputs, mesh, start=2, steps=5) for inputs in (resident, sent))
  for found, expected in zip(*both, strict=True):
    chex.assert_trees_all_equal(found, expected)
    chex.assert_trees_all_equal_dtypes(found, expected)


def test_pieces_end_where_the_run_is_saved():
  table = {"features": np.zeros((4, 2)), "labels": np.zeros(4, np.int32)}
  rows = itertools.repeat(np.arange(2))
  inputs = training.DeviceInputs(lambda: table, lambda start: rows, make_mesh(1), 4, 5)
  schedule = training.Schedule(total_steps=17, log_every=1, save_every=7)
  pieces = inputs.pieces(3, schedule.stop)
  assert [next(pieces)[1] for _ in range(4)] == [4, 5, 2, 3]


def test_resident_table_must_fit(monkeypatch):
  feed = sys.modules[training.DeviceInputs.__module__]
  monkeypatch.setattr(feed, "free_memory", lambda mesh: 200)
  table = {"features": np.zeros((10, 6), np.float32)}
  with pytest.raises(ZsljaxError, match="0.24 kB .* 0.2 kB are free there"):
    training.place_table(table, make_mesh(1))
  table["labels"] = np.zeros(10, np.int32)
  with pytest.raises(ZsljaxError, match="images to be scored: found 0.28 kB"):
    training.DeviceImages.placed(table, 5, make_mesh(1), 10)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_is_the_one_of_pytorch(momentum, optimizer, float64):
  """Its documented rule, in a loop: coupled decay, epsilon outside the root."""
  rng = np.random.default_rng(0)
  start, gradients = rng.standard_normal(4), rng.standard_normal((5, 4))
  rate, decay = 0.01, 0.3
  optimizer = optimizer(
    name="rmsprop", learning_rate=rate, weight_decay=decay, momentum=momentum
  )
  params = jnp.asarray(start)
  state = optimizer.init(params)
  expected, squares, buffer = start.copy(), np.zeros(4), np.zeros(4)
  for gradient in gradients:
    updates, state = optimizer.update(jnp.asarray(gradient), state, params)
    params = optax.apply_updates(params, updates)
    gradient = gradient + decay * expected
    squares = 0.99 * squares + 0.01 * gradient**2
    buffer = momentum * buffer + gradient / (np.sqrt(squares) + 1e-8)
    expected = expected - rate * buffer
  np.testing.assert_allclose(params, expected, rtol=1e-12)


def one_cycle(step, total, start, peak, end):
  """PyTorch's OneCycleLR with pct_start 0.1: half a cosine up, and one down."""
  turn = 0.1 * total - 1
  if step <= turn:
    return peak + (start - peak) / 2 * (1 + np.cos(np.pi * step / turn))
  share = (step - turn) / (total - 1 - turn)
  return end + (peak - end) / 2 * (1 + np.cos(np.pi * share))


@pytest.mark.parametrize("schedule", ["constant", "one_cycle"])
def test_adam_is_the_released_recipe(schedule, optimizer, float64):
  """Coupled decay that skips biases; with one cycle, the first moment's decay too."""
  rng = np.random.default_rng(0)
  shapes = {"kernel": (3, 2), "bias": (2,)}
  start = {k: rng.standard_normal(shape) for k, shape in shapes.items()}
  rate, decay, steps = 0.02, 0.3, 47
  optimizer = optimizer(
    name="adam",
    learning_rate=rate,
    weight_decay=decay,
    schedule=schedule,
    total_steps=steps,
  )
  params = jax.tree.map(jnp.asarray, start)
  state = optimizer.init(params)
  expected = dict(start)
  first = {k: np.zeros(shape) for k, shape in shapes.items()}
  second = {k: np.zeros(shape) for k, shape in shapes.items()}
  update = jax.jit(optimizer.update)
  for step in range(steps):
    gradients = {k: rng.standard_normal(shape) for k, shape in shapes.items()}
    updates, state = update(jax.tree.map(jnp.asarray, gradients), state, params)
    params = optax.apply_updates(params, updates)
    b1, lr = 0.9, rate
    if schedule == "one_cycle":
      b1 = one_cycle(step, steps, 0.95, 0.85, 0.95)
      lr = one_cycle(step, steps, rate / 25, rate, rate / 25e4)
    for k, gradient in gradients.items():
      if k == "kernel":
        gradient = gradient + decay * expected[k]
      first[k] = b1 * first[k] + (1 - b1) * gradient
      second[k] = 0.999 * second[k] + 0.001 * gradient**2
      mean = first[k] / (1 - b1 ** (step + 1))
      deviation = np.sqrt(second[k] / (1 - 0.999 ** (step + 1)))
      expected[k] = expected[k] - lr * mean / (deviation + 1e-8)
  for k, value in expected.items():
    # The schedule is computed in float32.
    np.testing.assert_allclose(params[k], value, rtol=1e-6)


def test_long_gradients_are_clipped(optimizer):
  clipped = optimizer(name="rmsprop", clip_norm=1.0)
  plain = optimizer(name="rmsprop")
  params = jnp.zeros(2)
  for gradient, scale in (([30.0, 40.0], 50), ([0.3, 0.4], 1)):
    gradient = jnp.asarray(gradient)
    found, _ = clipped.update(gradient, clipped.init(params), params)
    expected, _ = plain.update(gradient / scale, plain.init(params), params)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_step_schedule_is_a_tenth_from_half_of_the_steps_on(optimizer):
  optimizer = optimizer(name="rmsprop", schedule="step", total_steps=4)
  params = jnp.ones(2)
  state, lengths = optimizer.init(params), []
  plain = training.make_optimizer(
    base.get_config().optimizer.to_dict() | {"name": "rmsprop"}, 8, 4
  )
  plain_state = plain.init(params)
  for _ in range(4):
    updates, state = optimizer.update(params, state, params)
    expected, plain_state = plain.update(params, plain_state, params)
    lengths.append(updates / expected)
  np.testing.assert_allclose(np.array(lengths)[:, 0], [1, 1, 0.1, 0.1], rtol=1e-5)


@pytest.mark.parametrize("total_steps", [1, 2, 5])
def test_one_cycle_of_few_steps_is_finite(total_steps, optimizer):
  optimizer = optimizer(schedule="one_cycle", total_steps=total_steps)
  params = jnp.ones(2)
  state = optimizer.init(params)
  for _ in range(total_steps):
    updates, state = optimizer.update(jnp.ones(2), state, params)
    assert np.all(np.isfinite(updates)) and np.all(updates < 0)


def test_interrupted_cycle_ends_bit_identical(toy, tmp_path):
  fields = {"schedule": "one_cycle", "weight_decay": 0.1, "clip_norm": 0.5}
  whole = run(toy, tmp_path / "whole", fields=fields)
  with pytest.raises(Killed):
    run(toy, tmp_path / "cut", stop_after=8, fields=fields)
  cut = run(toy, tmp_path / "cut", fields=fields)
  chex.assert_trees_all_equal(cut.params, whole.params)
  chex.assert_trees_all_equal(cut.opt_state, whole.opt_state)


@pytest.mark.parametrize(
  ("fields", "batch_size", "message"),
  [
    ({"name": "adm"}, 8, "Did you mean 'adam'"),
    ({"name": "lbfgs"}, 8, "config.batch_size: found 8, expected 0"),
    ({"schedule": "onecycle"}, 8, "Did you mean 'one_cycle'"),
    ({"clip_norm": 0.0}, 8, "config.optimizer.clip_norm: found 0.0, expected more"),
    (
      {"name": "lbfgs", "schedule": "one_cycle"},
      0,
      "schedule: found 'one_cycle', expected 'constant' with the optimizer lbfgs",
    ),
    ({"name": "lbfgs", "clip_norm": 1.0}, 0, "clip_norm: found 1.0, expected None"),
  ],
)
def test_make_optimizer_says_what_is_wrong(fields, batch_size, message, optimizer):
  with pytest.raises(ZsljaxError, match=message):
    optimizer(batch_size, **fields)


def test_mesh_and_batch_must_fit():
  with pytest.raises(ZsljaxError, match="config.mesh.data: found 9, expected -1 or"):
    make_mesh(9)
  with pytest.raises(ZsljaxError, match="config.batch_size: found 6"):
    training.check_divides(6, make_mesh(4), "config.batch_size")
