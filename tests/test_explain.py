"""Explanations of runs on drawn images, where the truth is known, and on digits."""

import html.parser
import itertools
import json
import re
import shutil

import jax
import numpy as np
from PIL import Image
import pytest

from zsljax.configs import attended_autoencoder, msdn
from zsljax.data import make_feature_set, prepare
from zsljax.errors import ZsljaxError
from zsljax.evaluation import Calibration
from zsljax.explain import explain
from zsljax.explain.attribution import (
  ExplainedImages,
  choose_images,
  confusion,
  on_plane,
  region_grid,
)
from zsljax.predict import load
from zsljax.runs.experiment import Experiment
from zsljax.runs.train import train

GRID, CELL = 4, 8
_Y, _X = np.mgrid[:CELL, :CELL] - (CELL - 1) / 2
SHAPES = {"disc": _X**2 + _Y**2 < 10, "cross": (abs(_X) < 1) | (abs(_Y) < 1)}
COLORS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.7, 0.2), "blue": (0.1, 0.2, 0.9)}
ATTRIBUTES = [f"{color} {shape}" for color in COLORS for shape in SHAPES]
# The shapes of each class: all pairs and triples.
CLASSES = [c for k in (2, 3) for c in itertools.combinations(range(6), k)]
UNSEEN = np.random.default_rng(0).choice(len(CLASSES), 7, replace=False)
TRAINED, TESTED = 1200, 200


def draw(labels, rng):
  """Noise with each shape of an image's class in some cell; cells ``[N, 6]`` or -1."""
  images = 0.5 + 0.08 * rng.standard_normal((len(labels), GRID, CELL, GRID, CELL, 3))
  cells = np.full((len(labels), 6), -1)
  kinds = list(itertools.product(COLORS.values(), SHAPES.values()))
  for image, label, at in zip(images, labels, cells, strict=True):
    places = rng.choice(GRID * GRID, len(CLASSES[label]), replace=False)
    for shape, cell in zip(CLASSES[label], places, strict=True):
      row, column = divmod(cell, GRID)
      color, mask = kinds[shape]
      image[row, :, column][mask] = color
      at[shape] = cell
  return images.clip(0, 1), cells


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
  """Folder of the stored set and of photographs, and where the shapes are by name."""
  folder = tmp_path_factory.mktemp("drawn")
  rng = np.random.default_rng(1)
  seen = np.setdiff1d(np.arange(len(CLASSES)), UNSEEN)
  labels = rng.integers(0, len(CLASSES), TESTED)
  labels = np.concatenate([rng.choice(seen, TRAINED), labels])
  images, cells = draw(labels, rng)
  names = np.array([f"/elsewhere/shapes/{i:04}.png" for i in range(len(labels))])
  patches = images.swapaxes(2, 3).reshape(len(labels), GRID * GRID, -1)
  tested = np.arange(TRAINED, len(labels))
  of_unseen = np.isin(labels[tested], UNSEEN)
  # Long, so that no two are alike: of attributes that share a direction one may learn
  # to look away from its shape.
  vectors = rng.standard_normal((6, 32)).astype(np.float32)
  # Parts brighter than the ground, and darker ones: at least 0, as after a ReLU.
  contrast = np.maximum(np.concatenate([patches - 0.5, 0.5 - patches], -1), 0)
  for kind, features in (("patches", patches - 0.5), ("contrast", contrast)):
    described = make_feature_set(
      name="drawn",
      features_kind=f"{kind}_4x4",
      class_embedding="shapes",
      split_version="drawn",
      features=features.astype(np.float32),
      labels=labels,
      class_names=[" + ".join(ATTRIBUTES[a] for a in c) for c in CLASSES],
      embeddings=np.array([[float(a in c) for a in range(6)] for c in CLASSES]),
      attribute_names=ATTRIBUTES,
      attribute_vectors=vectors,
      trainval=np.arange(TRAINED),
      test_seen=tested[~of_unseen],
      test_unseen=tested[of_unseen],
      validation_classes=seen[:4],
      where="drawn",
      sources={},
      image_files=names,
    )
    prepare(described, folder)
  (folder / "shapes").mkdir()
  pixels = np.round(255 * images).astype(np.uint8)
  pixels = pixels.reshape(-1, GRID * CELL, GRID * CELL, 3)
  for row in tested:
    Image.fromarray(pixels[row]).save(folder / names[row][len("/elsewhere/") :])
  return folder, dict(zip(names.tolist(), cells, strict=True))


