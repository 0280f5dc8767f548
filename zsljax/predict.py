"""Predictions of a trained run among any classes, given at run time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import itertools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zsljax.classes import ClassSpace
from zsljax.data.files.class_table import ClassTable, read_class_table
from zsljax.data.files.features import finite_rows, read_features
from zsljax.devices.mesh import make_mesh
from zsljax.devices.precision import computed_in
from zsljax.encoders import encode_images, load_encoder, require_same
from zsljax.errors import ZsljaxError, counted, line_of, require, some
from zsljax.evaluation.calibration import UNCALIBRATED, Calibration
from zsljax.evaluation.thresholds import Thresholds
from zsljax.io.checks import readable
from zsljax.io.files import write_csv
from zsljax.io.progress import task_bar
from zsljax.models import CLOSED_SET, MULTI_LABEL, Spec, System, build_system
from zsljax.reporting.rows import aligned, read_chosen
from zsljax.reporting.tables import fitted
from zsljax.runs.experiment import param_shapes, spec_of
from zsljax.runs.workdir import CLASSES, read_manifest, run_identity
from zsljax.training.checkpoints import Checkpoints

# Points in (-1, 1) of a way along which a score's lead is shared among attributes, and
# their weights, which sum to 2.
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(16)
# Images are scored this many at a time; fewer are padded to a power of two.
_BATCH = 256
_TRAINED_ON = "of the features that the run was trained on"


@dataclasses.dataclass(frozen=True)
class Predictions:
  """The best classes of B images, the best first.

  Attributes:
    classes: names, ``[B][K]``.
    given: marks labels whose score reaches their threshold, ``[B, K]`` bool; None where
      the K best are asked, or there are no thresholds.
    scores: calibrated, ``[B, K]``.
    probabilities: softmax of the calibrated scores, over the predictor's temperature
      and all candidates, ``[B, K]``; None of a system for several labels, whose scores
      only rank. Without a temperature it says no more than how far scores are apart.
    attributes: reasons for an image's best class, ``[B][n]`` pairs of an attribute's
      name and its share in the lead over the other classes shown; empty if not asked.
      ``not`` stands before the name where the best class has less of the attribute
      than these have on average.
  """

  classes: list[list[str]]
  scores: np.ndarray
  probabilities: np.ndarray | None
  attributes: list[list[tuple[str, float]]]
  given: np.ndarray | None = None

  def count(self, image: int) -> int:
    """Number of classes that an image is given: K, or those that reach thresholds."""
    return self.scores.shape[1] if self.given is None else int(self.given[image].sum())

  def shown(self) -> Iterator[tuple[int, int]]:
    """Places of images, and of the classes that they are given, among their K."""
    everything = np.ndindex(self.scores.shape)
    return (place for place in everything if self.given is None or self.given[place])


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
  """Classes made ready once, among which any number of images are classified.

  Attributes:
    space: the classes that are scored: the seen ones of the dataset, as some systems
      standardise over them, and those that are new.
    arrays: the same on the device, without names.
    places: of the candidates in it.
    prepared: the system's preparation of the space.
  """

  space: ClassSpace
  arrays: ClassSpace = dataclasses.field(repr=False)
  places: np.ndarray
  prepared: Any = dataclasses.field(repr=False)


# Sources of candidates: a class space, a CSV file or its content.
Classes = ClassSpace | ClassTable | str | pathlib.Path


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
  """A trained run, ready to score images against any classes.

  Attributes:
    system: the system.
    params: its parameters.
    classes: all classes of the dataset that it was trained on.
    spec: of that dataset.
    calibration: of seen classes when candidates are seen and unseen.
    temperature: of probabilities, chosen on class folds by a sweep; None where it was
      not, and they are a plain softmax.
    encoder: description of the features' encoder, where the dataset records it.
    precision: of matrix products, see ``zsljax.devices.precision``.
    thresholds: of several labels, which a sweep has chosen.
  """

  system: System
  params: Any = dataclasses.field(repr=False)
  classes: ClassSpace = dataclasses.field(repr=False)
  spec: Spec = dataclasses.field(repr=False)
  calibration: Calibration = UNCALIBRATED
  temperature: float | None = None
  encoder: dict[str, Any] | None = None
  precision: str = "float32"
  thresholds: Thresholds | None = None

  def predict(
    self,
    features: np.ndarray,
    classes: Classes | Candidates | None = None,
    *,
    top_k: int | None = None,
    seen: bool = False,
    attributes: int = 0,
  ) -> Predictions:
    """Scores images, and returns the best of the candidates for each.

    Args:
      features: ``[B, D]`` or ``[B, R, D]``, from the network that made those of the
        dataset.
      classes: see ``candidates``, which makes them ready once for many calls.
      top_k: K, at most the number of candidates; None takes 5, or all where there are
        thresholds.
      seen: see ``candidates``.
      attributes: how many attributes are named for an image's best class, where the
        dataset has names of them. Their shares
        are integrated gradients (Sundararajan et al. 2017) of its score along the ways
        from the descriptions of the other classes shown to its own. They add up to its
        lead over the mean of their scores, all scored as unseen classes.

    Raises:
      ZsljaxError: features or classes do not fit the run, or it knows no new classes.
    """
    features = self._checked(features)
    if not isinstance(classes, Candidates):
      classes = self.candidates(classes, seen)
    elif seen:
      raise ZsljaxError("seen: found beside candidates, expected when they are made")
    given = None
    if top_k is None:
      top_k = 5
      if self.thresholds is not None:
        known = classes.space
        top_k = len(known)
        given = self.thresholds.of(known.names, np.asarray(known.seen))
    for field, value, lowest in (("top_k", top_k, 1), ("attributes", attributes, 0)):
      whole = isinstance(value, int | np.integer) and value >= lowest
      require(whole, field, repr(value), f"a whole number, {lowest} or more")
    space = classes.space
    top_k = min(top_k, len(classes.places))
    attributes = min(attributes, self.spec.num_attributes)
    if self.system.task == CLOSED_SET or not self.classes.attribute_names:
      attributes = 0  # None of them decides, or has a name.
    inputs = classes.prepared, classes.arrays, classes.places
    parts = []
    with (
      computed_in(self.precision),
      task_bar(len(features), "predicting", "images") as bar,
    ):
      for start in range(0, len(features), _BATCH):
        part = features[start : start + _BATCH]
        padding = (1 << (len(part) - 1).bit_length()) - len(part)
        padded = np.pad(part, [(0, padding)] + [(0, 0)] * (part.ndim - 1))
        found = self._best(self.params, padded, *inputs, top_k, attributes)
        parts.append([x[: len(part)] for x in jax.device_get(found)])
        bar.update(len(part))
    best, scores, chances, shares, deciding = (
      np.concatenate(part) for part in zip(*parts, strict=True)
    )
    names = np.array(space.attributes, object)
    names = np.where(self._absent(space, best), "not " + names, names)
    return Predictions(
      classes=[[space.names[i] for i in row] for row in best],
      scores=scores,
      probabilities=None if self.system.task == MULTI_LABEL else chances,
      attributes=[
        [(own[i], float(share)) for i, share in zip(row, of_image, strict=True)]
        for row, of_image, own in zip(deciding, shares, names, strict=True)
      ],
      given=None if given is None else scores >= given[best],
    )

  def _absent(self, space: ClassSpace, best: np.ndarray) -> np.ndarray:
    """Attributes of which the first of classes ``best`` [B, K] has less than others.

    Returns:
      ``[B, A]`` bool.
    """
    embeddings = np.asarray(space.embeddings)
    others = np.mean(embeddings, 0)[None]
    if best.shape[1] > 1:
      others = np.mean(embeddings[best[:, 1:]], 1)
    return embeddings[best[:, 0]] < others

  def candidates(
    self, classes: Classes | None = None, seen: bool = False
  ) -> Candidates:
    """Makes classes ready to be chosen among.

    Args:
      classes: a class space, or a CSV file with the attributes of the dataset
        (``data.files.class_table``). A class with the name of one of the dataset is
        that class; all others were never trained on. None: the unseen classes of the
        dataset, or all that a system with learned class weights knows.
      seen: the seen classes of the dataset are candidates too.

    Raises:
      ZsljaxError: the classes do not fit the run, or it knows no new ones.
    """
    known = self.classes.subset(np.asarray(self.classes.seen))
    if classes is None:
      given = known
      if self.system.task != CLOSED_SET:
        given = self.classes.subset(~np.asarray(self.classes.seen))
    else:
      given = self._given(classes)
    if self.system.task == CLOSED_SET:
      for name in given.names:
        found = f"a new class for {self.system.name} with learned class weights"
        expected = f"one of the {len(known)} that it was trained on"
        require(name in known.names, f"class {name!r}", found, expected)
    places = {name: i for i, name in enumerate(known.names)}
    new = given.subset([i for i, name in enumerate(given.names) if name not in places])
    space = known.extended(new.names, new.embeddings)
    places |= {name: len(known) + i for i, name in enumerate(new.names)}
    among = [places[name] for name in given.names]
    if seen:
      among += [i for i in range(len(known)) if i not in set(among)]
    # Ties go to the class that comes first in the dataset, as in an evaluation.
    order = {name: i for i, name in enumerate(self.classes.names)}
    among.sort(key=lambda place: order.get(space.names[place], len(order)))
    require(len(among) > 0, "classes", "no candidates", "one at least")
    arrays = jax.device_put(space.without_names())
    with computed_in(self.precision):
      prepared = self._prepare(self.params, arrays)
    return Candidates(space, arrays, np.array(among), prepared)

  def _given(self, classes: Classes) -> ClassSpace:
    """The classes of a user, checked against those of the dataset."""
    if isinstance(classes, str | pathlib.Path):
      classes = read_class_table(pathlib.Path(classes).expanduser())
    if isinstance(classes, ClassTable):
      table = classes.fitted(self.classes)
      names, values, where = table.names, table.values, str(table.path)
    else:
      found = f"a {type(classes).__name__}"
      expected = "a ClassSpace, or the path of a CSV file"
      require(isinstance(classes, ClassSpace), "classes", found, expected)
      names, values, where = classes.names, np.asarray(classes.embeddings), "classes"
      width = self.spec.num_attributes
      found = counted(values.shape[1], "attribute")
      require(values.shape[1] == width, where, found, f"{width}")
    own = np.asarray(self.classes.embeddings)
    known = dict(zip(self.classes.names, own, strict=True))
    for name, row in zip(names, values, strict=True):
      require(
        name not in known or np.allclose(row, known[name], 1e-4, 1e-6),
        f"{where}: class {name!r}",
        "another description than that of the dataset's class of this name",
        "the same, or another name",
      )
    return ClassSpace.create(
      names,
      values.astype(own.dtype),
      seen=np.zeros(len(names), bool),
      attribute_names=self.classes.attribute_names,
      attribute_vectors=self.classes.attribute_vectors,
    )

  def _checked(self, features: np.ndarray) -> np.ndarray:
    """Features of a user in float32, of the right shape and finite."""
    try:
      features = np.asarray(features)
    except ValueError as error:
      expected = "rows of one length"
      raise ZsljaxError(f"features: {line_of(error)}, expected {expected}") from error
    require(
      features.ndim > 0 and features.shape[1:] == self.spec.feature_shape,
      "features",
      f"shape {features.shape}",
      f"(B, {', '.join(map(str, self.spec.feature_shape))}), as {self.system.name} was "
      "trained on: are they from another network or image size?",
    )
    require(len(features) > 0, "features", "no images", "one at least")
    require(
      features.dtype.kind in "fiu" or features.dtype.name == "bfloat16",
      "features",
      features.dtype,
      "numbers",
    )
    features = features.astype(np.float32)
    bad = np.flatnonzero(~finite_rows(features))
    where = f"features: image {bad[:1]}, counted from 0"
    require(not bad.size, where, "NaN or infinity", "finite numbers")
    return features

  def __getstate__(self) -> dict[str, Any]:
    """Fields alone, with parameters as NumPy arrays: what is compiled has no copy."""
    fields = {
      field.name: getattr(self, field.name) for field in dataclasses.fields(self)
    }
    return fields | {"params": jax.device_get(self.params)}

  @functools.cached_property
  def _prepare(self):
    """The system's ``prepare``, jitted."""
    return jax.jit(self.system.prepare)

  @functools.cached_property
  def _best(self):
    """Places, scores and softmax of the best; shares and places of attributes."""
    num_seen = int(np.sum(self.classes.seen))

    def best(params, features, prepared, space, places, top_k, attributes):
      scores = self.system.score(features, prepared)
      scores = self.calibration.lowered(scores, space.seen)
      scores = scores[:, places]
      top, at = jax.lax.top_k(scores, top_k)
      classes = places[at]
      chances = jnp.take_along_axis(
        jax.nn.softmax(scores / (self.temperature or 1.0)), at, 1
      )
      shares = jnp.zeros((len(features), space.embeddings.shape[1]))
      if attributes:
        shares = jax.lax.map(
          lambda image: self._shares(params, image[0], image[1], space, num_seen),
          (features, classes),
        )
      return classes, top, chances, *jax.lax.top_k(shares, attributes)

    return jax.jit(best, static_argnums=(5, 6))

  def _shares(self, params, features, classes, space, num_seen: int) -> jax.Array:
    """Shares ``[A]`` of each attribute in the lead of the first of ``classes`` [K]."""
    embeddings = space.embeddings
    own, others = embeddings[classes[0]], embeddings[classes[1:]]
    if not len(others):
      others = jnp.mean(embeddings, 0, keepdims=True)
    ways = own[None] - others
    steps = jnp.asarray((_POINTS + 1) / 2, own.dtype)
    points = others[:, None] + steps[None, :, None] * ways[:, None]

    def total(points):
      points = points.reshape(-1, points.shape[-1])
      count = num_seen + len(points)
      along = ClassSpace(
        jnp.concatenate([embeddings[:num_seen], points]),
        seen=jnp.arange(count) < num_seen,
        ids=jnp.arange(count),
        attribute_vectors=space.attribute_vectors,
      )
      scores = self.system.scores(params, features[None], along)
      return jnp.sum(scores[0, num_seen:])

    weights = jnp.asarray(_WEIGHTS / 2, own.dtype)
    along = jnp.einsum("kpa,p->ka", jax.grad(total)(points), weights)
    return jnp.mean(ways * along, 0)


