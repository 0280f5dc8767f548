import chex
import jax
import numpy as np
import optax
import pytest

from zsljax import training
from zsljax.devices.mesh import make_mesh, replicated
from zsljax.models import Batch


@pytest.fixture
def ready(toy, optimizer):
  """The toy system with its optimizer, state, batches on a device, and classes."""
  system, spec, classes, batches = toy
  optimizer = optimizer(learning_rate=1e-2)
  state = training.init_state(system, optimizer, spec, 0)
  state, classes = jax.device_put((state, classes), replicated(make_mesh(1)))
  return (
    system,
    optimizer,
    state,
    training.feed(batches.batches(0), make_mesh(1), 32),
    classes,
  )


def test_step_is_traced_once_and_the_check_for_it_fires(ready):
  system, optimizer, state, stream, classes = ready
  step = training.make_train_step(system, optimizer)
  counted = jax.jit(chex.assert_max_traces(step, n=1))
  for _ in range(3):
    state, _ = counted(state, next(stream), classes)
  batch = next(stream)
  half = Batch(batch.features[:4], batch.labels[:4], batch.mask[:4], 32)
  with pytest.raises(AssertionError, match="traced"):
    counted(state, half, classes)


@pytest.mark.slow
def test_converged_step_changes_nothing(ready):
  system, optimizer, state, stream, classes = ready
  batch = next(stream)
  for tolerance, converged in ((1e9, True), (1e-9, False)):
    step = training.make_train_step(system, optimizer, tolerance)
    new, metrics = step(state, batch, classes)
    assert bool(metrics["converged"]) == converged
    same = np.array_equal(
      new.params["prototypes"]["kernel"], state.params["prototypes"]["kernel"]
    )
    assert same == converged and int(new.step) == (not converged)


def test_metrics_are_of_the_parameters_before_the_update(ready):
  system, optimizer, state, stream, classes = ready
  batch = next(stream)
  _, metrics = training.make_train_step(system, optimizer)(state, batch, classes)
  (loss, parts), gradient = jax.jit(
    jax.value_and_grad(lambda p: system.loss(p, batch, classes, None), has_aux=True)
  )(state.params)
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
  assert parts.keys() <= metrics.keys()
  np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(gradient), rtol=1e-5)
