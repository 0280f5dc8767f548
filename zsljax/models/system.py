"""The contract of a system.

A system is a function of features and a class space. Whatever stands downstream
(training, evaluation, prediction) uses only what is declared here.
"""

from __future__ import annotations

from collections.abc import Mapping
import copy
import dataclasses
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from zsljax.classes import ClassSpace
from zsljax.errors import require

Array = jax.Array
Params = Any


@dataclasses.dataclass(frozen=True)
class Spec:
  """Shapes and word vectors of a dataset, from which a system makes its parameters.

  Attributes:
    feature_shape: of one example: ``(D,)`` pooled or ``(R, D)`` regions.
    num_attributes: A, the width of the class embeddings.
    num_classes: C, for systems that learn a weight per class.
    attribute_vectors: word vectors ``[A, V]``, for systems that learn from them.
    stage: numbers of a stage that was fitted to training features
      (``zsljax.models.stage.Stage.fitted``).
  """

  feature_shape: tuple[int, ...]
  num_attributes: int
  num_classes: int
  attribute_vectors: np.ndarray | None = None
  stage: Any = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """Examples of one step.

  Attributes:
    features: ``[B, D]`` or ``[B, R, D]``.
    labels: class ids, ``[B]``; of a multi-label set those present, ``[B, M]``, padded
      with -1 (``zsljax.data.labels.padded_ids`` makes them of ``[B, C]``).
    mask: which rows are examples and which padding, ``[B]`` bool.
    num_examples: N, the size of the training set that the batch comes from, static
      (a traced number where a batch is made and used inside one traced function);
      terms that a paper sums over the training set are N times the mean.
    absent: class ids annotated as absent, ``[B, Q]``, padded with -1; None where the
      set annotates no absences.
    inverse_lengths: of regions, ``[B, R, 1]``, in training: a set on the devices has
      them once, so that no step reads the features for them. None where a system
      computes them.
  """

  features: Array
  labels: Array
  mask: Array
  num_examples: Array | int = dataclasses.field(metadata={"static": True})
  absent: Array | None = None
  inverse_lengths: Array | None = None

  def astype(self, dtype: jnp.dtype) -> Batch:
    """Returns the batch with its features converted."""
    return dataclasses.replace(self, features=self.features.astype(dtype))


# Tasks of a system: one label an image, with unseen classes; any number of labels an
# image; or one label an image and no class but those of training, where embeddings
# are evaluated.
SINGLE_LABEL, MULTI_LABEL, CLOSED_SET = "single_label", "multi_label", "closed_set"


_IN_RANGE = {
  "0 or more": lambda x: x >= 0,
  "more than 0": lambda x: x > 0,
  "1 or more": lambda x: x >= 1,
  "between 0 and 1": lambda x: 0 <= x <= 1,
  "between -1 and 0": lambda x: -1 <= x <= 0,
}


class System(Protocol):
  """One published method.

  A system is a frozen dataclass of hyper-parameters that holds no arrays, decorated
  with ``register``. It writes ``init``, ``prepare``, ``score`` and ``loss``; the other
  functions and class variables have defaults where it inherits from this class. All
  functions are pure and are traced by JAX. Two further abilities are optional, each a
  protocol of its own: ``Embeds`` and ``AttendsToRegions``.

  Shapes: B images, C classes of a class space, D width of a feature, R regions, A
  attributes.

  Attributes:
    name: the value of ``config.system.name`` that selects the system.
    presets: by a preset's name, the fields in which the paper and the authors' code
      differ. A config that leaves such a field None takes the preset's value. The
      preset ``paper`` is the one taken when a config names none.
    task: ``SINGLE_LABEL``, ``MULTI_LABEL`` or ``CLOSED_SET``.
    class_params: names of parameters with a row for each class id, which may lie split
      over devices.
    full_batch: True if it needs all training images at once, ``config.batch_size=0``.
    vmappable: fields that enter the equations as plain numbers, so that runs trained
      together may differ in them (``with_fields``).
  """

  name: ClassVar[str]
  presets: ClassVar[Mapping[str, Mapping[str, Any]]]
  class_params: ClassVar[tuple[str, ...]] = ()
  full_batch: ClassVar[bool] = False

  # Properties, so that a system's fields may decide; a class variable does as well.
  @property
  def task(self) -> str:
    return SINGLE_LABEL

  @property
  def vmappable(self) -> tuple[str, ...]:
    return ()

  def with_fields(self, fields: Mapping[str, Array]) -> System:
    """Returns the system with some ``vmappable`` fields replaced by traced ones.

    Their range is not checked: build the system with each value once before.
    """
    changed = copy.copy(self)
    for field, value in fields.items():
      object.__setattr__(changed, field, value)
    return changed

  def init(self, rng: Array, spec: Spec) -> Params:
    """Makes the initial parameters, a pytree of arrays.

    Args:
      rng: a random key.
      spec: shapes of features and classes.

    Raises:
      ZsljaxError: the dataset lacks something that the system needs.
    """

  def check_fields(self, **expected: str | tuple[str, ...]) -> None:
    """Checks fields: the words that each may be, or the range of its number.

    Ranges are ``0 or more``, ``more than 0``, ``1 or more``, ``between 0 and 1`` and
    ``between -1 and 0``.

    Raises:
      ZsljaxError: a field has another value; the message names it.
    """
    for field, kind in expected.items():
      value = getattr(self, field)
      if isinstance(kind, str):
        ok = _IN_RANGE[kind](value)
      else:
        ok, kind = value in kind, f"one of {', '.join(kind)}"
      require(ok, f"config.system.{field}", repr(value), kind)

  def warm_start(
    self, params: Params, batch: Batch, classes: ClassSpace, rng: Array
  ) -> Params:
    """Makes the parameters to begin training with; by default the initial ones.

    Args:
      params: of ``init``.
      batch: the first batch; all training images where training is full-batch.
      classes: the training classes.
      rng: a random key.
    """
    del batch, classes, rng
    return params

  def scores(self, params: Params, features: Array, classes: ClassSpace) -> Array:
    """Scores ``[B, C]`` of images, a column for each class; higher is more likely."""
    return self.score(features, self.prepare(params, classes))

  def prepare(self, params: Params, classes: ClassSpace) -> Any:
    """Computes the part of a score that no image changes, a pytree of arrays."""

  def score(self, features: Array, prepared: Any) -> Array:
    """Scores images against prepared classes.

    Args:
      features: ``[B, D]`` or ``[B, R, D]``.
      prepared: the result of ``prepare`` for C classes.

    Returns:
      ``[B, C]``; higher is more likely.
    """

  def loss(
    self, params: Params, batch: Batch, classes: ClassSpace, rng: Array
  ) -> tuple[Array, dict[str, Array]]:
    """Computes the objective over the global batch.

    Args:
      params: of ``init``.
      batch: images and labels; rows whose mask is false must count for nothing.
      classes: the seen classes and those that stand for the unseen ones.
      rng: a random key, new in each step.

    Returns:
      The objective, a scalar, and its parts by name, scalars that are logged.
    """


@runtime_checkable
class Embeds(Protocol):
  """A system that gives images embeddings."""

  def embed(self, params: Params, features: Array) -> Array:
    """Embeds images: ``[B, d]``, to be compared by their cosine."""


@runtime_checkable
class AttendsToRegions(Protocol):
  """A system that attends to regions of an image."""

  def region_attention(
    self, params: Params, features: Array, classes: ClassSpace
  ) -> dict[str, Any]:
    """Computes the ``attention.AttentionMaps`` of each attention net, by its name."""