def load(workdir: str | pathlib.Path, *, gamma: float | None = None) -> Predictor:
  """Loads the latest checkpoint of a run of ``train.py`` or of a sweep.

  Needs neither the dataset nor TensorFlow.

  Args:
    workdir: the run's folder.
    gamma: for candidates that are seen and unseen; None takes the choice of a sweep
      on validation classes, or else the config's ``evaluation.gamma``, or else none.

  Raises:
    ZsljaxError: there is no run, or no checkpoint yet.
  """
  workdir = pathlib.Path(workdir).expanduser().absolute()
  manifest = read_manifest(workdir)
  config, path = manifest["config"], workdir / CLASSES
  require(path.is_file(), str(workdir), f"no {CLASSES}", "a run of this version")
  with readable(path):
    classes = ClassSpace.load(path)
  system = build_system(config["system"])
  spec = spec_of(manifest["dataset"]["feature_shape"], classes)
  checkpoints = Checkpoints(workdir, run_identity(manifest))
  step = checkpoints.latest_step()
  params = checkpoints.restore_params(param_shapes(system, spec, make_mesh(1, 1)), step)
  checkpoints.close()
  chosen = read_chosen(workdir, step) or {}
  if gamma is None:
    gamma = chosen.get("gamma")
    gamma = config["evaluation"]["gamma"] if gamma is None else gamma
  return Predictor(
    system,
    params,
    classes,
    spec,
    Calibration(config["evaluation"]["calibration"], gamma),
    chosen.get("temperature"),
    manifest["dataset"]["encoder"],
    config["matmul_precision"],
    Thresholds(**chosen["thresholds"]) if "thresholds" in chosen else None,
  )


