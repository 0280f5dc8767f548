"""Pictures about the test images of a run, and one HTML report with all of them."""

from __future__ import annotations

from collections.abc import Sequence
import difflib
import pathlib
import re

import numpy as np

from zsljax.errors import ZsljaxError, counted, require
from zsljax.evaluation import Calibration, make_evaluator
from zsljax.evaluation.protocols import XIAN
from zsljax.explain.attribution import (
  MAPS,
  ExplainedImages,
  choose_images,
  confusion,
  on_plane,
  score_test_images,
)
from zsljax.explain.images import IMAGES, images_section
from zsljax.io.files import explained, write_text
from zsljax.models import CLOSED_SET, MULTI_LABEL, SINGLE_LABEL, Embeds
from zsljax.predict import Predictor, load
from zsljax.reporting import html
from zsljax.reporting.curves import draw_curve
from zsljax.reporting.photos import find_photos
from zsljax.reporting.pictures import MOST_NAMES, draw_confusion, draw_map
from zsljax.reporting.rows import calibration_of, read_chosen, read_rows
from zsljax.runs.experiment import Experiment
from zsljax.training.checkpoints import Checkpoints

REPORT = "report.html"
_CURVE, _CONFUSION = "Seen-unseen curve", "Confusion of classes"
_MAP = "Map of the test images"


