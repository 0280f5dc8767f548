"""What a trained system looks at, decides by and confuses, in pictures and a report."""

from __future__ import annotations

import collections
from collections.abc import Hashable, Iterable, Sequence
import dataclasses
import difflib
import pathlib
import re
from typing import Any

import jax
import numpy as np

from zsljax.classes import ClassSpace
from zsljax.devices.mesh import replicated
from zsljax.devices.precision import computed_in
from zsljax.errors import ZsljaxError, require
from zsljax.evaluation import (
  Calibration,
  Decisions,
  generalized_predictions,
  make_evaluator,
  over_batches,
  protocols_for,
  seen_unseen_curve,
  single_label_metrics,
)
from zsljax.evaluation.metrics import require_numbers
from zsljax.io.files import explained, write_text
from zsljax.models import CLOSED_SET, MULTI_LABEL, AttendsToRegions, Embeds
from zsljax.models.attention import AttentionMaps
from zsljax.predict import Predictions, Predictor, load
from zsljax.reporting import html
from zsljax.reporting.curves import draw_curve
from zsljax.reporting.photos import find_photos, read_photo
from zsljax.reporting.pictures import (
  MOST_NAMES,
  AttentionRow,
  draw_attention,
  draw_confusion,
  draw_contributions,
  draw_map,
  draw_photo,
)
from zsljax.reporting.rows import calibration_of, read_rows
from zsljax.runs.experiment import Experiment
from zsljax.training.checkpoints import Checkpoints

MAPS = ("tsne", "pca")
REPORT = "report.html"
_RIVALS = 3
_MAPPED = 2000
_PERPLEXITY = 30.0
_SIDE = 448  # Of a photograph, pixels.
_NETS = {
  "attribute_to_visual": "Attribute-to-visual net: where each attribute looks (in "
  "brackets: what it adds to the score of the predicted class, as below)",
  "visual_to_attribute": "Visual-to-attribute net: how far each region is taken for "
  "the attribute (in brackets: the same)",
  "class_to_visual": "Where each class looks",
}


@dataclasses.dataclass(frozen=True)
class Scored:
  """All N test images, in stored order.

  Attributes:
    names: of the images, N; ``row 7`` (of the source) where they have none.
    labels: places of the true classes in the class space, ``[N, M]``; -1 is none.
    predicted: place of the best class, with the run's calibration, ``[N]``.
    right: whether the best class is one of the true ones, ``[N]``.
    unseen: whether one of the true classes is unseen, ``[N]``.
    decisions: of images with one label, of systems that know unseen classes.
    mapped: what the map of images is made from, of some of them, ``[n, d]``.
    on_map: places of these, ``[n]``.
  """

  names: list[str]
  labels: np.ndarray
  predicted: np.ndarray
  right: np.ndarray
  unseen: np.ndarray
  decisions: Decisions | None
  mapped: np.ndarray
  on_map: np.ndarray


def score_test_images(run: Experiment, predictor: Predictor) -> Scored:
  """One pass over the test images.

  Raises:
    ZsljaxError: a score is NaN.
  """
  system, dataset = run.system, run.dataset
  classes, splits, batches = run.images("test")
  usual, *_ = protocols_for(system)
  evaluator = make_evaluator(usual)

  def outputs(params, batch, classes):
    found = evaluator.outputs(system, params, batch, classes)
    if isinstance(system, Embeds):
      return found, system.embed(params, batch.features)
    return found, system.scores(params, batch.features, classes)

  size = dataset.size(*splits)
  on_map = np.linspace(0, size - 1, min(size, _MAPPED)).round().astype(int)
  best, labels, mapped, start = [], [], [], 0
  params = jax.device_put(predictor.params, replicated(run.mesh))
  with computed_in(predictor.precision):
    for host, parts in over_batches(outputs, params, classes, batches, run.mesh):
      found, vectors = parts
      best.append(found.argmax(1) if system.task == MULTI_LABEL else found)
      labels.append(np.asarray(classes.positions(host["labels"][host["mask"]])))
      end = start + len(vectors)
      here = on_map[(on_map >= start) & (on_map < end)]
      mapped.append(vectors[here - start])
      start = end
  best = jax.tree.map(lambda *xs: np.concatenate(xs), *best)
  mapped = np.concatenate(mapped)
  require_numbers(mapped)
  labels = np.concatenate(labels).reshape(size, -1)
  seen, decisions = np.asarray(classes.seen), None
  if system.task == MULTI_LABEL:
    predicted = best
  elif system.task == CLOSED_SET:
    predicted = best.seen_class
  else:
    decisions = best
    predicted = generalized_predictions(decisions, predictor.calibration)
  names = dataset.image_files(splits)
  if names is None:
    names = np.array([f"row {row}" for row in dataset.source_rows(splits)])
  return Scored(
    names=names.tolist(),
    labels=labels,
    predicted=predicted,
    right=(labels == predicted[:, None]).any(1),
    unseen=((labels >= 0) & ~seen[labels]).any(1),
    decisions=decisions,
    mapped=mapped.astype(np.float32),
    on_map=on_map,
  )


