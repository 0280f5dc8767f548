"""Pictures about the test images of a run, and one HTML report with all of them."""

from __future__ import annotations

from collections.abc import Sequence
import pathlib

import numpy as np

from zsljax.errors import ZsljaxError, require
from zsljax.explain.attribution import (
  Scored,
  choose_images,
  confusion,
  on_plane,
  score_test_images,
)
from zsljax.explain.images import images_section
from zsljax.io.files import explained, write_text
from zsljax.models import CLOSED_SET, MULTI_LABEL, SINGLE_LABEL, Embeds
from zsljax.predict import Predictor, load
from zsljax.reporting import html
from zsljax.reporting.photos import find_photos
from zsljax.reporting.pictures import draw_confusion, draw_map
from zsljax.runs.experiment import Experiment

REPORT = "report.html"


def explain(
  workdir: pathlib.Path,
  dest: pathlib.Path,
  *,
  images: pathlib.Path | None = None,
  names: Sequence[str] = (),
  number: int = 6,
  data_dir: str | None = None,
) -> pathlib.Path:
  """Writes pictures about the test images of a run, and a report with all of them.

  Args:
    workdir: the folder of a training run; its latest checkpoint is explained.
    dest: the folder of the pictures and of ``report.html``.
    images: below it lie the photographs that the dataset's image names mean.
    names: of test images to explain; ``number`` are chosen when empty.
    number: of images to choose.
    data_dir: where the dataset is now, when it was moved.

  Returns:
    The report.

  Raises:
    ZsljaxError: there is no run; an image, its photograph or its name is missing.
  """
  require(number >= 1, "--number", number, "1 or more")
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
  scored = score_test_images(run, predictor)
  chosen, photos = _chosen(scored, images, names, number)
  with explained(dest):
    dest.mkdir(parents=True, exist_ok=True)
    for old in dest.glob("image_*.png"):  # Of a report before.
      old.unlink()
  page = html.page(
    f"{run.system.name} on {metadata['name']}, explained",
    _head(run, predictor, scored),
    images_section(run, predictor, scored, chosen, photos, dest),
    _map(run, scored, dest / "map.png"),
    _confusion(run, predictor, scored, dest / "confusion.png"),
  )
  write_text(dest / REPORT, page)
  return dest / REPORT


def _chosen(
  scored: Scored, root: pathlib.Path | None, names: Sequence[str], number: int
) -> tuple[np.ndarray, list[pathlib.Path] | None]:
  """Places of the images to explain, and their photographs."""
  places = {name: i for i, name in enumerate(scored.names)}
  for name in names:
    expected = f"the name of a test image, such as {scored.names[0]!r}"
    require(name in places, "--image", repr(name), expected)
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


def _head(run: Experiment, predictor: Predictor, scored: Scored) -> str:
  """The run and its data."""
  config, data = run.config, run.dataset.metadata
  seen = np.asarray(run.dataset.classes.seen)
  facts = {
    "System": f"{run.system.name} ({config['system']['preset']})",
    "Dataset": f"{data['name']}: {data['features']} features, classes by "
    f"{data['class_embedding']}",
    "Split": data["split_version"],
    "Test images": f"{len(scored.names)}, of which {scored.unseen.sum()} with an "
    "unseen class",
    "Classes": f"{seen.sum()} seen, {(~seen).sum()} unseen",
    "Trained on": f"{config['data']['train_split']}, seed {config['seed']}",
    "Calibration": _calibration(run, predictor),
  }
  return html.table([], list(facts.items()))


def _calibration(run: Experiment, predictor: Predictor) -> str:
  """The calibration that changes predictions, in words."""
  calibration = predictor.calibration
  if run.system.task != SINGLE_LABEL or calibration.penalty == 0:
    return "none"
  return f"{calibration.kind}, gamma {calibration.gamma:.4g}"


def _map(run: Experiment, scored: Scored, path: pathlib.Path) -> str:
  """The section with the test images as points."""
  what = "embeddings" if isinstance(run.system, Embeds) else "scores, without gamma"
  title = (
    f"t-SNE of {what} ({scored.mapped.shape[1]} numbers), {len(scored.on_map)} of "
    f"{len(scored.names)} test images"
  )
  caption = f"Every point is a test image, placed by its {what}. "
  classes = None
  if run.system.task == MULTI_LABEL:
    caption += "Unseen: images with at least one unseen label."
  else:
    classes = scored.labels[scored.on_map, 0]
  unseen, names = scored.unseen[scored.on_map], run.dataset.classes.names
  draw_map(path, on_plane(scored.mapped), unseen, classes, names, title)
  return html.section("Map of the test images", html.picture(path, title, caption))


def _confusion(
  run: Experiment, predictor: Predictor, scored: Scored, path: pathlib.Path
) -> str:
  """The section with the confusion matrix; empty where images have several labels."""
  if run.system.task == MULTI_LABEL:
    return ""
  closed_set = run.system.task == CLOSED_SET
  names, seen = run.dataset.classes.names, np.asarray(run.dataset.classes.seen)
  shares, rows, columns = confusion(scored, seen, closed_set)
  draw_confusion(
    path,
    shares,
    [names[i] for i in rows],
    [names[i] for i in columns],
    (int(seen[rows].sum()), int(seen[columns].sum())),
    f"Test images of {'seen' if closed_set else 'all'} classes, calibration: "
    f"{_calibration(run, predictor)}",
  )
  caption = (
    "A row is a true class and adds up to 100 %, a column what its images were taken "
    "for. Lines part seen classes (above, left) from unseen ones (below, right)."
  )
  right = scored.right[~scored.unseen] if closed_set else scored.right
  alt = f"Confusion matrix; {right.mean():.0%} of the images are right"
  return html.section("Confusion of classes", html.picture(path, alt, caption))
