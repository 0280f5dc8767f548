"""Measures how systems learn from more classes and more images, and draws it.

  python docs/learning_curves.py DATA awa1 flo

For each dataset, writes docs/concepts/learning_<dataset>.json and .png. Classes and
their images are drawn from the training images; test images and unseen classes are the
dataset's. Settings are those that class folds of the whole set chose, for every point.
"""

import itertools
import json
import math
import pathlib
import sys

from matplotlib import pyplot
import numpy as np

import zsljax
from zsljax.data.pipeline import load
from zsljax.data.store import find

FOLDER = pathlib.Path(__file__).parent / "concepts"
DRAWS = 2
# Classes, and images a class; None is all there are.
POINTS = {
  "awa1": ([10, 20, 30, None], [5, 20, 100, None]),
  "flo": ([10, 20, 40, None], [2, 5, 15, None]),
}
# What class folds chose; of systems trained by minibatches, the number of steps too.
CHOSEN = {
  "awa1": {
    "recommended": {"stage.shrinkage": 0.1, "system.ridge": 0.1},
    "sae": {"system.lambda_": 100.0, "system.space": "semantic"},
    "eszsl": {"system.gamma": 1.0, "system.lambda_": 0.1, "system.negative": 0.0},
    "semantic_softmax": {"system.l2_weights": 5e-4, "epochs": 500},
    "normface": {"system.scale": 40.0, "steps": 1540},
  },
  "flo": {
    "recommended": {"stage.shrinkage": 10.0, "system.ridge": 0.1},
    "sae": {"system.lambda_": 0.01, "system.space": "visual"},
    "eszsl": {"system.gamma": 1.0, "system.lambda_": 0.01, "system.negative": 0.0},
    "semantic_softmax": {"system.l2_weights": 5e-4, "epochs": 500},
    "normface": {"system.scale": 40.0, "steps": 840, "system.nonnegative": True},
  },
}
# Systems that docs/picture.png has, too, are of its colors.
NAMES = {
  "recommended": ("whitened nearest mean", "#5a5a5a"),
  "sae": ("semantic autoencoder", "#d1a21b"),
  "eszsl": ("ESZSL", "#8a6d3b"),
  "semantic_softmax": ("semantic softmax", "#1f5faa"),
  "normface": ("cosine (NormFace)", "#7a4fa3"),
}
METRICS = {"t1": "T1, unseen classes alone (%)", "ausuc": "AUSUC, all classes (%)"}


def drawn(labels: np.ndarray, classes, images, rng: np.random.Generator) -> np.ndarray:
  """Rows of up to ``images`` images of each of ``classes`` of the classes."""
  known = rng.permutation(np.unique(labels))[:classes]
  rows = [rng.permutation(np.flatnonzero(labels == own))[:images] for own in known]
  return np.concatenate(rows)


def trained(system: str, settings: dict, features, labels, described: dict, seed: int):
  """Trains one system on some of the images."""
  fields = dict(settings)
  if steps := fields.pop("steps", None):
    size = fields["batch_size"] = min(256, len(labels))
    fields["epochs"] = math.ceil(steps / (len(labels) // size))
  model = zsljax.ZeroShotClassifier(system, fields=fields, random_state=seed)
  return model.fit(features, labels, described)


def measured(model, features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """Metrics of a model on the test images of its classes."""
  own = model.predictor_
  rows = np.isin(labels, model.classes_)
  prepared = own.system.prepare(own.params, own.classes)
  scores = own.system.score(features[rows], prepared)
  columns = np.searchsorted(model.classes_, labels[rows])
  found = zsljax.evaluate(np.asarray(scores), columns, np.asarray(own.classes.seen))
  return {name: found[name] for name in METRICS}


def measure(data_dir: pathlib.Path, dataset: str) -> list[dict]:
  """Trains all systems on all draws of a dataset; a row for each."""
  store = find(data_dir, dataset, None)
  train = load(store, store.training_splits("trainval"))
  test = load(store, store.test_splits)
  space = store.classes
  vectors = dict(zip(space.ids.tolist(), np.asarray(space.embeddings), strict=True))
  unseen = space.ids[~np.asarray(space.seen)]
  classes, images = POINTS[dataset]
  points = dict.fromkeys([*((c, None) for c in classes), *((None, i) for i in images)])
  rows = []
  for (classes, images), draw in itertools.product(points, range(DRAWS)):
    if classes is images is None and draw:
      continue
    rng = np.random.default_rng(draw)
    some = drawn(train["labels"], classes, images, rng)
    known = np.unique(train["labels"][some])
    described = {own: vectors[own] for own in [*known.tolist(), *unseen.tolist()]}
    for system, settings in CHOSEN[dataset].items():
      features, labels = train["features"][some], train["labels"][some]
      model = trained(system, settings, features, labels, described, draw)
      found = measured(model, test["features"], test["labels"])
      row = {"classes": len(known), "images": images, "draw": draw, "system": system}
      rows.append(row | {name: round(value, 2) for name, value in found.items()})
      print(rows[-1], flush=True)
  return rows


def draw(rows: list[dict], title: str, path: pathlib.Path) -> None:
  """Draws means over draws with their deviation: columns are what grows."""
  most = max(row["classes"] for row in rows)
  everything = [row for row in rows if row["classes"] == most and not row["images"]]
  by_classes = [row for row in rows if not row["images"]]
  by_images = [row for row in rows if row["images"]] + everything
  figure, panels = pyplot.subplots(
    2, 2, sharey="row", figsize=(9, 7), layout="constrained"
  )
  for line, (metric, label) in zip(panels, METRICS.items(), strict=True):
    for axes, some, grows in zip(
      line, (by_classes, by_images), ("classes", "images"), strict=True
    ):
      places = list(dict.fromkeys(row[grows] for row in some))
      for system, (name, color) in NAMES.items():
        values = [
          [row[metric] for row in some if (row["system"], row[grows]) == (system, at)]
          for at in places
        ]
        means, spreads = map(np.mean, values), map(np.std, values)
        axes.errorbar(
          range(len(places)), list(means), list(spreads), color=color, label=name
        )
      axes.set_xticks(range(len(places)), [at or "all" for at in places])
      axes.spines[["top", "right"]].set_visible(False)
    line[0].set_ylabel(label)
  panels[1, 0].set_xlabel("seen classes, all their images")
  panels[1, 1].set_xlabel(f"images of each of {most} seen classes")
  figure.suptitle(title)
  handles, names = panels[0, 0].get_legend_handles_labels()
  legend = {"loc": "outside lower center", "ncols": 3, "frameon": False}
  figure.legend(handles, names, **legend)
  figure.savefig(path, dpi=110)


def main(data_dir: str, *datasets: str) -> None:
  """Measures and draws; draws alone what was measured before."""
  for dataset in datasets:
    path = FOLDER / f"learning_{dataset}.json"
    if not path.exists():
      rows = measure(pathlib.Path(data_dir), dataset)
      lines = ",\n ".join(json.dumps(row) for row in rows)
      path.write_text(f"[{lines}]\n")
    draw(json.loads(path.read_text()), dataset, path.with_suffix(".png"))


if __name__ == "__main__":
  main(*sys.argv[1:])
