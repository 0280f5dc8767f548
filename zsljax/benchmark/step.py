"""A compiled training step on random data, and its useful operations and bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zsljax.benchmark.ceilings import Product, flops_in, products_in
from zsljax.benchmark.program import Cost, Program
from zsljax.benchmark.shapes import (
  NUM_EXAMPLES,
  random_classes,
  random_table,
  rows_of,
)
from zsljax.devices.mesh import over_classes, replicated
from zsljax.errors import require
from zsljax.models import MULTI_LABEL, Batch, Spec, System
from zsljax.training import init_state, make_train_step, to_mesh
from zsljax.training.inputs import with_lengths

# Of all steps that are measured or compiled.
OPTIMIZER = optax.with_extra_args_support(optax.adam(1e-4))


@dataclasses.dataclass(frozen=True)
class Step:
  """A compiled step that keeps its state.

  Attributes:
    call: takes one step, on a batch or on the random one, and returns its loss.
    batch: the random batch.
    products: the matrix products of the step, and the number of each.
    costs: of the compiled instructions, on each device.
    figures: ``compile_seconds``; ``bytes_per_device`` that the compiler plans,
      ``arguments`` (state and batch, overwritten by the next state) and
      ``temporaries``; and ``useful_bytes_per_step``, which any step must move: features
      are read forward and backward, the state is read and written once. Activations
      are not counted: they could stay on the chip.
  """

  call: Callable[..., jax.Array]
  batch: Batch
  products: dict[Product, int]
  costs: list[Cost]
  figures: dict[str, Any]


def useful_flops(
  system: System, spec: Spec, batch_size: int, num_seen: int | None = None
) -> float:
  """Counts the operations of one gradient of a system's loss.

  The count is of additions and multiplications in the matrix products and convolutions
  of the program that JAX traces; nothing is computed. Three quarters of the classes are
  seen when ``num_seen`` is None.
  """
  labels = (batch_size, 1) if system.task == MULTI_LABEL else (batch_size,)
  batch = Batch(
    jax.ShapeDtypeStruct((batch_size, *spec.feature_shape), jnp.float32),
    jax.ShapeDtypeStruct(labels, jnp.int32),
    jax.ShapeDtypeStruct((batch_size,), bool),
    NUM_EXAMPLES,
  )
  key, classes = jax.random.key(0), random_classes(spec, num_seen)
  params = jax.eval_shape(lambda: system.init(key, spec))
  gradient = jax.value_and_grad(system.loss, has_aux=True)
  return flops_in(gradient, params, batch, classes, key)


def make_step(
  system: System,
  spec: Spec,
  batch_size: int,
  dtype: Any,
  num_seen: int | None,
  label_widths: Mapping[str, int] | None,
  mesh: jax.sharding.Mesh,
  seeds: int,
) -> Step:
  """Compiles a training step on random features, with Adam.

  ``seeds`` runs are trained together, each on a batch of its own. For the other
  arguments see ``random_table``.
  """
  require(seeds == 1 or mesh.size == 1, "--seeds", seeds, "1 with more than one device")
  classes = random_classes(spec, num_seen)
  table = random_table(
    system, spec, seeds * batch_size, int(classes.seen.sum()), dtype, label_widths
  )
  rows = np.arange(seeds * batch_size)
  host = rows_of(table, rows.reshape(seeds, -1) if seeds > 1 else rows)
  batch = with_lengths(to_mesh(host, mesh, NUM_EXAMPLES))
  classes = jax.device_put(classes, replicated(mesh))
  initial = functools.partial(init_state, system, OPTIMIZER, spec)
  train_step, seed = make_train_step(system, OPTIMIZER, mesh=mesh), 0
  if seeds > 1:
    initial, seed = jax.vmap(initial), jnp.arange(seeds)
    train_step = jax.vmap(train_step, (0, 0, None))
  layout = over_classes(jax.eval_shape(initial, seed), system.class_params, mesh)
  state = jax.jit(initial, out_shardings=layout)(seed)
  start = time.perf_counter()
  compiled = (
    jax.jit(train_step, donate_argnums=0, out_shardings=(layout, replicated(mesh)))
    .lower(state, batch, classes)
    .compile()
  )
  compile_seconds = time.perf_counter() - start
  planned = compiled.memory_analysis()
  assert planned is not None
  state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
  figures = {
    "compile_seconds": compile_seconds,
    "bytes_per_device": {
      "arguments": planned.argument_size_in_bytes,
      "temporaries": planned.temp_size_in_bytes,
    },
    "useful_bytes_per_step": 2.0 * (batch.features.nbytes + state_bytes),
  }

  def call(batch: Batch = batch) -> jax.Array:
    nonlocal state
    state, metrics = compiled(state, batch, classes)
    return metrics["loss"]

  products = products_in(train_step, state, batch, classes)
  costs = Program(compiled.as_text(), jax.default_backend()).costs()
  return Step(call, batch, products, costs, figures)