def choose_images(scored: Scored, usable: np.ndarray, number: int) -> np.ndarray:
  """Places of images to explain, drawn by a fixed seed.

  Images of unseen and of seen classes, right and wrong ones take turns; among each of
  the four kinds, classes do.

  Args:
    scored: all test images.
    usable: which of them may be drawn, ``[N]`` bool.
    number: how many to draw; all usable ones where they are fewer.
  """
  drawn = np.random.default_rng(0).permutation(np.flatnonzero(usable))
  kinds = 2 * scored.unseen[drawn] + scored.right[drawn]
  by_class = _turns(zip(kinds, scored.labels[drawn, 0], strict=True))
  order = np.argsort(by_class, kind="stable")
  drawn, kinds = drawn[order], kinds[order]
  return drawn[np.lexsort((-kinds, _turns(kinds)))][:number]


def _turns(values: Iterable[Hashable]) -> np.ndarray:
  """How many equal values stand before each."""
  count = collections.Counter()
  turns = []
  for value in values:
    turns.append(count[value])
    count[value] += 1
  return np.array(turns, int)


def region_grid(features: str, regions: int) -> tuple[int, int] | None:
  """Rows and columns of the regions: as the features' name ends, or a square.

  None where it is neither.
  """
  named = re.search(r"(\d+)x(\d+)$", features)
  if named and int(named[1]) * int(named[2]) == regions:
    return int(named[1]), int(named[2])
  side = round(regions**0.5)
  return (side, side) if side * side == regions else None


def on_plane(vectors: np.ndarray, how: str) -> tuple[np.ndarray, str]:
  """Points ``[n, 2]`` for vectors ``[n, d]``, and how they were made.

  Args:
    vectors: to be mapped.
    how: of ``MAPS``; few vectors have a PCA in any case.
  """
  if how == "tsne" and len(vectors) > 3 * _PERPLEXITY:
    from sklearn.manifold import TSNE

    points = TSNE(perplexity=_PERPLEXITY, init="pca", random_state=0)
    return points.fit_transform(vectors), f"t-SNE (perplexity {_PERPLEXITY:g}, seed 0)"
  centred = vectors - vectors.mean(0)
  _, _, axes = np.linalg.svd(centred, full_matrices=False)
  points = centred @ axes[:2].T
  share = points.var(0).sum() / max(centred.var(0).sum(), np.finfo(float).tiny)
  points = np.pad(points, [(0, 0), (0, 2 - points.shape[1])])
  return points, f"PCA (two axes have {share:.0%} of the variance)"