def config_of(name, folder, seed=0):
  """MSDN or the attended autoencoder, so that they learn the shapes in a few steps."""
  config = {"msdn": msdn, "attended_autoencoder": attended_autoencoder}[name]
  config = config.get_config("digits")
  config.data.update({"name": "drawn", "dir": str(folder)})
  config.data.num_channels = None
  config.data.sampling = "epochs"
  config.batch_size, config.epochs, config.seed = 60, 15, seed
  config.optimizer.update(
    {"name": "adam", "learning_rate": 1e-2, "momentum": 0.0, "weight_decay": 0.0}
  )
  if name == "msdn":
    config.data.features = "patches_4x4_shapes"
    config.optimizer.learning_rate = 3e-3
  else:
    # Queries are positive, and kept near unit length by the alignment of 28 classes:
    # too short to tell regions apart.
    config.data.features = "contrast_4x4_shapes"
    config.system.weight_alignment = 0.0
  return config.to_dict()


def shares_found(name, workdir, cells):
  """Shares of images where attention peaks on the right region, by net and classes."""
  run, predictor = Experiment.of_run(workdir), load(workdir)
  splits = run.dataset.test_splits
  features = run.dataset.features_of(splits, np.arange(run.dataset.size(*splits)))
  classes, labels = run.dataset.classes, run.dataset.labels(splits)
  maps = run.system.region_attention(predictor.params, features, classes)
  where = np.array([cells[image] for image in run.dataset.image_files(splits)])
  unseen, found = np.isin(labels, UNSEEN), {}
  for net, attention in jax.device_get(maps).items():
    peaks = attention.weights.argmax(-1)
    if name == "msdn":
      hit, counts = peaks == where, where >= 0
    else:  # Any of the class's shapes.
      peak = peaks[np.arange(len(labels)), labels]
      hit, counts = where == peak[:, None], np.ones((len(labels), 1), bool)
      hit = hit.any(1, keepdims=True)
    for kind in (unseen, ~unseen):
      found[net, kind is unseen] = hit[kind][counts[kind]].mean()
  return found


@pytest.fixture(scope="module")
def trained(drawn, tmp_path_factory):
  """The workdir of a run on drawn images, made once for each system."""
  folder, _ = drawn
  made = {}

  def run(name):
    if name not in made:
      made[name] = tmp_path_factory.mktemp(name)
      train(config_of(name, folder), made[name])
    return made[name]

  return run


@pytest.mark.slow
@pytest.mark.parametrize("name", ["msdn", "attended_autoencoder"])
def test_attention_peaks_where_the_shape_was_drawn(trained, drawn, name):
  found = shares_found(name, trained(name), drawn[1])
  assert len(found) == (4 if name == "msdn" else 2)
  assert min(found.values()) >= 0.9, found


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["msdn", "attended_autoencoder"])
def test_attention_peaks_there_for_every_seed(drawn, tmp_path, name, seed):
  train(config_of(name, drawn[0], seed), tmp_path)
  found = shares_found(name, tmp_path, drawn[1])
  assert min(found.values()) >= 0.9, found


class Report(html.parser.HTMLParser):
  """Fails unless tags nest; keeps pictures and text."""

  EMPTY = ("meta", "img", "link", "br")

  def __init__(self, path):
    super().__init__()
    self.open, self.images, self.text = [], [], ""
    page = path.read_text()
    rest = re.sub(r'base64,[^"]*"', "", page)
    assert not re.search(r"http|<script|url\(|@import", rest)
    self.feed(page)
    assert not self.open

  def handle_starttag(self, tag, attributes):
    if tag not in self.EMPTY:
      self.open.append(tag)
    attributes = dict(attributes)
    assert not {"srcset", "onclick"} & attributes.keys()
    assert attributes.get("href", "#").startswith("#")
    if tag == "img":
      assert attributes["src"].startswith("data:image/png;base64,iVBOR")
      assert attributes["alt"]
      self.images.append(attributes)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data


