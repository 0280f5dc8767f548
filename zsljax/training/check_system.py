"""The contract of a system, checked on random images and classes."""

from __future__ import annotations

import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zsljax.classes import ClassSpace
from zsljax.devices.mesh import make_mesh, over_batch, replicated
from zsljax.errors import require
from zsljax.models import MULTI_LABEL, AttendsToRegions, Batch, Spec, System
from zsljax.models.registry import check_shapes, where_written
from zsljax.training.checkpoints import Checkpoints, abstract
from zsljax.training.state import init_state, warm_start, without_params
from zsljax.training.step import make_train_step

_IMAGES, _MASKED, _UNSEEN = 12, 4, 2
_OPTIMIZER = optax.with_extra_args_support(optax.adam(1e-3))


def check_system(system: System, spec: Spec | None = None) -> list[str]:
  """Checks what training and evaluation rely on, on random images and classes.

  Args:
    system: with the settings that are to be checked.
    spec: sizes of images and classes; by default 6 classes with 5 attributes that have
      word vectors, and 4 regions an image where the system attends to regions.

  Returns:
    A line for each thing that holds. Two devices need two: on a CPU call
    ``jax.config.update("jax_num_cpu_devices", 2)`` before all else.

  Raises:
    ZsljaxError: something does not hold; the message names it.
  """
  rng = np.random.default_rng(0)
  if spec is None:
    shape = (4, 8) if isinstance(system, AttendsToRegions) else (8,)
    spec = Spec(shape, 5, 6, rng.standard_normal((5, 7)).astype(np.float32))
  classes = ClassSpace.create(
    [f"class {i}" for i in range(spec.num_classes)],
    rng.uniform(0, 1, (spec.num_classes, spec.num_attributes)).astype(np.float32),
    seen=np.arange(spec.num_classes) < spec.num_classes - _UNSEEN,
    attribute_vectors=spec.attribute_vectors,
  ).without_names()
  check_shapes(system, spec, classes)
  return _Check(system, spec, classes).lines()