def predict_files(
  workdir: pathlib.Path,
  *,
  features: pathlib.Path | None = None,
  images: pathlib.Path | None = None,
  weights: pathlib.Path | None = None,
  classes: pathlib.Path | None = None,
  seen: bool = False,
  gamma: float | None = None,
  top_k: int | None = None,
  attributes: int = 3,
  skip_bad: bool = False,
  dest: pathlib.Path | None = None,
) -> str:
  """Classifies images or the features of some, as ``zsljax predict``.

  Args:
    workdir: the run's folder.
    features: file with features of images; or else ``images``, an image or a folder,
      and ``weights``, see ``load_encoder``.
    classes: CSV file of candidates; with ``seen``, see ``Predictor.candidates``.
    gamma: see ``load``; ``top_k`` and ``attributes``: see ``Predictor.predict``.
    skip_bad: leaves out classes and images that cannot be used.
    dest: CSV file to write all predictions to.

  Returns:
    A table of the predictions or a line about ``dest``; and a line for each class and
    image that was left out.

  Raises:
    ZsljaxError: a file or an option cannot be used.
  """
  predictor = load(workdir, gamma=gamma)
  left_out, table = [], None
  if classes:
    table = read_class_table(classes.expanduser(), skip_bad)
    table = table.fitted(predictor.classes, skip_bad)
    left_out += table.left_out
  if images:
    found, names, bad = _encoded(predictor, images, weights, skip_bad)
    left_out += [f"{name}: cannot be decoded" for name in bad]
  else:
    require(not weights, "--weights", weights, "none with --features")
    files = read_features([features])
    if files.encoder and predictor.encoder:
      require_same(files.encoder, predictor.encoder, files.where, _TRAINED_ON)
    found, names = files[:], files.image_files
    if names is None:
      names = np.array([f"image {i}" for i in range(len(found))])
  require(len(found) > 0, str(images or features), "no images", "one")
  good = finite_rows(found)
  left_out += [f"{name}: features not finite" for name in names[~good]]
  require(
    skip_bad or good.all(),
    str(images or features),
    f"NaN or infinity ({some(names[~good])})",
    "finite numbers (--skip_bad leaves such images out)",
  )
  names = names[good]
  predictions = predictor.predict(
    found[good], table, top_k=top_k, seen=seen, attributes=attributes
  )
  if dest:
    _write(dest.expanduser(), names, predictions)
    top_k = predictions.scores.shape[1]
    best = f"the best {counted(top_k, 'class', 'classes')} of each"
    if predictions.given is not None:
      best = "the labels of each whose scores reach their thresholds"
    lines = [f"{counted(len(names), 'image')}, {best}, in {dest}"]
  else:
    lines = [_table(names, predictions)]
  if predictions.probabilities is not None:
    lines.append(_meaning(predictor))
  return "\n".join(lines + [f"left out: {line}" for line in left_out])


