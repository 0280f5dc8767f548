"""The section of a report about single images: attention, scores, contributions."""

from __future__ import annotations

from collections.abc import Sequence
import pathlib

import numpy as np

from zsljax.explain.attribution import Scored, attention_maps, lead, region_grid
from zsljax.models import CLOSED_SET, AttendsToRegions
from zsljax.models.attention import AttentionMaps
from zsljax.predict import Predictions, Predictor
from zsljax.reporting import html
from zsljax.reporting.photos import read_photo
from zsljax.reporting.pictures import (
  AttentionRow,
  draw_attention,
  draw_contributions,
  draw_photo,
)
from zsljax.runs.experiment import Experiment

_BEST = 4  # Classes shown of an image: the predicted one and its rivals.
_SIDE = 448  # Of a photograph, pixels.
_NETS = {
  "attribute_to_visual": "Attribute-to-visual net: where each attribute looks (in "
  "brackets: what it adds to the score of the predicted class, as below)",
  "visual_to_attribute": "Visual-to-attribute net: how far each region is taken for "
  "the attribute (in brackets: the same)",
  "class_to_visual": "Where each class looks",
}


def images_section(
  run: Experiment,
  predictor: Predictor,
  scored: Scored,
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
  features = run.dataset.features_of(run.dataset.test_splits, chosen)
  features = features.astype(np.float32)
  width = predictor.spec.num_attributes
  found = predictor.predict(features, seen=True, top_k=_BEST, attributes=width)
  maps = attention_maps(predictor, features) if photos and grid else {}
  framing = (
    "The dataset does not say how photographs were cut before their features were "
    "made: all of it is shown, stretched to the regions' grid."
  )
  if predictor.encoder is not None:
    framing = "The photograph is the square that the encoder cut from the centre."
  sections = []
  for i, place in enumerate(chosen):
    name = scored.names[place]
    true = [predictor.classes.names[k] for k in scored.labels[place] if k >= 0]
    parts = _decision(predictor, true, found, i)
    path = dest / f"image_{i + 1}.png"
    if photos:
      height, width = grid or (1, 1)
      shape = [round(_SIDE * side / max(height, width)) for side in (height, width)]
      photo = read_photo(photos[i], predictor.encoder, tuple(shape))
    if maps:
      rows = []
      for net, attention in maps.items():
        queries = _queries(predictor, attention, true, found, i, attributes)
        panels = {
          title: attention.weights[i, k].reshape(grid) for title, k in queries.items()
        }
        scale = _scale(attention)
        rows.append(AttentionRow(_NETS[net], panels, scale, attention.uniform))
      draw_attention(path, photo, rows)
      shown = "; ".join(f"{row.title}: {', '.join(row.weights)}" for row in rows)
      caption = (
        f"{framing} Bright is much attention, black none; colours between the centres "
        "of regions are interpolated. A region's features also depend on what "
        "surrounds it."
      )
      parts.append(html.picture(path, f"Attention on {name}: {shown}", caption))
    elif photos:
      draw_photo(path, photo)
      parts.append(html.picture(path, f"The photograph {name}", framing))
    if found.attributes[i]:
      path = dest / f"image_{i + 1}_attributes.png"
      parts.append(_contributions(predictor, path, features[i], found, i, attributes))
    sections.append(html.section(name, *parts, level=3))
  notes = _notes(run, predictor, grid, photos is not None)
  return html.section("Images", *map(html.paragraph, notes), *sections)


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


def _decision(
  predictor: Predictor, true: Sequence[str], found: Predictions, i: int
) -> list[str]:
  """Paragraphs on the true classes and those with the highest scores."""
  kinds = np.where(predictor.classes.seen, "seen", "unseen")
  described = {
    name: f"{name} ({kind})"
    for name, kind in zip(predictor.classes.names, kinds, strict=True)
  }
  best = [
    f"{described[name]} {score:.3g}"
    for name, score in zip(found.classes[i], found.scores[i], strict=True)
  ]
  scores = "Scores"
  if found.probabilities is not None:
    scores = "Scores (softmax)"
    chances = found.probabilities[i]
    best = [f"{b} ({chance:.0%})" for b, chance in zip(best, chances, strict=True)]
  first = found.classes[i][0]
  return [
    html.paragraph(
      f"True: {', '.join(described[name] for name in true) or 'none'}. "
      f"Predicted: {described[first]}, {'right' if first in true else 'wrong'}."
    ),
    html.paragraph(f"{scores}: {'; '.join(best)}."),
  ]


def _queries(
  predictor: Predictor,
  attention: AttentionMaps,
  true: Sequence[str],
  found: Predictions,
  i: int,
  attributes: int,
) -> dict[str, int]:
  """Titles and places of the queries shown: attributes that decided, or classes."""
  if attention.queries == "attributes":
    names = predictor.classes.attributes
    shares = sorted(found.attributes[i], key=lambda share: -abs(share[1]))
    return {
      f"{name} ({share:+.2g})": names.index(name) for name, share in shares[:attributes]
    }
  names = predictor.classes.names
  rivals = [name for name in found.classes[i] if name not in true][: _BEST - 1]
  shown = {f"{name} (true)": names.index(name) for name in true}
  return shown | {name: names.index(name) for name in rivals}


def _scale(attention: AttentionMaps) -> str:
  """The meaning of the weights ``[B, Q, R]``."""
  _, count, regions = attention.weights.shape
  if attention.over == "queries":
    return f"share of the region's attention;\n{count} {attention.queries} add up to 1"
  one = {"attributes": "attribute", "classes": "class"}[attention.queries]
  return f"share of the {one}'s attention\nper region; {regions} regions add up to 1"


def _contributions(
  predictor: Predictor,
  path: pathlib.Path,
  features: np.ndarray,
  found: Predictions,
  i: int,
  attributes: int,
) -> str:
  """Bars of each attribute's share in the lead of the predicted class."""
  own, *others = found.classes[i]
  shares = found.attributes[i]
  start, end = lead(predictor, features, own, others)
  total = sum(share for _, share in shares)
  title = f"What speaks for {own}: all {len(shares)} attributes add up to {total:+.3g}"
  draw_contributions(path, shares, 2 * attributes, title)
  return html.picture(
    path,
    f"Bars: contributions of attributes to {own} against {', '.join(others)}",
    f"From {start:.3g}, the mean score of {', '.join(others)}, to {end:.3g}, that of "
    f"{own} (all scored as unseen classes, without gamma): a lead of {end - start:+.3g}"
    ", shared by integrated gradients. Negative shares speak against the class.",
  )