class _Check:
  """A system with a trained state, images and classes."""

  def __init__(self, system: System, spec: Spec, classes: ClassSpace):
    self.system, self.spec, self.classes = system, spec, classes
    self.where = where_written(system)
    self.key = jax.random.key(1)
    self.batch = self._batch(padding_from=1)
    self.step = jax.jit(make_train_step(system, _OPTIMIZER))
    self.loss, self.scores = jax.jit(self._loss), jax.jit(system.scores)
    self.start = jax.jit(self._start)
    self.state = self.start(self.batch)

  def lines(self) -> list[str]:
    """Checks everything; a line for each thing that holds."""
    held = []
    for check in (
      self._finite,
      self._alone,
      self._order,
      self._padding,
      self._resumed,
      self._two_devices,
    ):
      if line := check():
        held.append(line)
    return held

  def _batch(self, padding_from: int) -> Batch:
    """Images whose last rows are padding of other content for each seed."""
    rng, padding = np.random.default_rng(0), np.random.default_rng(padding_from)
    several = self.system.task == MULTI_LABEL
    seen = np.flatnonzero(self.classes.seen)
    shape = (_IMAGES, 2) if several else (_IMAGES,)
    labels = seen[np.arange(np.prod(shape)) % len(seen)].reshape(shape)
    features = rng.uniform(0, 1, (_IMAGES, *self.spec.feature_shape))
    features[-_MASKED:] = padding.uniform(0, 1, features[-_MASKED:].shape)
    labels[-_MASKED:] = padding.choice(seen, labels[-_MASKED:].shape)
    mask = np.arange(_IMAGES) < _IMAGES - _MASKED
    return Batch(
      jnp.asarray(features, jnp.float32),
      jnp.asarray(labels, jnp.int32),
      jnp.asarray(mask),
      _IMAGES - _MASKED,
    )

  def _start(self, batch: Batch):
    state = init_state(self.system, _OPTIMIZER, self.spec, 0)
    return warm_start(self.system, _OPTIMIZER, state, batch, self.classes)

  def _loss(self, params: Any, batch: Batch, classes: ClassSpace) -> tuple:
    """The loss with its parts, and its gradient."""

    def loss(params):
      return self.system.loss(params, batch, classes, self.key)

    return jax.value_and_grad(loss, has_aux=True)(params)

  def _require_close(self, what: str, found: Any, expected: Any) -> None:
    """Raises unless two trees agree up to the rounding of sums."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
      a, b = np.asarray(a), np.asarray(b)
      scale = np.abs(b).max(initial=1e-6)
      apart = np.abs(a - b).max(initial=0) / scale
      found_ = f"values that differ by {apart:.1e} of the largest"
      require(apart < 1e-3, f"{self.where}: {what}", found_, "the same values")

  def _finite(self) -> str:
    params = self.state.params
    (loss, parts), gradient = self.loss(params, self.batch, self.classes)
    scores = self.scores(params, self.batch.features, self.classes)
    for name, tree in {
      "loss": loss,
      "parts of the loss": parts,
      "gradient of the loss": gradient,
      "scores": scores,
    }.items():
      finite = all(np.isfinite(x).all() for x in jax.tree.leaves(tree))
      require(finite, f"{self.where}: {name}", "NaN or infinity", "finite numbers")
    return "loss, its gradient and scores are finite, and of the right shapes"

  def _alone(self) -> str:
    scores = self.scores(self.state.params, self.batch.features, self.classes)
    alone = self.scores(self.state.params, self.batch.features[:1], self.classes)
    self._require_close("scores of an image alone and among others", alone, scores[:1])
    return "scores of an image do not depend on the other images"

  def _order(self) -> str:
    order = np.random.default_rng(0).permutation(len(self.classes))
    turned = self.classes.subset(order)
    losses = [
      self.loss(self.state.params, self.batch, c) for c in (turned, self.classes)
    ]
    self._require_close("loss with classes in another order", *losses)
    features = self.batch.features
    self._require_close(
      "scores with classes in another order",
      self.scores(self.state.params, features, turned),
      self.scores(self.state.params, features, self.classes)[:, order],
    )
    return "the order of classes changes nothing"

  def _padding(self) -> str:
    other = self._batch(padding_from=2)
    self._require_close(
      "warm_start with other content in masked rows",
      self.start(other).params,
      self.state.params,
    )
    losses = [
      self.loss(self.state.params, b, self.classes) for b in (other, self.batch)
    ]
    self._require_close("loss with other content in masked rows", *losses)
    return "masked rows count for nothing"

  def _resumed(self) -> str:
    state = self.state
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = abstract(state, jax.tree.map(lambda _: here, state))
    with tempfile.TemporaryDirectory() as folder:
      checkpoints = Checkpoints(pathlib.Path(folder), {})
      for step in range(1, 4):
        state, _ = self.step(state, self.batch, self.classes)
        if step == 1:
          checkpoints.save(1, state.params, without_params(state))
          checkpoints.wait()
      params, rest = checkpoints.restore(target.params, without_params(target), 1)
      checkpoints.close()
    resumed = type(state)(params=params, **rest)
    for _ in range(2):
      resumed, _ = self.step(resumed, self.batch, self.classes)
    for a, b in zip(
      jax.tree.leaves(resumed.params), jax.tree.leaves(state.params), strict=True
    ):
      require(
        np.array_equal(a, b),
        f"{self.where}: parameters after a restart from a checkpoint",
        "other values",
        "the same bits: are all functions pure?",
      )
    return "a run that is resumed ends in the same bits"

  def _two_devices(self) -> str:
    if len(jax.devices()) < 2:
      return ""
    mesh = make_mesh(data=2)
    batch = jax.device_put(self.batch, over_batch(mesh))
    params, classes = jax.device_put(
      (self.state.params, self.classes), replicated(mesh)
    )
    self._require_close(
      "loss on two devices",
      self.loss(params, batch, classes),
      self.loss(self.state.params, self.batch, self.classes),
    )
    return "two devices compute what one does"
