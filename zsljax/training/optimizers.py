"""The optimizers that a config can name."""

from collections.abc import Mapping
from typing import Any

import optax

from zsljax.errors import ZsljaxError, did_you_mean, require


def lbfgs(config: Mapping[str, Any]) -> optax.GradientTransformation:
  """L-BFGS with a zoom line search; needs the whole training set each step."""
  return optax.lbfgs(memory_size=config["memory"])


def adam(config: Mapping[str, Any]) -> optax.GradientTransformation:
  """Adam (Kingma & Ba 2015) at a constant rate."""
  return optax.adam(config["learning_rate"])


def rmsprop(config: Mapping[str, Any]) -> optax.GradientTransformation:
  """RMSprop as PyTorch defines it, with its decay of the squares (0.99).

  The L2 weight decay is part of the gradient; epsilon stands outside the root;
  momentum gathers preconditioned gradients.
  """
  return optax.chain(
    optax.add_decayed_weights(config["weight_decay"]),
    optax.rmsprop(
      config["learning_rate"],
      decay=0.99,
      eps=1e-8,
      eps_in_sqrt=False,
      momentum=config["momentum"] or None,
    ),
  )


OPTIMIZERS = {"adam": adam, "lbfgs": lbfgs, "rmsprop": rmsprop}


def make_optimizer(
  config: Mapping[str, Any], batch_size: int
) -> optax.GradientTransformationExtraArgs:
  """The optimizer of a config's ``optimizer`` part.

  Args:
    config: ``name`` and the fields that its function above reads.
    batch_size: of the run; 0 is the whole training set.

  Raises:
    ZsljaxError: unknown name, or L-BFGS on minibatches.
  """
  name = config["name"]
  if name not in OPTIMIZERS:
    raise ZsljaxError(
      f"config.optimizer.name: unknown optimizer {name!r}. "
      f"{did_you_mean(name, OPTIMIZERS)}"
    )
  require(
    name != "lbfgs" or not batch_size,
    "config.batch_size",
    batch_size,
    "0 (the whole training set) with the optimizer lbfgs",
  )
  return optax.with_extra_args_support(OPTIMIZERS[name](config))
