"""scikit-learn's way in: a zero-shot classifier of arrays, without files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import itertools
import pathlib
import tempfile
from typing import Any

import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from zsljax import training
from zsljax.classes import ClassSpace
from zsljax.data import sampling
from zsljax.data.folds import Fold
from zsljax.devices.mesh import make_mesh
from zsljax.devices.precision import computed_in
from zsljax.errors import Stopped, ZsljaxError, did_you_mean, require
from zsljax.evaluation.calibration import Calibration
from zsljax.models import AttendsToRegions, Spec, System, moments, to_fit
from zsljax.predict import Predictions, Predictor
from zsljax.runs.experiment import configured_system, spec_of
from zsljax.runs.reproduce import SYSTEMS, config_of
from zsljax.training.checkpoints import Checkpoints

_SINGLE_LABEL = [name for name, (*_, form) in SYSTEMS.items() if form != "multi-label"]
# Parts of a config that have an effect here.
FIELDS = ("system", "stage", "optimizer", "epochs", "batch_size", "data.sampling")
FIELDS += ("matmul_precision", "evaluation.calibration")
# Steps in a compiled call.
_AT_ONCE = 64


class ZeroShotClassifier(ClassifierMixin, BaseEstimator):
  """A classifier that predicts classes without training images too.

  >>> rng = np.random.default_rng(0)
  >>> attributes = {"zebra": [1, 1], "horse": [1, 0], "tiger": [0, 1], "bear": [0, 0]}
  >>> y = np.array(["zebra", "tiger", "bear"]).repeat(20)  # No horse.
  >>> X = np.array([attributes[name] for name in y]) + rng.normal(0, 0.1, (60, 2))
  >>> model = ZeroShotClassifier("nearest_mean").fit(X, y, attributes)
  >>> model.predict([[0.9, 0.1], [1.0, 0.9]])
  array(['horse', 'zebra'], dtype='<U5')

  Training is that of ``zsljax train`` with the settings of the config's dataset
  ``own``, minibatches in another order; nothing is chosen on validation classes, which
  ``zsljax fit`` does.

  Args:
    system: a recipe for images with one label, of ``zsljax list recipes``.
    fields: of its config, as ``{"epochs": 30, "optimizer.learning_rate": 1e-3}``;
      those that start with one of ``FIELDS``.
    gamma: taken from the scores of classes with training images where both kinds are
      candidates (Chao et al. 2016); None takes nothing.
    random_state: seed of initial parameters and of the order of images.
    verbose: whether a bar shows the progress of training.

  Attributes:
    classes_: labels of all C classes, ascending.
    n_features_in_: size of the second axis of X; ``feature_names_in_`` of a data frame.
    predictor_: the ``zsljax.predict.Predictor``, which classifies among new classes.
  """

  def __init__(
    self,
    system: str = "eszsl",
    *,
    fields: Mapping[str, Any] | None = None,
    gamma: float | None = None,
    random_state: int = 0,
    verbose: bool = False,
  ):
    self.system = system
    self.fields = fields
    self.gamma = gamma
    self.random_state = random_state
    self.verbose = verbose

  def fit(
    self,
    X: Any,
    y: Any,
    class_embeddings: Any = None,
    attribute_vectors: np.ndarray | None = None,
  ) -> ZeroShotClassifier:
    """Trains on images of some classes.

    Args:
      X: features, ``[N, D]``, or ``[N, R, D]`` for R regions.
      y: labels, ``[N]``.
      class_embeddings: descriptions of all classes: a mapping of labels to vectors of
        one length A, a data frame with labels as its index, or an array ``[C, A]`` of
        the classes 0 to C - 1. Those without an image are the unseen ones. None: the
        classes of ``y`` alone, each with an attribute of its own.
      attribute_vectors: word vectors of the attributes, ``[A, W]``, for ``msdn``.

    Raises:
      ZsljaxError: arrays or settings that do not fit together, a ``ValueError``.
    """
    X, y = validate_data(self, X, y, dtype=np.float32, allow_nd=True)
    check_classification_targets(y)
    known = np.unique(y)
    require(len(known) > 1, "y", f"images of one class, {known[:1]}", "two at least")
    self.classes_, embeddings = _described(class_embeddings, known)
    columns = np.searchsorted(self.classes_, y).astype(np.int32)
    space = ClassSpace.create(
      [str(label) for label in self.classes_],
      embeddings,
      seen=np.isin(self.classes_, known),
      attribute_vectors=attribute_vectors,
    )
    config = self._config()
    system = configured_system(config)
    axes = 3 if isinstance(system, AttendsToRegions) else 2
    expected = "[N, R, D], as it attends to regions" if axes == 3 else "[N, D]"
    require(X.ndim == axes, f"X for {self.system}", f"shape {X.shape}", expected)
    if SYSTEMS[self.system][-1] == "shared-space":
      found = f"{X.shape[-1]} features and {embeddings.shape[1]} attributes"
      same = X.shape[-1] == embeddings.shape[1]
      require(same, f"X for {self.system}", found, "both in one space")
    spec = spec_of(X.shape[1:], space)
    self.predictor_ = Predictor(
      system,
      _trained(config, system, spec, space, X, columns, self.verbose),
      space,
      spec,
      Calibration(config["evaluation"]["calibration"], self.gamma),
      precision=config["matmul_precision"],
    )
    return self

  def predict_proba(self, X: Any) -> np.ndarray:
    """Softmax of the calibrated scores, ``[N, C]``.

    Args:
      X: features as those of ``fit``.
    """
    found, columns = self._predictions(X)
    return _in_columns(found.probabilities, columns)

  def predict(self, X: Any, unseen_alone: bool = False) -> np.ndarray:
    """The likeliest class of each image, ``[N]``.

    Args:
      X: features as those of ``fit``.
      unseen_alone: whether classes with training images are no candidates.
    """
    found, columns = self._predictions(X)
    scores = _in_columns(found.scores, columns)
    if unseen_alone:
      seen = np.asarray(self.predictor_.classes.seen)
      require(not seen.all(), "unseen_alone", "no unseen class", "one at least")
      scores = np.where(seen, -np.inf, scores)
    return self.classes_[np.argmax(scores, 1)]

  def _predictions(self, X: Any) -> tuple[Predictions, np.ndarray]:
    """All classes of each image, the best first, and their columns ``[N, C]``."""
    check_is_fitted(self)
    X = validate_data(self, X, dtype=np.float32, allow_nd=True, reset=False)
    space, predictor = self.predictor_.classes, self.predictor_
    found = predictor.predict(X, predictor.candidates(space), top_k=len(space))
    place = {name: column for column, name in enumerate(space.names)}
    return found, np.array([[place[name] for name in row] for row in found.classes])

  def _config(self) -> dict[str, Any]:
    expected = did_you_mean(str(self.system), _SINGLE_LABEL)
    require(self.system in _SINGLE_LABEL, "system", repr(self.system), expected)
    for field in self.fields or ():
      known = any(field == x or field.startswith(f"{x}.") for x in FIELDS)
      require(known, f"fields: {field}", "a field without effect", ", ".join(FIELDS))
    fields = {"seed": self.random_state, **(self.fields or {})}
    flags = [f"--config.{field}={value}" for field, value in fields.items()]
    return config_of(self.system, "own", None, None, flags)


def _in_columns(values: Any, columns: np.ndarray) -> np.ndarray:
  """Values ``[N, C]`` of classes in any order, each in its column."""
  ordered = np.empty_like(values)
  np.put_along_axis(ordered, columns, values, 1)
  return ordered


def _described(given: Any, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Labels of all classes, ascending, and their descriptions ``[C, A]``."""
  where = "class_embeddings"
  if given is None:
    return known, np.eye(len(known), dtype=np.float32)
  if hasattr(given, "index") and hasattr(given, "to_numpy"):
    given = dict(zip(given.index, given.to_numpy(), strict=True))
  try:
    if isinstance(given, Mapping):
      labels, vectors = np.array(list(given)), list(given.values())
    else:
      labels, vectors = np.arange(len(given)), given
    embeddings = np.array(vectors, np.float32)
  except (TypeError, ValueError) as error:
    raise ZsljaxError(f"{where}: {error}, expected vectors of one length") from error
  found = f"shape {embeddings.shape}"
  require(embeddings.ndim == 2, where, found, "[C, A], a vector for each class")
  missing = np.setdiff1d(known, labels)
  require(not missing.size, where, f"none of {missing[:3]}", "every class of y")
  order = np.argsort(labels)
  return labels[order], embeddings[order]


