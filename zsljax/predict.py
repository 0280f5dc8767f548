"""A trained system and classes given at run time."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zsljax.classes import ClassSpace
from zsljax.data.files.class_table import ClassTable, read_class_table
from zsljax.data.files.features import FeatureFiles, finite_rows, read_features
from zsljax.devices.mesh import make_mesh
from zsljax.devices.precision import computed_in
from zsljax.encoders import check, encode_images, load_encoder
from zsljax.errors import ZsljaxError, require
from zsljax.evaluation.calibration import UNCALIBRATED, Calibration
from zsljax.io.files import write_csv
from zsljax.io.progress import task_bar
from zsljax.models import CLOSED_SET, MULTI_LABEL, Spec, System, build_system
from zsljax.reporting.rows import aligned, read_chosen
from zsljax.runs.experiment import param_shapes, spec_of
from zsljax.runs.workdir import CLASSES, read_manifest, run_identity
from zsljax.training.checkpoints import Checkpoints

# Points of each way along which a score's lead is shared among attributes.
_PATH = 16
# Images are scored this many at a time; fewer are padded to a power of two.
_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Predictions:
  """The best classes of B images, the best first.

  Attributes:
    classes: names, ``[B][K]``.
    scores: calibrated, ``[B, K]``.
    probabilities: softmax of the calibrated scores over all candidates, ``[B, K]``;
      None of a system for several labels, whose scores only rank. Closed-form systems
      are not trained by a likelihood: there it says how far scores are apart.
    attributes: what spoke for an image's best class, ``[B][n]`` pairs of an attribute's
      name and its share in the lead over the other classes shown; empty if not asked.
  """

  classes: list[list[str]]
  scores: np.ndarray
  probabilities: np.ndarray | None
  attributes: list[list[tuple[str, float]]]


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
  """Classes made ready once, among which any number of images are classified.

  Attributes:
    space: the classes that are scored: the seen ones of the dataset, as some systems
      standardise over them, and those that are new.
    arrays: the same on the device, without names.
    places: of the candidates in it.
    prepared: what the system made of it.
  """

  space: ClassSpace
  arrays: ClassSpace = dataclasses.field(repr=False)
  places: np.ndarray
  prepared: Any = dataclasses.field(repr=False)


# What candidates are made of: a class space, a CSV file or its content.
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
    encoder: what made the features of images, where the dataset records it.
    precision: of matrix products, see ``zsljax.devices.precision``.
  """

  system: System
  params: Any = dataclasses.field(repr=False)
  classes: ClassSpace = dataclasses.field(repr=False)
  spec: Spec = dataclasses.field(repr=False)
  calibration: Calibration = UNCALIBRATED
  encoder: dict[str, Any] | None = None
  precision: str = "float32"

  def predict(
    self,
    features: np.ndarray,
    classes: Classes | Candidates | None = None,
    *,
    top_k: int = 5,
    seen: bool = False,
    attributes: int = 0,
  ) -> Predictions:
    """The best of the candidates for each image.

    Args:
      features: ``[B, D]`` or ``[B, R, D]``, from the network that made those of the
        dataset.
      classes: see ``candidates``, which makes them ready once for many calls.
      top_k: K, at most the number of candidates.
      seen: see ``candidates``.
      attributes: how many attributes are named for an image's best class. Their shares
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
    space, top_k = classes.space, min(top_k, len(classes.places))
    require(top_k >= 1, "top_k", top_k, "1 or more")
    require(attributes >= 0, "attributes", attributes, "0 or more")
    attributes = min(attributes, self.spec.num_attributes)
    if self.system.task == CLOSED_SET:
      attributes = 0  # None of them decides.
    inputs = classes.prepared, classes.arrays, classes.places
    parts = []
    with (
      computed_in(self.precision),
      task_bar(len(features), "predicting", "images") as bar,
    ):
      for start in range(0, len(features), _BATCH):
        part = features[start : start + _BATCH]
        padding = _power_of_two(len(part)) - len(part)
        padded = np.pad(part, [(0, padding)] + [(0, 0)] * (part.ndim - 1))
        found = self._best(self.params, padded, *inputs, top_k, attributes)
        parts.append([x[: len(part)] for x in jax.device_get(found)])
        bar.update(len(part))
    best, scores, chances, shares, deciding = (
      np.concatenate(part) for part in zip(*parts, strict=True)
    )
    names = space.attributes
    return Predictions(
      classes=[[space.names[i] for i in row] for row in best],
      scores=scores,
      probabilities=None if self.system.task == MULTI_LABEL else chances,
      attributes=[
        [(names[i], float(share)) for i, share in zip(row, of_image, strict=True)]
        for row, of_image in zip(deciding, shares, strict=True)
      ],
    )

  def candidates(
    self, classes: Classes | None = None, seen: bool = False
  ) -> Candidates:
    """Classes to choose among.

    Args:
      classes: a class space, or a CSV file with the attributes of the dataset
        (``data.class_table``). Those that have the name of a class of the dataset are
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
      strange = [name for name in given.names if name not in known.names]
      require(
        not strange,
        f"class {strange[0]!r}" if strange else "",
        f"a new class for {self.system.name} with learned class weights",
        f"one of the {len(known)} that it was trained on: it knows no others",
      )
    places = {name: i for i, name in enumerate(known.names)}
    new = given.subset([i for i, name in enumerate(given.names) if name not in places])
    space = known.extended(new.names, new.embeddings)
    places |= {name: len(known) + i for i, name in enumerate(new.names)}
    among = [places[name] for name in given.names]
    if seen:
      among += [i for i in range(len(known)) if i not in set(among)]
    require(len(among) > 0, "classes", "no candidates", "one at least")
    arrays = jax.device_put(space.without_names())
    with computed_in(self.precision):
      prepared = self._prepare(self.params, arrays)
    return Candidates(space, arrays, np.array(among), prepared)

  def _given(self, classes: Classes) -> ClassSpace:
    if isinstance(classes, str | pathlib.Path):
      classes = read_class_table(pathlib.Path(classes).expanduser())
    if isinstance(classes, ClassTable):
      table = classes.fitted(self.classes)
      names, values, where = table.names, table.values, str(table.path)
    else:
      require(
        isinstance(classes, ClassSpace),
        "classes",
        f"a {type(classes).__name__}",
        "a ClassSpace, or the path of a CSV file",
      )
      names, values = classes.names, np.asarray(classes.embeddings)
      where = "classes"
      width = self.spec.num_attributes
      require(
        values.shape[1] == width, where, f"{values.shape[1]} attributes", f"{width}"
      )
    known = {name: i for i, name in enumerate(self.classes.names)}
    own = np.asarray(self.classes.embeddings)
    for name, row in zip(names, values, strict=True):
      same = name not in known or np.allclose(row, own[known[name]], 1e-4, 1e-6)
      require(
        same,
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
    features = np.asarray(features)
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
    require(
      not bad.size,
      f"features: image {bad[0] if bad.size else ''}, counted from 0",
      f"NaN or infinity ({bad.size} images)",
      "finite numbers",
    )
    return features

  @functools.cached_property
  def _prepare(self):
    return jax.jit(self.system.prepare)

  @functools.cached_property
  def _best(self):
    """Jitted; see ``Predictions``: places, scores, chances; shares and attributes."""
    num_seen = int(np.sum(self.classes.seen))

    def best(params, features, prepared, space, places, top_k, attributes):
      scores = self.system.score(features, prepared)
      scores = self.calibration.lowered(scores, space.seen)
      scores = scores[:, places]
      top, at = jax.lax.top_k(scores, top_k)
      classes = places[at]
      chances = jnp.take_along_axis(jax.nn.softmax(scores), at, 1)
      shares = jnp.zeros((len(features), space.embeddings.shape[1]))
      if attributes:
        shares = jax.lax.map(
          lambda image: self._shares(params, *image, space, num_seen),
          (features, classes),
        )
      return classes, top, chances, *jax.lax.top_k(shares, attributes)

    return jax.jit(best, static_argnums=(5, 6))

  def _shares(self, params, features, classes, space, num_seen: int) -> jax.Array:
    """Of each attribute in the lead of the first of ``classes`` [K], ``[A]``."""
    embeddings = space.embeddings
    own, others = embeddings[classes[0]], embeddings[classes[1:]]
    if not len(others):
      others = jnp.mean(embeddings, 0, keepdims=True)
    ways = own[None] - others
    steps = (jnp.arange(_PATH, dtype=own.dtype) + 0.5) / _PATH
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

    return jnp.mean(ways * jnp.mean(jax.grad(total)(points), 1), 0)


def load(
  workdir: str | pathlib.Path,
  *,
  gamma: float | None = None,
) -> Predictor:
  """The latest checkpoint of a run of ``train.py`` or of a sweep.

  Needs neither the dataset nor TensorFlow.

  Args:
    workdir: the run's folder.
    gamma: for candidates that are seen and unseen; None takes that which a sweep chose
      on validation classes, or else the config's ``evaluation.gamma``, or else none.

  Raises:
    ZsljaxError: there is no run, or no checkpoint yet.
  """
  workdir = pathlib.Path(workdir).expanduser().absolute()
  manifest = read_manifest(workdir)
  config, path = manifest["config"], workdir / CLASSES
  require(path.is_file(), str(workdir), f"no {CLASSES}", "a run of this version")
  classes = ClassSpace.load(path)
  system = build_system(config["system"])
  spec = spec_of(manifest["dataset"]["feature_shape"], classes)
  checkpoints = Checkpoints(workdir, run_identity(manifest))
  params = checkpoints.restore_params(param_shapes(system, spec, make_mesh(1, 1)))
  checkpoints.close()
  require(gamma is None or np.isfinite(gamma), "gamma", gamma, "a finite number")
  if gamma is None:
    chosen = read_chosen(workdir) or {}
    gamma = chosen.get("gamma")
    gamma = config["evaluation"]["gamma"] if gamma is None else gamma
  return Predictor(
    system,
    params,
    classes,
    spec,
    Calibration(config["evaluation"]["calibration"], gamma),
    manifest["dataset"]["encoder"],
    config["matmul_precision"],
  )


def predict_command(args: argparse.Namespace) -> None:
  """The verb ``predict``: a table on the terminal, or all numbers in a CSV file."""
  predictor = load(args.workdir, gamma=args.gamma)
  require(
    args.images or not args.weights, "--weights", args.weights, "none with --features"
  )
  classes = None
  if args.classes:
    classes = read_class_table(args.classes.expanduser(), args.skip_bad)
    classes = classes.fitted(predictor.classes, args.skip_bad)
  left_out = list(classes.left_out) if classes else []
  if args.images:
    features, names, bad = _encoded(predictor, args.images, args.weights, args.skip_bad)
    left_out += [f"{name}: cannot be decoded" for name in bad]
  else:
    files = read_features([args.features])
    _check_origin(files, predictor)
    features, names = files[:], files.image_files
    if names is None:
      names = np.array([f"image {i}" for i in range(len(features))])
  require(len(features) > 0, str(args.images or args.features), "no images", "one")
  good = finite_rows(features)
  bad = [f"{name}: features not finite" for name in names[~good]]
  require(
    args.skip_bad or not bad,
    f"{args.features}: {bad[0] if bad else ''}",
    f"{len(bad)} such images",
    "finite numbers (--skip_bad leaves them out)",
  )
  left_out += bad
  features, names = features[good], names[good]
  found = predictor.predict(
    features,
    classes,
    top_k=args.top_k,
    seen=args.seen,
    attributes=args.attributes,
  )
  if args.dest:
    _write(args.dest.expanduser(), names, found)
    print(f"{len(names)} images, the best {found.scores.shape[1]} classes of each, in "
          f"{args.dest}")  # fmt: skip
  else:
    print(_table(names, found))
  for line in left_out:
    print(f"left out: {line}")


def _check_origin(files: FeatureFiles, predictor: Predictor) -> None:
  """Raises if features say that another encoder made them than the dataset's."""
  if files.encoder and predictor.encoder:
    for field in ("network", "weights_sha256", "size", "output", "preprocessing"):
      found, expected = files.encoder[field], predictor.encoder[field]
      require(
        found == expected,
        f"{files.where}: encoder, {field}",
        found,
        f"{expected}, of the features that the run was trained on",
      )


def _encoded(
  predictor: Predictor,
  images: pathlib.Path,
  weights: pathlib.Path | None,
  skip_bad: bool,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
  """Features of a folder of images, their names, and who cannot be decoded."""
  made_by = predictor.encoder
  require(
    made_by is not None,
    "--images",
    "a dataset that does not record what made its features",
    "one of features made by `zsljax encode`, or --features from the same network",
  )
  require(
    weights is not None,
    "--weights",
    "nothing",
    f"{made_by['weights']}, which made the dataset's features",
  )
  check(made_by, weights)
  encoder = load_encoder(
    made_by["network"], weights, made_by["size"], made_by["output"]
  )
  features, names, bad = encode_images(encoder, images, skip_bad=skip_bad)
  return features, np.array(names), bad


def _table(names: Sequence[str], found: Predictions) -> str:
  """A line for each image and class, and what spoke for the best."""
  lines = []
  for i, name in enumerate(names):
    for k, class_name in enumerate(found.classes[i]):
      numbers = [f"{found.scores[i, k]:.4g}"]
      if found.probabilities is not None:
        numbers.append(f"{100 * found.probabilities[i, k]:.1f}")
      lines.append([name if k == 0 else "", class_name, *numbers])
  heads = ["image", "class", "score"]
  if found.probabilities is not None:
    heads.append("%")
  width = found.scores.shape[1]
  head, *table = aligned([heads, *lines], 2).splitlines()
  parts = [head]
  for i in range(len(names)):
    parts += table[i * width : (i + 1) * width]
    if because := _because(found.attributes[i]):
      parts.append(f"  because of {because}")
  return "\n".join(parts)


def _because(attributes: Sequence[tuple[str, float]]) -> str:
  """Those that spoke for the class; others may be among the best where few did."""
  return ", ".join(f"{name} {share:+.3g}" for name, share in attributes if share > 0)


def _write(path: pathlib.Path, names: Sequence[str], found: Predictions) -> None:
  """All predictions as CSV."""
  rows = [["image", "rank", "class", "score", "probability", "because"]]
  for i, name in enumerate(names):
    for k, class_name in enumerate(found.classes[i]):
      chance = "" if found.probabilities is None else f"{found.probabilities[i, k]:.9g}"
      because = _because(found.attributes[i]) if k == 0 else ""
      score = f"{found.scores[i, k]:.9g}"
      rows.append([name, k + 1, class_name, score, chance, because])
  write_csv(path, rows)


def _power_of_two(count: int) -> int:
  return 1 << (count - 1).bit_length()
