"""A training step on random data, compiled, with what is known of it beforehand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zsljax.benchmark.ceilings import Product, products_in
from zsljax.benchmark.shapes import (
  NUM_EXAMPLES,
  random_classes,
  random_table,
  rows_of,
)
from zsljax.devices.mesh import make_mesh, over_classes, replicated
from zsljax.devices.precision import computed_in, supported
from zsljax.errors import require
from zsljax.models import Batch, Spec, System
from zsljax.training import (
  init_state,
  make_train_step,
  to_mesh,
)

ATTENTION = ("xla", "pallas")


@contextlib.contextmanager
def computed_with(precision: str, attention: str = "xla"):
  """Within it, what is traced takes its matrix products and its attention so.

  Raises:
    ZsljaxError: the devices do not compute in this precision; another in its place
      would falsify a measurement.
  """
  known = supported()
  require(
    precision in known, "--precision", repr(precision), f"{' or '.join(known)} here"
  )
  require(attention in ATTENTION, "--attention", repr(attention), "xla or pallas")
  with computed_in(precision):
    yield


@dataclasses.dataclass(frozen=True)
class Step:
  """A compiled step that keeps its state.

  Attributes:
    call: takes one step, on a batch or on the random one, and returns its loss.
    compile_seconds: how long compilation took.
    bytes_per_device: of memory, as the compiler plans it: ``arguments`` (state and
      batch, written over by the next state) and ``temporaries``.
    products: the matrix products of loss and gradient, and how often each.
    state_bytes: of parameters, optimizer and random key.
    feature_bytes: of one batch.
    batch: the random one.
  """

  call: Callable[..., jax.Array]
  compile_seconds: float
  bytes_per_device: dict[str, int]
  products: dict[Product, int]
  state_bytes: int
  feature_bytes: int
  batch: Batch

  @property
  def least_bytes(self) -> float:
    """What any step must move: features read forward and backward, the state read and
    written once. Activations are not counted: they could stay on the chip."""
    return 2.0 * (self.feature_bytes + self.state_bytes)


def make_step(
  system: System,
  spec: Spec,
  batch_size: int,
  dtype: Any = jnp.float32,
  num_seen: int | None = None,
  label_widths: Mapping[str, int] | None = None,
  mesh: jax.sharding.Mesh | None = None,
  seeds: int = 1,
) -> Step:
  """A training step on random features, with Adam.

  Args:
    system: what is trained.
    spec: shapes of features and classes.
    batch_size: images in a step.
    dtype: of the features.
    num_seen: of the classes; three quarters when None.
    label_widths: of a stored multi-label set's columns.
    mesh: the devices; one when None.
    seeds: runs that are trained together, each on a batch of its own.
  """
  mesh = mesh or make_mesh(1)
  require(seeds == 1 or mesh.size == 1, "--seeds", seeds, "1 with more than one device")
  classes = random_classes(spec, num_seen)
  table = random_table(
    system, spec, seeds * batch_size, int(classes.seen.sum()), dtype, label_widths
  )
  rows = np.arange(seeds * batch_size)
  batch = to_mesh(
    rows_of(table, rows.reshape(seeds, -1) if seeds > 1 else rows), mesh, NUM_EXAMPLES
  )
  classes = jax.device_put(classes, replicated(mesh))
  optimizer = optax.with_extra_args_support(optax.adam(1e-4))
  initial = functools.partial(init_state, system, optimizer, spec)
  train_step = make_train_step(system, optimizer)
  numbers = 0
  if seeds > 1:
    initial = jax.vmap(initial)
    train_step = jax.vmap(train_step, (0, 0, None))
    numbers = jnp.arange(seeds)
  layout = over_classes(jax.eval_shape(initial, numbers), system.class_params, mesh)
  state = jax.jit(initial, out_shardings=layout)(numbers)
  start = time.perf_counter()
  compiled = (
    jax.jit(train_step, donate_argnums=0, out_shardings=(layout, replicated(mesh)))
    .lower(state, batch, classes)
    .compile()
  )
  compile_seconds = time.perf_counter() - start
  planned = compiled.memory_analysis()
  products = products_in(train_step, state, batch, classes)
  state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))

  def call(batch: Batch = batch) -> jax.Array:
    nonlocal state
    state, metrics = compiled(state, batch, classes)
    return metrics["loss"]

  return Step(
    call,
    compile_seconds,
    {
      "arguments": planned.argument_size_in_bytes,
      "temporaries": planned.temp_size_in_bytes,
    },
    products,
    state_bytes,
    batch.features.nbytes,
    batch,
  )