def explain(
  workdir: pathlib.Path,
  dest: pathlib.Path,
  *,
  images: pathlib.Path | None = None,
  names: Sequence[str] = (),
  number: int = 6,
  attributes: int = 4,
  mapped_by: str = "tsne",
  map_features: bool = False,
  data_dir: pathlib.Path | None = None,
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
    map_features: maps stored features, not embeddings or scores.
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
  run, predictor = Experiment.of_run(workdir, data_dir), load(workdir)
  metadata = run.dataset.metadata
  require(
    images is None or metadata["named_images"],
    f"{run.dataset.folder}: names of images",
    "none in this dataset",
    "names by which to find the photographs of --images",
  )
  scored = score_test_images(run, predictor, map_features)
  chosen, photos = _chosen(scored, images, names, number)
  with explained(dest):
    dest.mkdir(parents=True, exist_ok=True)
    for old in dest.glob("image_*"):  # Of a report before.
      if re.fullmatch(r"image_\d+(_attributes)?\.(png|pdf|svg)", old.name):
        old.unlink()
  page = html.page(
    f"{run.system.name} on {metadata['name']}, explained",
    html.contents(_CURVE, _CONFUSION, IMAGES, _MAP),
    _head(run, predictor, scored, workdir),
    _curve(run, predictor, scored, dest / "curve.png"),
    _confusion(run, predictor, scored, dest / "confusion.png"),
    images_section(run, predictor, scored, chosen, photos, dest, attributes),
    _map(run, scored, dest / "map.png", mapped_by, map_features),
  )
  write_text(dest / REPORT, page)
  return dest / REPORT


def _chosen(
  scored: ExplainedImages, root: pathlib.Path | None, names: Sequence[str], number: int
) -> tuple[np.ndarray, list[pathlib.Path] | None]:
  """Places of the images to explain, and their photographs."""
  places = {name: i for i, name in enumerate(scored.names)}
  for name in names:
    if name not in places:
      (close,) = difflib.get_close_matches(name, places, 1, 0)
      raise ZsljaxError(
        f"--image: found {name!r}, expected the name of a test image of the dataset, "
        f"such as {close!r}"
      )
  usable, photos = np.ones(len(places), bool), None
  if root is not None:
    photos = find_photos(root, scored.names)
    usable = np.array([photo is not None for photo in photos])
  asked = np.array([places[name] for name in names] or range(len(places)))
  missing = asked[~usable[asked]]
  if len(missing) and (names or len(missing) == len(asked)):
    raise ZsljaxError(
      f"--images={root}: no photograph of {scored.names[missing[0]]!r} "
      f"({len(missing)} of {len(asked)} images are missing), expected the folder below "
      "which the dataset's image names are found"
    )
  chosen = asked if names else choose_images(scored, usable, number)
  return chosen, photos and [photos[i] for i in chosen]


def _head(
  run: Experiment, predictor: Predictor, scored: ExplainedImages, workdir: pathlib.Path
) -> str:
  """The run, its data and its results."""
  config, data = run.config, run.dataset.metadata
  seen = np.asarray(run.dataset.classes.seen)
  checkpoints = Checkpoints(workdir, run.identity())
  step = checkpoints.latest_step()
  checkpoints.close()
  facts = {
    "System": f"{run.system.name} ({config['system']['preset']})",
    "Dataset": f"{data['name']}: {data['features']} features, classes by "
    f"{data['class_embedding']}",
    "Split": data["split_version"],
    "Test images": f"{len(scored.names)}, of which {scored.unseen.sum()} with an "
    "unseen class",
    "Classes": f"{seen.sum()} seen, {(~seen).sum()} unseen",
    "Trained on": f"{config['data']['train_split']}, seed {config['seed']}, "
    f"{counted(step, 'step')}",
    "Calibration": _calibration(run, predictor),
  }
  of_sweep = read_rows(workdir.absolute().parent) if read_chosen(workdir) else []
  rows = {
    (row["protocol"], row["selection"], calibration_of(row)): ", ".join(
      f"{k.upper()} {v:.2f}" for k, v in row["metrics"].items()
    )
    for row in [*of_sweep, *read_rows(workdir)]
    if (row["seed"], row["step"]) == (config["seed"], step)
    and not row["protocol"].endswith("_val")
  }
  results = html.paragraph("No result of zsljax eval at this step is on file.")
  if rows:
    head = ["Protocol", "Selection", "Calibration", "In percent on the test images"]
    results = html.table(head, [(*key, found) for key, found in rows.items()])
  return f"{html.table([], list(facts.items()))}\n{results}"


def _is_calibrated(run: Experiment, predictor: Predictor) -> bool:
  """True if the run's gamma changes predictions."""
  return run.system.task == SINGLE_LABEL and predictor.calibration.penalty != 0


def _calibration(run: Experiment, predictor: Predictor) -> str:
  """The calibration in words."""
  return predictor.calibration.text if _is_calibrated(run, predictor) else "none"


def _map(
  run: Experiment, scored: ExplainedImages, path: pathlib.Path, how: str, features: bool
) -> str:
  """The section with the test images as points."""
  points, made_by = on_plane(scored.mapped, how)
  what = "class scores, without gamma"
  if features:
    what = "stored features"
  elif isinstance(run.system, Embeds):
    what = "embeddings"
  title = (
    f"{made_by} of {what} ({scored.mapped.shape[1]} numbers), "
    f"{len(points)} of {len(scored.names)} test images"
  )
  caption = f"Every point is a test image, placed by its {what}. "
  if run.system.task == MULTI_LABEL:
    classes = None
    caption += (
      "Unseen: images with at least one unseen label. Images have several labels, so "
      "there are no colours of classes."
    )
  else:
    classes = scored.labels[scored.on_map, 0]
    if len(np.unique(classes)) > MOST_NAMES:
      caption += "There are too many classes for a legend."
  unseen, names = scored.unseen[scored.on_map], run.dataset.classes.names
  draw_map(path, points, unseen, classes, names, title)
  return html.section(_MAP, html.picture(path, title, caption))


def _not_drawn(title: str, run: Experiment) -> str:
  """The section of a picture that does not apply, and the reason."""
  why = "images have several labels here, which are ranked and not set apart"
  if run.system.task == CLOSED_SET:
    why = f"{run.system.name} with learned class weights knows no unseen class"
  return html.section(title, html.paragraph(f"Not drawn: {why}."))


def _curve(
  run: Experiment, predictor: Predictor, scored: ExplainedImages, path: pathlib.Path
) -> str:
  """The section with accuracy on seen over unseen classes."""
  title = _CURVE
  if run.system.task != SINGLE_LABEL:
    return _not_drawn(title, run)
  images = scored.decisions, scored.labels[:, 0], np.asarray(run.dataset.classes.seen)
  own = predictor.calibration
  report = make_evaluator(XIAN).report(*images, Calibration(own.kind))
  assert report.curve is not None and report.calibrated is not None
  measured = {"no calibration": report.metrics}
  if _is_calibrated(run, predictor):
    measured[f"this run's gamma, {own.gamma:.3g}"] = report.calibrated(own).metrics
  points = {
    f"{name}: U {m['u']:.1f}, S {m['s']:.1f}, H {m['h']:.1f}": (m["u"], m["s"])
    for name, m in measured.items()
  }
  _, unseen, seen = report.curve.points()
  draw_curve(
    path,
    unseen,
    seen,
    points,
    f"{run.system.name} on {run.dataset.metadata['name']}, seed {run.config['seed']}, "
    f"test images; additive AUSUC {report.metrics['ausuc']:.1f}",
  )
  alt = f"Curve of accuracy on seen over unseen classes; {'; '.join(points)}"
  caption = (
    "What U and S become as more and more is taken from the scores of seen classes "
    "(gamma; from left to right). Grey: lines of equal H."
  )
  return html.section(title, html.picture(path, alt, caption))


def _confusion(
  run: Experiment, predictor: Predictor, scored: ExplainedImages, path: pathlib.Path
) -> str:
  """The section with the confusion matrix."""
  title = _CONFUSION
  if run.system.task == MULTI_LABEL:
    return _not_drawn(title, run)
  closed_set = run.system.task == CLOSED_SET
  names, seen = run.dataset.classes.names, np.asarray(run.dataset.classes.seen)
  shares, rows, columns = confusion(scored, seen, closed_set)
  draw_confusion(
    path,
    shares,
    [names[i] for i in rows],
    [names[i] for i in columns],
    (int(seen[rows].sum()), int(seen[columns].sum())),
    f"Test images among {'seen classes alone' if closed_set else 'all classes'}, "
    f"calibration: {_calibration(run, predictor)}",
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
  right = scored.right[~scored.unseen] if closed_set else scored.right
  alt = f"Confusion matrix; {right.mean():.0%} of the images are right"
  return html.section(title, html.picture(path, alt, caption))