def _trained(
  config: Mapping[str, Any],
  system: System,
  spec: Spec,
  space: ClassSpace,
  features: np.ndarray,
  labels: np.ndarray,
  shown: bool,
) -> Any:
  """The parameters of a run on all images, by the loop of ``zsljax train``."""
  count, mesh = len(features), make_mesh(1, 1)
  size = min(config["batch_size"], count)
  columns = {"features": features, "labels": labels}
  everything = np.arange(count)
  steps = config["epochs"]
  if size:
    fold = Fold(everything[:0], everything, everything[:0])
    drawn = config["data"]["sampling"]
    per_epoch = sampling.steps_per_epoch(count, size, drawn)
    steps = sampling.total_steps(steps, per_epoch, count, size, drawn)

    def rows(start: int) -> Iterator[np.ndarray]:
      batches = fold.batches(labels, drawn, size, config["seed"])
      return itertools.islice(batches, start, None)

    inputs = training.DeviceInputs(lambda: columns, rows, mesh, count, _AT_ONCE)
  else:
    whole = columns | {"mask": np.ones(count, bool)}
    inputs = training.HostInputs(lambda start: itertools.repeat(whole), mesh, count)
  optimizer = training.make_optimizer(config["optimizer"], size, steps)
  tolerance = 0.0 if size else config["optimizer"]["tolerance"]
  with (
    tempfile.TemporaryDirectory() as folder,
    computed_in(config["matmul_precision"]),
    contextlib.closing(Checkpoints(pathlib.Path(folder), {})) as checkpoints,
  ):
    if stage := to_fit(system):
      numbers = stage.fitted(*moments(jnp.asarray(features), jnp.ones(count, bool)))
      spec = dataclasses.replace(spec, stage=numbers)
    try:
      state = training.train(
        system,
        optimizer,
        lambda: training.init_state(system, optimizer, spec, config["seed"]),
        inputs,
        space.without_names(),
        training.Schedule(steps, steps, steps, tolerance),
        checkpoints,
        lambda start: None,
        mesh,
        shown=shown,
      )
    except Stopped as stopped:  # Its message speaks of a run that can go on.
      raise KeyboardInterrupt from stopped
  return state.params
