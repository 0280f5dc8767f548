"""The section of a report about single images: attention, scores, contributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
import pathlib

import jax
import numpy as np

from zsljax.devices.precision import computed_in
from zsljax.explain.attribution import Scored
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
_SHOWN = 4  # Attributes shown on an image.
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
) -> str:
  """A part of the report for each chosen image, with its pictures in ``dest``.

  Raises:
    ZsljaxError: a photograph is not readable.
  """
  system, side, maps = run.system, 0, {}
  if isinstance(system, AttendsToRegions):
    regions = predictor.spec.feature_shape[0]
    side = math.isqrt(regions) if math.isqrt(regions) ** 2 == regions else 0
  features = run.dataset.features_of(run.dataset.test_splits, chosen)
  features = features.astype(np.float32)
  found = predictor.predict(
    features, seen=True, top_k=_BEST, attributes=predictor.spec.num_attributes
  )
  if photos and side:
    with computed_in(predictor.precision):
      attention = jax.jit(system.region_attention)
      classes = predictor.classes.without_names()
      maps = jax.device_get(attention(predictor.params, features, classes))
  sections = []
  for i, place in enumerate(chosen):
    name = scored.names[place]
    true = [predictor.classes.names[k] for k in scored.labels[place] if k >= 0]
    parts = _decision(predictor, true, found, i)
    if photos:
      path = dest / f"image_{i + 1}.png"
      photo = read_photo(photos[i], predictor.encoder, (_SIDE, _SIDE))
      rows = []
      for net, of_net in maps.items():
        queries = _queries(predictor, true, found, i, of_net.queries)
        panels = {
          title: of_net.weights[i, k].reshape(side, side)
          for title, k in queries.items()
        }
        rows.append(AttentionRow(_NETS[net], panels, _scale(of_net), of_net.uniform))
      parts.append(_photograph(path, name, photo, rows, predictor.encoder))
    if found.attributes[i]:
      path = dest / f"image_{i + 1}_attributes.png"
      parts.append(_contributions(found, i, path))
    sections.append(html.section(name, *parts, level=3))
  notes = []
  if not isinstance(system, AttendsToRegions):
    notes.append(f"{system.name} does not attend to regions: there is no attention.")
  elif not side:
    notes.append("The features' regions form no square: attention is not drawn.")
  if not photos:
    notes.append("No folder of photographs was given (--images): none are shown.")
  if system.task == CLOSED_SET:
    notes.append("The system decides by learned class weights, without attributes.")
  return html.section("Images", *map(html.paragraph, notes), *sections)


def _decision(
  predictor: Predictor, true: Sequence[str], found: Predictions, i: int
) -> list[str]:
  """Paragraphs on the true classes of image ``i`` and those with the highest scores."""
  kinds = np.where(predictor.classes.seen, "seen", "unseen")
  names = predictor.classes.names
  told = {name: f"{name} ({kind})" for name, kind in zip(names, kinds, strict=True)}
  first = found.classes[i][0]
  verdict = "right" if first in true else "wrong"
  ranked = []
  for k, name in enumerate(found.classes[i]):
    chances = found.probabilities
    chance = "" if chances is None else f" (softmax {chances[i, k]:.0%})"
    ranked.append(f"{told[name]} {found.scores[i, k]:.3g}{chance}")
  truth = ", ".join(told[name] for name in true) or "none"
  return [
    html.paragraph(f"True: {truth}. Predicted: {told[first]}, {verdict}."),
    html.paragraph(f"Scores: {'; '.join(ranked)}."),
  ]


def _photograph(
  path: pathlib.Path,
  name: str,
  photo: np.ndarray,
  rows: Sequence[AttentionRow],
  encoder: Mapping | None,
) -> str:
  """The photograph, with attention laid over it where regions form a grid."""
  caption = (
    "The dataset does not say how photographs were cut before their features were "
    "made: all of it is shown, stretched to the regions' grid."
  )
  if encoder is not None:
    caption = "The photograph is the square that the encoder cut from the centre."
  if not rows:
    draw_photo(path, photo)
    return html.picture(path, f"The photograph {name}", caption)
  draw_attention(path, photo, rows)
  shown = "; ".join(f"{row.title}: {', '.join(row.weights)}" for row in rows)
  caption += (
    " Bright is much attention, black none; colours between the centres of regions are "
    "interpolated. A region's features also depend on what surrounds it."
  )
  return html.picture(path, f"Attention on {name}: {shown}", caption)


def _queries(
  predictor: Predictor,
  true: Sequence[str],
  found: Predictions,
  i: int,
  kind: str,
) -> dict[str, int]:
  """Titles and places of the queries shown: attributes that decided, or classes."""
  if kind == "attributes":
    names = predictor.classes.attributes
    shares = sorted(found.attributes[i], key=lambda share: -abs(share[1]))
    return {f"{n} ({share:+.2g})": names.index(n) for n, share in shares[:_SHOWN]}
  names = predictor.classes.names
  rivals = [name for name in found.classes[i] if name not in true][: _BEST - 1]
  shown = {f"{name} (true)": names.index(name) for name in true}
  return shown | {name: names.index(name) for name in rivals}


def _scale(maps: AttentionMaps) -> str:
  """The meaning of the weights ``[B, Q, R]``."""
  _, count, regions = maps.weights.shape
  if maps.over == "queries":
    return f"share of the region's attention;\n{count} {maps.queries} add up to 1"
  one = {"attributes": "attribute", "classes": "class"}[maps.queries]
  return f"share of the {one}'s attention\nper region; {regions} regions add up to 1"


def _contributions(found: Predictions, i: int, path: pathlib.Path) -> str:
  """Bars of each attribute's share in the lead of the best class."""
  own, *others = found.classes[i]
  shares, rivals = found.attributes[i], ", ".join(others)
  total = sum(share for _, share in shares)
  title = f"What speaks for {own}: all {len(shares)} attributes add up to {total:+.3g}"
  draw_contributions(path, shares, 2 * _SHOWN, title)
  return html.picture(
    path,
    f"Bars: contributions of attributes to {own} against {rivals}",
    f"The lead of {own} over the mean score of {rivals} (all scored as unseen classes, "
    "without gamma), shared by integrated gradients. Negative shares speak against the "
    "class.",
  )
