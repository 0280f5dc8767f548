"""The section of a report about single images: attention, scores, contributions."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np

from zsljax.explain.attribution import ExplainedImages, attention_maps, region_grid
from zsljax.io.progress import task_bar
from zsljax.models import CLOSED_SET, AttendsToRegions
from zsljax.models.attention import AttentionMaps
from zsljax.predict import Predictor
from zsljax.reporting import html
from zsljax.reporting.photos import read_photo
from zsljax.reporting.pictures import (
  AttentionRow,
  draw_attention,
  draw_contributions,
  draw_photo,
)
from zsljax.runs.experiment import Experiment

IMAGES = "Images"  # Title of the section.
_BEST = 4  # Classes shown of an image: the predicted one and its rivals.
# Differences of scores beside attributes, with a gamma and without.
_BESIDE = {True: "gamma, and seen or unseen", False: "seen or unseen, by the system"}
_SIDE = 448  # Of a photograph, pixels.
_NETS = {
  "attribute_to_visual": "Attribute-to-visual net: where each attribute looks (in "
  "brackets: what it adds to the score of the predicted class, as below)",
  "visual_to_attribute": "Visual-to-attribute net: how far each region is taken for "
  "the attribute (in brackets: the same)",
  "class_to_visual": "Where each class looks",
}


@dataclasses.dataclass(frozen=True)
class _Image:
  """One image to be explained.

  Attributes:
    name: of the image.
    features: ``[1, D]`` or ``[1, R, D]``.
    true: names of its classes.
    best: names of the classes with the highest scores.
    scores: of these, ``[K]``.
    chances: their softmax, ``[K]``; None where a system does not compute it.
    shares: of every attribute in the lead of the best class.
    photo: ``[H, W, 3]`` bytes, or None.
    maps: attention of each net on it, ``[Q, R]``; none where it is not drawn.
  """

  name: str
  features: np.ndarray
  true: list[str]
  best: list[str]
  scores: np.ndarray
  chances: np.ndarray | None
  shares: list[tuple[str, float]]
  photo: np.ndarray | None
  maps: dict[str, AttentionMaps]


def images_section(
  run: Experiment,
  predictor: Predictor,
  scored: ExplainedImages,
  chosen: np.ndarray,
  photos: list[pathlib.Path] | None,
  dest: pathlib.Path,
  attributes: int,
) -> str:
  """A part of the report for each chosen image, with its pictures.

  Args:
    run: the experiment.
    predictor: its trained system.
    scored: all test images.
    chosen: places of the images.
    photos: their photographs, or None.
    dest: folder of the pictures.
    attributes: how many of them are shown on an image.

  Raises:
    ZsljaxError: a photograph is not readable.
  """
  grid = None
  if isinstance(run.system, AttendsToRegions):
    regions = predictor.spec.feature_shape[0]
    grid = region_grid(run.dataset.metadata["features"], regions)
  shape = [round(_SIDE * side / max(grid or (1, 1))) for side in grid or (1, 1)]
  features = run.dataset.features_of(run.dataset.test_splits, chosen)
  features = features.astype(np.float32)
  names, width = predictor.classes.names, predictor.spec.num_attributes
  found = predictor.predict(features, seen=True, top_k=_BEST, attributes=width)
  maps = attention_maps(predictor, features) if photos and grid else {}
  sections = []
  bar = task_bar(len(chosen), "explaining images", "images")
  for i, place in enumerate(chosen):
    image = _Image(
      name=scored.names[place],
      features=features[i : i + 1],
      true=[names[k] for k in scored.labels[place] if k >= 0],
      best=found.classes[i],
      scores=found.scores[i],
      chances=None if found.probabilities is None else found.probabilities[i],
      shares=found.attributes[i],
      photo=photos and read_photo(photos[i], predictor.encoder, tuple(shape)),
      maps={k: dataclasses.replace(m, weights=m.weights[i]) for k, m in maps.items()},
    )
    path = dest / f"image_{i + 1}.png"
    parts = _decision(predictor, image)
    if photos:
      parts.append(_photograph(predictor, image, grid, path, attributes))
    if image.shares:
      path = dest / f"image_{i + 1}_attributes.png"
      parts.append(_contributions(predictor, image, path, 2 * attributes))
    sections.append(html.section(image.name, *parts, level=3))
    bar.update()
  bar.close()
  notes = _notes(run, predictor, grid, photos is not None)
  return html.section(IMAGES, *map(html.paragraph, notes), *sections)


def _notes(
  run: Experiment, predictor: Predictor, grid: tuple[int, int] | None, photos: bool
) -> list[str]:
  """Reasons why something is not shown."""
  name, notes, absent = run.system.name, [], "Photographs are not shown"
  if not isinstance(run.system, AttendsToRegions):
    notes.append(f"{name} does not attend to regions: there is no attention.")
  else:
    absent += ", nor attention on them"
    if grid is None:
      notes.append(
        f"The features have {predictor.spec.feature_shape[0]} regions that form no "
        "known grid: attention cannot be laid over photographs."
      )
  if not photos:
    notes.append(f"{absent}: no folder of photographs was given (--images).")
    if not run.dataset.metadata["named_images"]:
      notes[-1] += " This dataset has no names of images by which to find them."
  if run.system.task == CLOSED_SET:
    notes.append(
      "It has learned a weight for each class and decides without attributes."
    )
  elif not predictor.classes.attribute_names:
    notes.append(
      "The dataset gives its attributes no names: they are counted from 0, in the "
      "order of the class embedding."
    )
  return notes


def _decision(predictor: Predictor, image: _Image) -> list[str]:
  """Paragraphs on the true classes and those with the highest scores."""
  kinds = np.where(predictor.classes.seen, "seen", "unseen")
  of_kind = dict(zip(predictor.classes.names, kinds, strict=True))
  true = ", ".join(f"{name} ({of_kind[name]})" for name in image.true) or "none"
  first = image.best[0]
  verdict = "right" if first in image.true else "wrong"
  ranked = []
  for k, name in enumerate(image.best):
    chance = "" if image.chances is None else f" ({image.chances[k]:.0%})"
    ranked.append(f"{name} ({of_kind[name]}) {image.scores[k]:.3g}{chance}")
  scores = "Scores" if image.chances is None else "Scores (softmax)"
  told = f"True: {true}. Predicted: {first} ({of_kind[first]}), {verdict}."
  return [html.paragraph(told), html.paragraph(f"{scores}: {'; '.join(ranked)}.")]


def _photograph(
  predictor: Predictor,
  image: _Image,
  grid: tuple[int, int] | None,
  path: pathlib.Path,
  attributes: int,
) -> str:
  """The photograph, with attention laid over it where regions form a grid."""
  caption = (
    "The dataset does not say how photographs were cut before their features were "
    "made: all of it is shown, stretched to the regions' grid."
  )
  if predictor.encoder is not None:
    caption = "The photograph is the square that the encoder cut from the centre."
  if not image.maps:
    draw_photo(path, image.photo)
    return html.picture(path, f"The photograph {image.name}", caption)
  rows = []
  for net, maps in image.maps.items():
    panels = {
      title: maps.weights[k].reshape(grid)
      for title, k in _queries(predictor, image, maps.queries, attributes).items()
    }
    rows.append(AttentionRow(_NETS[net], panels, _scale(maps), maps.uniform))
  draw_attention(path, image.photo, rows)
  shown = "; ".join(f"{row.title}: {', '.join(row.weights)}" for row in rows)
  caption += (
    " Yellow is much attention; none leaves the photograph as it is. Colours between "
    "the centres of regions are interpolated. A region's features also depend on what "
    "surrounds it."
  )
  return html.picture(path, f"Attention on {image.name}: {shown}", caption)


def _queries(
  predictor: Predictor, image: _Image, kind: str, attributes: int
) -> dict[str, int]:
  """Titles and places of the queries shown: attributes that decided, or classes."""
  if kind == "attributes":
    names = predictor.classes.attributes
    shares = sorted(image.shares, key=lambda share: -abs(share[1]))[:attributes]
    places = {f"{no}{name}": i for i, name in enumerate(names) for no in ("", "not ")}
    return {f"{name} ({share:+.2g})": places[name] for name, share in shares}
  names = predictor.classes.names
  rivals = [name for name in image.best if name not in image.true][: _BEST - 1]
  shown = {f"{name} (true)": names.index(name) for name in image.true}
  return shown | {name: names.index(name) for name in rivals}


def _scale(maps: AttentionMaps) -> str:
  """The meaning of the weights ``[Q, R]``."""
  count, regions = maps.weights.shape
  if maps.over == "queries":
    return f"share of the region's attention;\n{count} {maps.queries} add up to 1"
  one = {"attributes": "attribute", "classes": "class"}[maps.queries]
  return f"share of the {one}'s attention\nper region; {regions} regions add up to 1"


def _contributions(
  predictor: Predictor, image: _Image, path: pathlib.Path, bars: int
) -> str:
  """Bars of each attribute's share in the lead of the best class."""
  own, *others = image.best
  rivals, ours = ", ".join(others), float(image.scores[0])
  theirs = float(np.mean(image.scores[1:])) if others else 0.0
  leads = ours - theirs
  beside = leads - sum(share for _, share in image.shares)
  title = f"What {own} leads by: {leads:+.3g}"
  name = _BESIDE[predictor.calibration.penalty != 0]
  draw_contributions(path, image.shares, bars, title, (name, beside))
  return html.picture(
    path,
    f"Bars: contributions of attributes to {own} against {rivals}",
    f"{own} has a score of {ours:.3g}, {rivals} one of {theirs:.3g} on average: a lead "
    f"of {leads:+.3g}, to which the bars add up. Integrated gradients share what "
    f"attributes do, all classes scored as unseen ones; {name!r} is all else. "
    "Negative bars speak against the class; 'not': it has less of the attribute than "
    "the others.",
  )