def test_report_of_a_system_that_attends(trained, drawn, tmp_path):
  options = {"images": drawn[0], "number": 2, "attributes": 2, "mapped_by": "pca"}
  explain(trained("msdn"), tmp_path, **options)
  report = Report(tmp_path / "report.html")
  # Attention and attributes of each image; map, curve, confusion.
  assert len(report.images) == len(list(tmp_path.glob("*.png"))) == 2 * 2 + 3
  nets = [image["alt"] for image in report.images if "net:" in image["alt"]]
  assert len(nets) == 2 and all("Attribute-to-visual net" in alt for alt in nets)
  assert "stretched to the regions' grid" in report.text
  assert "seed 0, 300 steps" in report.text and "PCA" in report.images[-1]["alt"]
  assert len(re.findall(r"a lead of [+-][\d.]+, to which the bars", report.text)) == 2
  assert "'seen or unseen, by the system' is all else" in report.text  # No gamma.


@pytest.mark.slow
def test_report_of_the_attended_autoencoder(trained, drawn, tmp_path):
  name = "/elsewhere/shapes/1300.png"
  explain(
    trained("attended_autoencoder"),
    tmp_path,
    images=drawn[0],
    names=[name],
    mapped_by="pca",
  )
  report = Report(tmp_path / "report.html")
  assert len(report.images) == 2 + 3
  (alt,) = [image["alt"] for image in report.images if name in image["alt"]]
  assert alt.count("(true)") == 1 and alt.count(", ") == 3  # And three rivals.


def test_report_without_photographs_says_why(trained, tmp_path):
  explain(trained("msdn"), tmp_path, number=1, mapped_by="pca", map_features=True)
  assert "of stored features" in (tmp_path / "report.html").read_text()
  report = Report(tmp_path / "report.html")
  assert len(report.images) == 1 + 3
  assert "nor attention on them: no folder of photographs was given" in report.text


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"names": ["/elsewhere/shapes/0001.png"]}, "such as '/elsewhere/shapes/1"),
    ({"number": 0}, "--number: found 0"),
    ({"attributes": 0}, "--attributes: found 0"),
    ({"mapped_by": "umap"}, "--map: found 'umap', expected one of tsne, pca"),
    ({"images": "empty"}, r"no photograph of '.*' \(200 of 200 images are missing\)"),
    (
      {"images": "empty", "names": ["/elsewhere/shapes/1250.png"]},
      r"no photograph of '.*/1250.png' \(1 of 1 images are missing\)",
    ),
    ({"images": "absent"}, "no such folder"),
    ({"images": "damaged"}, "1300.png: not readable as an image"),
  ],
)
def test_what_cannot_be_explained_is_told(trained, tmp_path, options, message):
  (tmp_path / "empty").mkdir()
  (tmp_path / "damaged").mkdir()
  (tmp_path / "damaged" / "1300.png").write_text("no picture")
  if "images" in options:
    options = options | {"images": tmp_path / options["images"]}
  with pytest.raises(ZsljaxError, match=message):
    explain(trained("msdn"), tmp_path / "dest", **options)
  assert not (tmp_path / "dest" / "report.html").exists()


@pytest.mark.parametrize(
  ("name", "dataset", "pictures", "told"),
  [
    pytest.param(
      "cosine",
      "digits",
      2,  # The map and the confusion.
      ["knows no unseen class", "decides without attributes"],
      marks=pytest.mark.slow,
    ),
    pytest.param(
      "semantic_softmax",
      "digits",
      2 + 3,
      ["not attend to regions", "has no names of images", "No result of zsljax eval"],
      marks=pytest.mark.slow,
    ),
    pytest.param(
      "sdl",
      "multidigit",
      2 + 1,
      ["Seen-unseen curve\nNot drawn: images have several", "classes\nNot drawn"],
      marks=pytest.mark.slow,
    ),
  ],
)
def test_report_of_other_systems(short_run, tmp_path, name, dataset, pictures, told):
  workdir = shutil.copytree(short_run(name, dataset), tmp_path / "w")
  if name == "semantic_softmax":
    manifest = json.loads((workdir / "manifest.json").read_text())
    manifest["config"]["evaluation"]["calibration"] = "multiplicative"
    (workdir / "manifest.json").write_text(json.dumps(manifest))
    assert load(workdir).calibration == Calibration("multiplicative")
  explain(workdir, tmp_path, number=2, mapped_by="pca")
  report = Report(tmp_path / "report.html")
  assert len(report.images) == pictures
  assert ("of embeddings" in report.images[-1]["alt"]) == (name == "cosine")
  for text in told:
    assert text in report.text
  with pytest.raises(ZsljaxError, match="names by which to find the photographs"):
    explain(workdir, tmp_path, images=tmp_path)