def _encoded(
  predictor: Predictor,
  images: pathlib.Path,
  weights: pathlib.Path | None,
  skip_bad: bool,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
  """Features of an image or a folder, their names, and names of undecodable images."""
  made_by = predictor.encoder
  if made_by is None or "precision" not in made_by:  # Before 0.2.
    raise ZsljaxError(
      "--images: found a dataset that does not record what made its features, expected "
      "one of features made by `zsljax encode`, or --features from the same network"
    )
  options = {x: made_by.get(x) for x in ("size", "output", "precision", "activation")}
  encoder = load_encoder(weights, **options)
  name = encoder.description["weights"]
  require_same(encoder.description, made_by, name, _TRAINED_ON)
  images = images.expanduser()
  alone = [images.name] if images.is_file() else None
  folder = images.parent if alone else images
  features, names, bad = encode_images(encoder, folder, alone, skip_bad)
  return features, np.array(names), bad


def _because(attributes: Sequence[tuple[str, float]]) -> str:
  """The attributes that speak for the class, without those that speak against it."""
  return ", ".join(f"{name} {share:+.3g}" for name, share in attributes if share > 0)


def _meaning(predictor: Predictor) -> str:
  """A line on what the probabilities are."""
  if predictor.temperature is None:
    return (
      "%: softmax of the scores, not calibrated (`zsljax sweep` chooses a temperature)"
    )
  return f"%: calibrated on class folds, temperature {predictor.temperature:.3g}"


def _table(names: Sequence[str], found: Predictions) -> str:
  """A line for each image and class, and the attributes behind the best class."""
  heads = ["image", "class", "score"]
  heads += [] if found.probabilities is None else ["%"]
  lines = [heads]
  before = None
  for i, k in found.shown():
    line = [
      "" if i == before else names[i],
      found.classes[i][k],
      f"{found.scores[i, k]:.4g}",
    ]
    if found.probabilities is not None:
      line.append(f"{100 * found.probabilities[i, k]:.1f}")
    lines.append(line)
    before = i
  head, *lines = aligned(lines, 2).splitlines()
  parts, lines = [head], iter(lines)
  for i, attributes in enumerate(found.attributes):
    of_image = list(itertools.islice(lines, found.count(i)))
    parts += of_image or [f"{names[i]}  no label"]
    if because := _because(attributes):
      parts.append(fitted(f"  because of {because}", "    "))
  return "\n".join(parts)


def _no_formula(text: str) -> str:
  """A text that spreadsheets take for none but itself."""
  return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _write(path: pathlib.Path, names: Sequence[str], found: Predictions) -> None:
  """All predictions as CSV."""
  rows = [["image", "rank", "class", "score", "probability", "because"]]
  for i, k in found.shown():
    chance = "" if found.probabilities is None else f"{found.probabilities[i, k]:.9g}"
    because = "" if k else _because(found.attributes[i])
    score = f"{found.scores[i, k]:.9g}"
    name, label, why = map(_no_formula, (names[i], found.classes[i][k], because))
    rows.append([name, k + 1, label, score, chance, why])
  write_csv(path, rows)
