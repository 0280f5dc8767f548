import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax import training
from zsljax.data import TrainingData, open_dataset
from zsljax.devices.mesh import make_mesh
from zsljax.errors import ZsljaxError
from zsljax.training import inputs as inputs_module


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
  """The batch of each of ``steps`` steps, through the calls that training makes."""
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


@pytest.mark.parametrize(
  ("devices", "split"),
  [(1, False), pytest.param(4, False, marks=pytest.mark.slow), (4, True)],
)
@pytest.mark.parametrize(
  "sampling",
  [
    "epochs",
    "class_balanced",
    *(pytest.param(x, marks=pytest.mark.slow) for x in ("whole_epochs", "independent")),
  ],
)
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
    mask = expected.mask
    np.testing.assert_array_equal(found.mask, mask)
    of_images = jax.tree.map(lambda x, m=mask: x[m], (found, expected))
    chex.assert_trees_all_equal(*of_images)
    chex.assert_trees_all_equal_dtypes(found, expected)


def test_pieces_end_where_the_run_is_saved():
  table = {"features": np.zeros((4, 2)), "labels": np.zeros(4, np.int32)}
  rows = itertools.repeat(np.arange(2))
  inputs = training.DeviceInputs(lambda: table, lambda start: rows, make_mesh(1), 4, 5)
  schedule = training.Schedule(total_steps=17, log_every=1, save_every=7)
  pieces = inputs.pieces(3, schedule.stop)
  assert [next(pieces)[1] for _ in range(4)] == [4, 5, 2, 3]


@pytest.mark.parametrize("devices", [1, 4])
def test_regions_on_the_devices_have_their_lengths(devices):
  features = np.random.default_rng(0).standard_normal((7, 3, 5)).astype(np.float16)
  table = {"features": features, "labels": np.arange(7)}
  rows = itertools.repeat(np.array([6, -1, 0, 2]))
  inputs = training.DeviceInputs(
    lambda: table,
    lambda start: rows,
    make_mesh(devices),
    7,
    2,
    7 * (devices > 1) or None,
  )
  batch = taken(inputs, make_mesh(devices), 0, 1)[0]
  picked = features[[6, 0, 2]].astype(np.float32)
  expected = 1 / np.linalg.norm(picked, axis=-1, keepdims=True)
  np.testing.assert_allclose(batch.inverse_lengths[batch.mask], expected, rtol=1e-6)


def test_resident_table_must_fit(monkeypatch):
  monkeypatch.setattr(inputs_module, "free_memory", lambda mesh: 200)
  table = {"features": np.zeros((10, 6), np.float32)}
  with pytest.raises(ZsljaxError, match="0.24 kB .* 0.2 kB, which are free there"):
    training.DeviceTable.placed(table, make_mesh(1))
  table["labels"] = np.zeros(10, np.int32)
  with pytest.raises(ZsljaxError, match="images to be scored: found 0.28 kB"):
    training.DeviceImages.placed(table, 5, make_mesh(1), 10)


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


def test_mesh_and_batch_must_fit():
  with pytest.raises(ZsljaxError, match="config.mesh.data: found 9, expected -1 or"):
    make_mesh(9)
  with pytest.raises(ZsljaxError, match="config.batch_size: found 6"):
    training.check_divides(6, make_mesh(4), "config.batch_size")
