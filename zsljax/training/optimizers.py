"""The optimizers that a config can name."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from zsljax.errors import require, require_known

SCHEDULES = ("constant", "one_cycle", "step")
# Of the steps of one_cycle, the share in which the rate rises.
_RISE = 0.1


def lbfgs(config: Mapping[str, Any], total_steps: int) -> optax.GradientTransformation:
  """L-BFGS with a zoom line search; needs the whole training set each step."""
  del total_steps
  return optax.lbfgs(memory_size=config["memory"])


def adam(config: Mapping[str, Any], total_steps: int) -> optax.GradientTransformation:
  """Adam (Kingma & Ba 2015).

  The L2 weight decay is part of the gradient (not decoupled as in AdamW) and leaves
  biases and other vectors out, unless ``decay_biases`` takes them in. In one cycle the
  decay of the first moment falls from 0.95 to 0.85 while the rate rises, and then
  returns, as PyTorch's OneCycleLR does.
  """
  decay = optax.add_decayed_weights(
    config["weight_decay"],
    lambda params: jax.tree.map(lambda p: p.ndim > 1 or config["decay_biases"], params),
  )
  rate = _rate(config, total_steps)
  if config["schedule"] != "one_cycle":
    return optax.chain(decay, optax.adam(rate))
  b1 = _cycle(0.95, 0.85, 0.95, total_steps)
  return optax.chain(decay, optax.inject_hyperparams(optax.adam)(rate, b1=b1))


def rmsprop(
  config: Mapping[str, Any], total_steps: int
) -> optax.GradientTransformation:
  """RMSprop as PyTorch defines it, with its decay of the squares (0.99).

  The L2 weight decay is part of the gradient; epsilon stands outside the root;
  momentum gathers preconditioned gradients.
  """
  return optax.chain(
    optax.add_decayed_weights(config["weight_decay"]),
    optax.rmsprop(
      _rate(config, total_steps),
      decay=0.99,
      eps=1e-8,
      eps_in_sqrt=False,
      momentum=config["momentum"] or None,
    ),
  )


def _rate(config: Mapping[str, Any], total_steps: int) -> optax.ScalarOrSchedule:
  """The learning rate; in one cycle (Smith & Topin 2019) it is that of the peak."""
  peak = config["learning_rate"]
  if config["schedule"] == "constant":
    return peak
  if config["schedule"] == "step":
    return optax.piecewise_constant_schedule(peak, {total_steps // 2: 0.1})
  # PyTorch's defaults for the ends.
  return _cycle(peak / 25, peak, peak / 25e4, total_steps)


def _cycle(start: float, middle: float, end: float, total_steps: int) -> optax.Schedule:
  """Half cosines from ``start`` to ``middle`` to ``end``, as PyTorch counts steps.

  The middle is at step ``_RISE * total_steps - 1``, a fraction, the end at the last.
  """
  turn = max(_RISE * total_steps - 1, 0)
  fall = max(total_steps - 1 - turn, 1)

  def value(step):
    rises = step < turn
    share = jnp.where(rises, step / (turn or 1), jnp.minimum((step - turn) / fall, 1))
    begin, to = jnp.where(rises, start, middle), jnp.where(rises, middle, end)
    return to + (begin - to) / 2 * (1 + jnp.cos(jnp.pi * share))

  return value


OPTIMIZERS = {"adam": adam, "lbfgs": lbfgs, "rmsprop": rmsprop}


def make_optimizer(
  config: Mapping[str, Any], batch_size: int, total_steps: int
) -> optax.GradientTransformationExtraArgs:
  """The optimizer of a config's ``optimizer`` part.

  Args:
    config: ``name`` and the fields that its function above reads.
    batch_size: of the run; 0 is the whole training set.
    total_steps: of the run.

  Raises:
    ZsljaxError: unknown name or schedule, or L-BFGS on minibatches.
  """
  for field, known in (("name", OPTIMIZERS), ("schedule", SCHEDULES)):
    require_known(config[field], known, f"config.optimizer.{field}")
  name = config["name"]
  require(
    name != "lbfgs" or not batch_size,
    "config.batch_size",
    batch_size,
    "0 (the whole training set) with the optimizer lbfgs",
  )
  clip = config["clip_norm"]
  require(
    clip is None or clip > 0, "config.optimizer.clip_norm", clip, "more than 0, or None"
  )
  for field, plain in (("schedule", "constant"), ("clip_norm", None)):
    require(
      name != "lbfgs" or config[field] == plain,
      f"config.optimizer.{field}",
      repr(config[field]),
      f"{plain!r} with the optimizer lbfgs, which has a line search",
    )
  optimizer = OPTIMIZERS[name](config, total_steps)
  if clip is not None:
    optimizer = optax.chain(optax.clip_by_global_norm(clip), optimizer)
  return optax.with_extra_args_support(optimizer)