def confusion(
  scored: Scored, seen: np.ndarray, closed_set: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """What images of each class were taken for.

  Args:
    scored: all test images, with one label each.
    seen: ``[C]`` bool.
    closed_set: unseen classes are not known, and are left out.

  Returns:
    The share of each predicted class among the images of each true one, ``[r, c]``; and
    the classes of rows (those with test images) and columns, the seen ones first.
  """
  columns = np.flatnonzero(seen)
  if not closed_set:
    columns = np.concatenate([columns, np.flatnonzero(~seen)])
  counts = np.zeros((len(seen), len(seen)))
  np.add.at(counts, (scored.labels[:, 0], scored.predicted), 1)
  total = counts.sum(1)
  rows = columns[total[columns] > 0]
  return (counts / np.maximum(total, 1)[:, None])[rows][:, columns], rows, columns


def explain(
  workdir: pathlib.Path,
  dest: pathlib.Path,
  *,
  images: pathlib.Path | None = None,
  names: Sequence[str] = (),
  number: int = 6,
  attributes: int = 4,
  mapped_by: str = "tsne",
  data_dir: str | None = None,
) -> pathlib.Path:
  """Writes pictures about the test images of a run, and a report with all of them.

  Args:
    workdir: the folder of a training run; its latest checkpoint is explained.
    dest: the folder of the pictures and of ``report.html``.
    images: below it lie the photographs that the dataset's image names mean.
    names: of test images to explain; ``number`` are chosen when empty.
    number: of images to choose.
    attributes: how many of them are shown on an image.
    mapped_by: how vectors become points, of ``MAPS``.
    data_dir: where the dataset is now, when it was moved.

  Returns:
    The report.

  Raises:
    ZsljaxError: there is no run; an image, its photograph or its name is missing.
  """
  require(number >= 1, "--number", number, "1 or more")
  require(attributes >= 1, "--attributes", attributes, "1 or more")
  require(mapped_by in MAPS, "--map", repr(mapped_by), f"one of {', '.join(MAPS)}")
  workdir, dest = workdir.expanduser(), dest.expanduser()
  images = images and images.expanduser()
  run = Experiment.of_run(workdir, data_dir)
  predictor = load(workdir)
  metadata = run.dataset.metadata
  require(
    images is None or metadata["named_images"],
    f"{run.dataset.folder}: names of images",
    "none in this dataset",
    "names by which to find the photographs of --images",
  )
  scored = score_test_images(run, predictor)
  chosen, photos = _chosen(scored, images, names, number)
  with explained(dest):
    dest.mkdir(parents=True, exist_ok=True)
    for old in dest.glob("image_*.png"):  # Of a report before.
      old.unlink()
  report = _Report(run, predictor, scored, dest, attributes)
  title = f"{run.system.name} on {metadata['name']}, explained"
  write_text(
    dest / REPORT,
    html.page(
      title,
      report.head(workdir),
      report.images(chosen, photos),
      report.map(mapped_by),
      report.curve(),
      report.confusion(),
    ),
  )
  return dest / REPORT


def _chosen(
  scored: Scored, root: pathlib.Path | None, names: Sequence[str], number: int
) -> tuple[np.ndarray, list[pathlib.Path] | None]:
  """Places of the images to explain, and their photographs."""
  if names:
    places = {name: i for i, name in enumerate(scored.names)}
    for name in names:
      close = (
        difflib.get_close_matches(name, places, 1, 0) if name not in places else []
      )
      require(
        name in places,
        "--image",
        repr(name),
        f"the name of a test image of the dataset, such as {''.join(close)!r}",
      )
    chosen = np.array([places[name] for name in names])
    if root is None:
      return chosen, None
    photos = find_photos(root, scored.names)
    missing = [i for i in chosen if photos[i] is None]
  elif root is None:
    return choose_images(scored, np.ones(len(scored.names), bool), number), None
  else:
    photos = find_photos(root, scored.names)
    there = np.array([path is not None for path in photos])
    chosen = choose_images(scored, there, number)
    missing = [] if there.any() else range(len(photos))
  if missing:
    asked = len(names) or len(scored.names)
    raise ZsljaxError(
      f"--images={root}: no photograph of {scored.names[missing[0]]!r} "
      f"({len(missing)} of {asked} images are missing), expected the folder below "
      "which the dataset's image names are found"
    )
  return chosen, [photos[i] for i in chosen]


@dataclasses.dataclass(frozen=True)
class _Report:
  """The parts of a report as HTML; each writes its pictures.

  Attributes:
    run: the experiment.
    predictor: the trained system.
    scored: the test images.
    dest: where pictures go.
    attributes: how many are shown on an image.
  """

  run: Experiment
  predictor: Predictor
  scored: Scored
  dest: pathlib.Path
  attributes: int

  @property
  def classes(self) -> ClassSpace:
    return self.run.dataset.classes

  @property
  def seen(self) -> np.ndarray:
    return np.asarray(self.classes.seen)

  def head(self, workdir: pathlib.Path) -> str:
    """What was run, and how it did."""
    config, data = self.run.config, self.run.dataset.metadata
    checkpoints = Checkpoints(workdir, self.run.identity())
    step = checkpoints.latest_step()
    checkpoints.close()
    parts = [
      html.facts(
        {
          "System": f"{self.run.system.name} ({config['system']['preset']})",
          "Dataset": f"{data['name']}: {data['features']} features, classes by "
          f"{data['class_embedding']}",
          "Split": data["split_version"],
          "Test images": f"{len(self.scored.names)}, of which "
          f"{self.scored.unseen.sum()} with an unseen class",
          "Classes": f"{self.seen.sum()} seen, {(~self.seen).sum()} unseen",
          "Trained on": f"{config['data']['train_split']}, seed {config['seed']}, "
          f"{step} steps",
          "Calibration": self._calibration(),
        }
      )
    ]
    rows = [
      row
      for row in read_rows(workdir)
      if row["step"] == step and not row["protocol"].endswith("_val")
    ]
    if rows:
      parts.append(
        html.table(
          ["Protocol", "Selection", "Calibration", "In percent on the test images"],
          [
            [
              row["protocol"],
              row["selection"],
              calibration_of(row),
              ", ".join(f"{k.upper()} {v:.2f}" for k, v in row["metrics"].items()),
            ]
            for row in rows
          ],
        )
      )
    else:
      parts.append(html.paragraph("No result of eval.py at this step is on file."))
    return "\n".join(parts)

  def _calibration(self) -> str:
    system = self.run.system
    if system.task == MULTI_LABEL or system.task == CLOSED_SET:
      return "none"
    calibration = self.predictor.calibration
    if not calibration.penalty:
      return "none"
    return f"{calibration.kind}, gamma {calibration.gamma:.4g}"

  def images(self, chosen: np.ndarray, photos: list[pathlib.Path] | None) -> str:
    """A section for each explained image."""
    predictor = self.predictor
    features = self.run.dataset.features_of(self.run.dataset.test_splits, chosen)
    features = features.astype(np.float32)
    candidates = predictor.candidates(seen=True)
    ranked = predictor.predict(features, candidates, top_k=len(self.classes))
    reasons = predictor.predict(
      features,
      candidates,
      top_k=_RIVALS + 1,
      attributes=predictor.spec.num_attributes,
    )
    notes = [html.paragraph(text) for text in self._about_images(photos)]
    maps = self._attention(features) if photos and self._grid() else {}
    shown = photos and self._read(photos)
    sections = []
    for i, place in enumerate(chosen):
      parts = [html.paragraph(text) for text in self._decision(place, ranked, i)]
      path = self.dest / f"image_{i + 1}.png"
      if maps:
        of_image = {
          net: dataclasses.replace(m, weights=m.weights[i]) for net, m in maps.items()
        }
        rows = self._attention_rows(of_image, place, ranked, reasons, i)
        draw_attention(path, shown[i], rows)
        parts.append(self._attention_picture(path, place, rows))
      elif photos:
        draw_photo(path, shown[i])
        alt = f"The photograph {self.scored.names[place]}"
        parts.append(html.picture(path, alt, self._framing()))
      if reasons.attributes[i]:
        parts.append(self._contributions(features[i], reasons, i))
      sections.append(html.section(self.scored.names[place], *parts, level=3))
    return html.section("Images", *notes, *sections)

  def _read(self, photos: list[pathlib.Path]) -> list[np.ndarray]:
    """The photographs as the encoder saw them."""
    read, bad = [], []
    for path in photos:
      try:
        read.append(read_photo(path, self.predictor.encoder, self._photo_shape()))
      except ZsljaxError as error:
        bad.append(error)
    if bad:
      raise ZsljaxError(
        f"{bad[0]} ({len(bad)} of {len(photos)} are not readable)"
      ) from bad[0]
    return read

  def _attention_picture(
    self, path: pathlib.Path, place: int, rows: Sequence[AttentionRow]
  ) -> str:
    caption = (
      f"{self._framing()} Bright is much attention, black none; colours between the "
      "centres of regions are interpolated. A region's features also depend on what "
      "surrounds it."
    )
    shown = "; ".join(f"{row.title}: {', '.join(row.weights)}" for row in rows)
    alt = f"Attention on {self.scored.names[place]}: {shown}"
    return html.picture(path, alt, caption)

  def _about_images(self, photos: list[pathlib.Path] | None) -> list[str]:
    """What is not shown of images, and why."""
    system = self.run.system
    told = []
    attends = isinstance(system, AttendsToRegions)
    if not attends:
      told.append(f"{system.name} does not attend to regions: there is no attention.")
    elif self._grid() is None:
      told.append(
        f"The features have {self.predictor.spec.feature_shape[0]} regions that form "
        "no known grid: attention cannot be laid over photographs."
      )
    if photos is None:
      told.append(
        "Photographs are not shown"
        + (", nor attention on them" if attends else "")
        + ": no folder of photographs was given (--images)."
        + (
          ""
          if self.run.dataset.metadata["named_images"]
          else " This dataset has no names of images by which to find them."
        )
      )
    if system.task == CLOSED_SET:
      told.append(
        "It has learned a weight for each class and decides without attributes."
      )
    elif not self.classes.attribute_names:
      told.append(
        "The dataset gives its attributes no names: they are counted from 0, in the "
        "order of the class embedding."
      )
    return told

  def _grid(self) -> tuple[int, int] | None:
    if not isinstance(self.run.system, AttendsToRegions):
      return None
    return region_grid(
      self.run.dataset.metadata["features"], self.predictor.spec.feature_shape[0]
    )

  def _photo_shape(self) -> tuple[int, int]:
    height, width = self._grid() or (1, 1)
    return round(_SIDE * height / max(height, width)), round(
      _SIDE * width / max(height, width)
    )

  def _framing(self) -> str:
    if self.predictor.encoder is not None:
      return "The photograph is the square that the encoder cut from the centre."
    return (
      "The dataset does not say how photographs were cut before their features were "
      "made: all of it is shown, stretched to the regions' grid."
    )

  def _attention(self, features: np.ndarray) -> dict[str, AttentionMaps]:
    arrays = self.classes.without_names()
    with computed_in(self.predictor.precision):
      maps = jax.jit(self.run.system.region_attention)
      return jax.device_get(maps(self.predictor.params, features, arrays))

  def _attention_rows(
    self,
    maps: dict[str, AttentionMaps],
    place: int,
    ranked: Predictions,
    reasons: Predictions,
    i: int,
  ) -> list[AttentionRow]:
    """What to draw of one image's maps, ``[Q, R]`` each."""
    rows = []
    for net, attention in maps.items():
      if attention.queries == "attributes":
        shares = sorted(reasons.attributes[i], key=lambda share: -abs(share[1]))
        at = {name: k for k, name in enumerate(self.classes.attributes)}
        panels = {
          f"{name} ({share:+.2g})": at[name]
          for name, share in shares[: self.attributes]
        }
      else:
        at = {name: k for k, name in enumerate(self.classes.names)}
        true = self._names(self.scored.labels[place])
        rivals = [name for name in ranked.classes[i] if name not in true][:_RIVALS]
        panels = {f"{name} (true)": at[name] for name in true}
        panels |= {name: at[name] for name in rivals}
      count, regions = attention.weights.shape
      one = {"attributes": "attribute", "classes": "class"}[attention.queries]
      scale = (
        f"share of the {one}'s attention\nper region; {regions} regions add up to 1"
      )
      if attention.over == "queries":
        scale = (
          f"share of the region's attention;\n{count} {attention.queries} add up to 1"
        )
      grid = self._grid()
      weights = {
        title: attention.weights[k].reshape(grid) for title, k in panels.items()
      }
      rows.append(AttentionRow(_NETS[net], weights, scale, attention.uniform))
    return rows

  def _names(self, places: np.ndarray) -> list[str]:
    return [self.classes.names[i] for i in places if i >= 0]

  def _decision(self, place: int, ranked: Predictions, i: int) -> list[str]:
    """True classes and those with the highest scores, in words."""
    seen = dict(zip(self.classes.names, self.seen, strict=True))

    def described(name: str) -> str:
      return f"{name} ({'seen' if seen[name] else 'unseen'})"

    true = self._names(self.scored.labels[place])
    best = []
    for k, name in enumerate(ranked.classes[i][: _RIVALS + 1]):
      text = f"{described(name)} {ranked.scores[i, k]:.3g}"
      if ranked.probabilities is not None:
        text += f" ({ranked.probabilities[i, k]:.0%})"
      best.append(text)
    verdict = "right" if ranked.classes[i][0] in true else "wrong"
    scores = "Scores" if ranked.probabilities is None else "Scores (softmax)"
    return [
      f"True: {', '.join(map(described, true)) or 'none'}. "
      f"Predicted: {described(ranked.classes[i][0])}, {verdict}.",
      f"{scores}: {'; '.join(best)}.",
    ]

  def _contributions(self, features: np.ndarray, reasons: Predictions, i: int) -> str:
    """What each attribute adds to the score of the predicted class."""
    own, *others = reasons.classes[i]
    start, end = self._ends(features, own, others)
    path = self.dest / f"image_{i + 1}_attributes.png"
    total = sum(share for _, share in reasons.attributes[i])
    draw_contributions(
      path,
      reasons.attributes[i],
      2 * self.attributes,
      f"What speaks for {own}: all {len(reasons.attributes[i])} attributes add up to "
      f"{total:+.3g}",
    )
    return html.picture(
      path,
      f"Bars: contributions of attributes to {own} against {', '.join(others)}",
      f"From {start:.3g}, the mean score of {', '.join(others)}, to {end:.3g}, that of "
      f"{own} (all scored as unseen classes, without gamma): a lead of "
      f"{end - start:+.3g}, shared by integrated gradients. Negative shares speak "
      "against the class.",
    )

  def _ends(
    self, features: np.ndarray, own: str, others: Sequence[str]
  ) -> tuple[float, float]:
    """The scores between which the attributes' shares lie."""
    at = {name: k for k, name in enumerate(self.classes.names)}
    embeddings = np.asarray(self.classes.embeddings)
    ends = embeddings[[at[name] for name in (own, *others)]]
    space = self.classes.subset(self.seen).extended([""] * len(ends), ends)
    with computed_in(self.predictor.precision):
      scores = self.run.system.scores(self.predictor.params, features[None], space)
    own_score, *rest = np.asarray(scores[0, -len(ends) :])
    return float(np.mean(rest)), float(own_score)

  def map(self, how: str) -> str:
    """The test images as points."""
    scored, system = self.scored, self.run.system
    points, made_by = on_plane(scored.mapped, how)
    what = "class scores, without gamma"
    if isinstance(system, Embeds):
      what = "embeddings"
    title = (
      f"{made_by} of {what} ({scored.mapped.shape[1]} numbers), "
      f"{len(points)} of {len(scored.names)} test images"
    )
    classes = None if system.task == MULTI_LABEL else scored.labels[scored.on_map, 0]
    path = self.dest / "map.png"
    draw_map(
      path, points, scored.unseen[scored.on_map], classes, self.classes.names, title
    )
    caption = f"Every point is a test image, placed by its {what}. "
    if system.task == MULTI_LABEL:
      caption += (
        "Unseen: images with at least one unseen label. Images have several labels, so "
        "there are no colours of classes."
      )
    elif len(np.unique(classes)) > MOST_NAMES:
      caption += "There are too many classes for a legend."
    return html.section("Map of the test images", html.picture(path, title, caption))

  def _without(self, title: str) -> str | None:
    """The section of something that does not apply, and why; None where it does."""
    system = self.run.system
    if system.task != MULTI_LABEL and system.task != CLOSED_SET:
      return None
    why = "images have several labels here, which are ranked and not set apart"
    if system.task == CLOSED_SET:
      why = f"{system.name} with learned class weights knows no unseen class"
    return html.section(title, html.paragraph(f"Not drawn: {why}."))

  def curve(self) -> str:
    """Seen over unseen accuracy."""
    title = "Seen-unseen curve"
    if without := self._without(title):
      return without
    images = self.scored.decisions, self.scored.labels[:, 0], self.seen
    calibration = self.predictor.calibration
    curve = seen_unseen_curve(*images, kind=calibration.kind)
    inside = np.ones(len(curve.gamma), bool)
    if curve.kind == "multiplicative":  # Others are no gamma.
      inside = (curve.gamma > 0) & (curve.gamma < 2)
    points = {}
    calibrations = {"no calibration": Calibration(curve.kind)}
    if calibration.penalty:
      calibrations[f"this run's gamma, {calibration.gamma:.3g}"] = calibration
    for name, calibration in calibrations.items():
      m = single_label_metrics(*images, calibration)
      points[f"{name}: U {m['u']:.1f}, S {m['s']:.1f}, H {m['h']:.1f}"] = m["u"], m["s"]
    path = self.dest / "curve.png"
    seed = self.run.config["seed"]
    draw_curve(
      path,
      100 * curve.unseen[inside],
      100 * curve.seen[inside],
      points,
      f"{self.run.system.name} on {self.run.dataset.metadata['name']}, seed {seed}, "
      f"test images; additive AUSUC {m['ausuc']:.1f}",
    )
    return html.section(
      title,
      html.picture(
        path,
        f"Curve of accuracy on seen over unseen classes; {'; '.join(points)}",
        "What U and S become as more and more is taken from the scores of seen "
        "classes (gamma; from left to right). Grey: lines of equal H.",
      ),
    )

  def confusion(self) -> str:
    """What images of each class are taken for."""
    title = "Confusion of classes"
    closed_set = self.run.system.task == CLOSED_SET
    if self.run.system.task == MULTI_LABEL:
      return self._without(title)
    shares, rows, columns = confusion(self.scored, self.seen, closed_set)
    path = self.dest / "confusion.png"
    names = self.classes.names
    among = "seen classes alone" if closed_set else "all classes"
    draw_confusion(
      path,
      shares,
      [names[i] for i in rows],
      [names[i] for i in columns],
      (int(self.seen[rows].sum()), int(self.seen[columns].sum())),
      f"Test images among {among}, calibration: {self._calibration()}",
    )
    caption = (
      "A row is a true class and adds up to 100 %, a column what its images were taken "
      "for. "
    )
    if closed_set:
      caption += "Images of unseen classes have no right answer and are left out."
    else:
      caption += (
        "The lines part seen classes (above, left) from unseen ones (below, right)."
      )
    if len(columns) > MOST_NAMES:
      caption += f" {len(columns)} classes are too many for names."
    right = (
      self.scored.right if not closed_set else self.scored.right[~self.scored.unseen]
    )
    alt = f"Confusion matrix; {right.mean():.0%} of the images are right"
    return html.section(title, html.picture(path, alt, caption))


def explain_command(args: Any) -> None:
  """The verb ``explain``."""
  report = explain(
    args.workdir,
    args.dest,
    images=args.images,
    names=args.image,
    number=args.number,
    attributes=args.attributes,
    mapped_by=args.map,
    data_dir=args.data_dir,
  )
  print(f"report in {report}")
