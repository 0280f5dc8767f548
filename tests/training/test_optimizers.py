import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zsljax.errors import ZsljaxError


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_is_the_one_of_pytorch(momentum, optimizer, float64):
  """The documented rule, in a loop: coupled decay, epsilon outside the root."""
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


@pytest.mark.parametrize(
  ("schedule", "biases"),
  [("constant", False), ("constant", True), ("one_cycle", False)],
)
def test_adam_is_the_released_recipe(schedule, biases, optimizer, float64):
  """Coupled decay, of biases where asked; in one cycle the first moment's decay too."""
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
    decay_biases=biases,
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
      if k == "kernel" or biases:
        gradient = gradient + decay * expected[k]
      first[k] = b1 * first[k] + (1 - b1) * gradient
      second[k] = 0.999 * second[k] + 0.001 * gradient**2
      mean = first[k] / (1 - b1 ** (step + 1))
      deviation = np.sqrt(second[k] / (1 - 0.999 ** (step + 1)))
      expected[k] = expected[k] - lr * mean / (deviation + 1e-8)
  for k, value in expected.items():
    # The schedule is computed in float32.
    np.testing.assert_allclose(params[k], value, rtol=1e-6)


def test_clipping_and_the_step_schedule_scale_updates(optimizer):
  plain = optimizer(name="rmsprop", total_steps=4)
  clipped = optimizer(name="rmsprop", total_steps=4, clip_norm=1.0)
  params = jnp.ones(2)
  for gradient, scale in ((jnp.array([30.0, 40.0]), 50), (jnp.array([0.3, 0.4]), 1)):
    found, _ = clipped.update(gradient, clipped.init(params), params)
    expected, _ = plain.update(gradient / scale, plain.init(params), params)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
  falling = optimizer(name="rmsprop", schedule="step", total_steps=4)
  state, plain_state, scales = falling.init(params), plain.init(params), []
  for _ in range(4):
    updates, state = falling.update(params, state, params)
    expected, plain_state = plain.update(params, plain_state, params)
    scales.append(updates[0] / expected[0])
  np.testing.assert_allclose(scales, [1, 1, 0.1, 0.1], rtol=1e-5)


@pytest.mark.parametrize("total_steps", [1, 2, 5])
def test_one_cycle_of_few_steps_is_finite(total_steps, optimizer):
  optimizer = optimizer(schedule="one_cycle", total_steps=total_steps)
  params = jnp.ones(2)
  state = optimizer.init(params)
  for _ in range(total_steps):
    updates, state = optimizer.update(jnp.ones(2), state, params)
    assert np.all(np.isfinite(updates)) and np.all(updates < 0)


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