def scored(labels, predicted, unseen):
  labels, predicted = np.asarray(labels), np.asarray(predicted)
  return ExplainedImages(
    names=[str(i) for i in range(len(labels))],
    labels=labels[:, None],
    predicted=predicted,
    unseen=np.isin(labels, unseen),
    decisions=None,
    mapped=np.zeros((1, 1)),
    on_map=np.zeros(1, int),
  )


def test_choice_takes_turns():
  rng = np.random.default_rng(0)
  labels = rng.choice(6, 300, p=[0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
  images = scored(labels, np.where(rng.random(300) < 0.5, labels, 0), [4, 5])
  usable = rng.random(300) < 0.8
  chosen = choose_images(images, usable, 8)
  assert len(set(chosen)) == 8 and usable[chosen].all()
  kinds = list(zip(images.unseen[chosen], images.right[chosen], strict=True))
  all_kinds = set(itertools.product([True, False], [True, False]))
  assert set(kinds[:4]) == set(kinds[4:]) == all_kinds
  for kind in all_kinds:
    of_kind = {labels[i] for i, k in zip(chosen, kinds, strict=True) if k == kind}
    assert len(of_kind) == 2
  assert len(choose_images(images, usable, 1000)) == usable.sum()


def test_confusion_is_a_count():
  rng = np.random.default_rng(0)
  labels, predicted = rng.integers(0, 4, 90), rng.integers(0, 5, 90)
  images = scored(labels, predicted, [1, 4])
  seen = np.array([True, False, True, True, False])
  shares, rows, columns = confusion(images, seen, False)
  assert rows.tolist() == [0, 2, 3, 1] and columns.tolist() == [0, 2, 3, 1, 4]
  for i, true in enumerate(rows):
    for j, taken in enumerate(columns):
      share = np.mean(predicted[labels == true] == taken)
      assert shares[i, j] == pytest.approx(share)


def test_pca_keeps_distances_of_vectors_on_a_plane():
  rng = np.random.default_rng(0)
  points = rng.standard_normal((20, 2))
  vectors = points @ np.linalg.qr(rng.standard_normal((5, 5)))[0][:2] + 3
  found, made_by = on_plane(vectors, "pca")
  assert made_by == "PCA (two axes have 100% of the variance)"
  for i, j in itertools.combinations(range(20), 2):
    expected = np.linalg.norm(points[i] - points[j])
    assert np.linalg.norm(found[i] - found[j]) == pytest.approx(expected)
  assert on_plane(vectors, "tsne")[1].startswith(
    "PCA, as t-SNE needs 91"
  )  # Too few for the other.
  far = np.repeat([[0.0, 0.0], [9.0, 9.0]], 60, 0) + rng.standard_normal((120, 2))
  found, made_by = on_plane(far, "tsne")
  assert made_by.startswith("t-SNE") and found.shape == (120, 2)
  near = np.linalg.norm(found - found[:1], axis=1)
  assert near[:60].max() < near[60:].min()
  assert on_plane(vectors[:, :1], "pca")[0].shape == (20, 2)


@pytest.mark.parametrize(
  ("features", "regions", "grid"),
  [
    ("res101_14x14", 196, (14, 14)),
    ("net_3x5", 15, (3, 5)),
    ("patches", 9, (3, 3)),
    ("net_3x5", 16, (4, 4)),
    ("parts", 7, None),
  ],
)
def test_grid_of_regions(features, regions, grid):
  assert region_grid(features, regions) == grid
