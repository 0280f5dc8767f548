import csv
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import zsljax
from zsljax.classes import ClassSpace
from zsljax.data.files.class_table import write_class_table
from zsljax.errors import ZsljaxError
from zsljax.evaluation import Calibration, decide, generalized_predictions
from zsljax.evaluation.thresholds import Thresholds
from zsljax.models import build_system
from zsljax.predict import Predictor, _table, _write, predict_files
from zsljax.reporting.rows import RULE
from zsljax.runs.experiment import Experiment, spec_of
from zsljax.runs.workdir import read_manifest


@pytest.fixture(scope="module")
def run(short_run):
  return short_run("semantic_softmax")


@pytest.fixture
def images():
  return np.random.default_rng(0).uniform(0, 1, (3, 64)).astype(np.float32)


def described(predictor, names, shift=0.0):
  embeddings = np.asarray(predictor.classes.embeddings)[: len(names)] + shift
  return ClassSpace.create(names, embeddings)


def test_predictions_are_the_system_s_scores(run, images):
  predictor = zsljax.load(run, gamma=0.3)
  found = predictor.predict(images, top_k=10, seen=True)
  experiment = Experiment.build(read_manifest(run)["config"])
  classes = experiment.dataset.classes
  scores = np.asarray(experiment.system.scores(predictor.params, images, classes))
  scores = scores - 0.3 * np.asarray(classes.seen)
  order = np.argsort(-scores, 1)
  assert found.classes == [[classes.names[i] for i in row] for row in order]
  ranked = np.take_along_axis(scores, order, 1)
  np.testing.assert_allclose(found.scores, ranked, 1e-4, 1e-5)
  chances = np.exp(ranked) / np.exp(ranked).sum(1, keepdims=True)
  np.testing.assert_allclose(found.probabilities, chances, 1e-4)


@pytest.mark.parametrize("seen", [[True, False], [False, True]])
def test_ties_at_zero_are_those_of_an_evaluation(seen):
  classes = ClassSpace.create("ab", np.eye(2), seen)
  system, spec = build_system({"name": "eszsl"}), spec_of((3,), classes)
  params = system.init(jax.random.key(0), spec)  # All scores are 0.
  calibration = Calibration("multiplicative", 0.5)
  found = Predictor(system, params, classes, spec, calibration).predict(
    np.ones((1, 3)), seen=True
  )
  decisions = jax.device_get(decide(np.zeros((1, 2)), classes.seen))
  assert generalized_predictions(decisions, calibration) == [0]
  assert found.classes == [["a", "b"]]


def test_candidates_are_those_asked_for(run, images):
  predictor = zsljax.load(run)
  names = np.array(predictor.classes.names)
  seen = np.asarray(predictor.classes.seen)
  found = predictor.predict(images, top_k=99)
  assert set(found.classes[0]) == set(names[~seen])
  new = described(predictor, ["new one", "new two"], shift=0.1)
  assert set(predictor.predict(images, new).classes[0]) == {"new one", "new two"}
  both = predictor.predict(images, new, seen=True, top_k=99).classes[0]
  assert set(both) == {"new one", "new two", *names[seen]}


def test_candidates_are_made_ready_once(run, images):
  predictor = zsljax.load(run)
  new = described(predictor, ["new one", "new two"], shift=0.1)
  ready = predictor.candidates(new, seen=True)
  first, again = (predictor.predict(images, ready, top_k=3) for _ in range(2))
  direct = predictor.predict(images, new, seen=True, top_k=3)
  assert first.classes == again.classes == direct.classes
  np.testing.assert_array_equal(first.scores, direct.scores)


def test_known_names_are_the_known_classes(run, images):
  predictor = zsljax.load(run, gamma=1.0)
  one = predictor.classes.subset([0, 9])
  found = predictor.predict(images, one, seen=True, top_k=99)
  assert len(found.classes[0]) == len(set(found.classes[0]))
  with pytest.raises(ZsljaxError, match="class '0': found another description"):
    predictor.predict(images, described(predictor, ["0"], shift=0.5))


def test_prediction_does_not_depend_on_the_batch(run, images):
  predictor = zsljax.load(run)
  together = predictor.predict(images, attributes=2)
  for i, image in enumerate(images):
    alone = predictor.predict(image[None], attributes=2)
    assert alone.classes[0] == together.classes[i]
    assert [a for a, _ in alone.attributes[0]] == [a for a, _ in together.attributes[i]]
    np.testing.assert_allclose(alone.scores[0], together.scores[i], 1e-5, 1e-6)


@pytest.mark.parametrize(
  "name", ["semantic_softmax", pytest.param("msdn", marks=pytest.mark.slow)]
)
def test_shares_of_attributes_add_up_to_the_lead(name, short_run):
  predictor = zsljax.load(short_run(name))
  shape = (2, *predictor.spec.feature_shape)
  images = np.random.default_rng(1).uniform(0, 1, shape).astype(np.float32)
  width = predictor.spec.num_attributes
  found = predictor.predict(images, top_k=3, attributes=width)
  for i, (own, *others) in enumerate(found.classes):
    classes = predictor.classes
    described = classes.embeddings[[classes.names.index(n) for n in (own, *others)]]
    space = classes.subset(classes.seen).extended(["", "", ""], described)
    *_, best, second, third = predictor.system.scores(
      predictor.params, images[i : i + 1], space
    )[0]
    shares = [share for _, share in found.attributes[i]]
    lead = float(best - (second + third) / 2)
    assert sum(shares) == pytest.approx(lead, rel=2e-3, abs=1e-4)
    assert shares == sorted(shares, reverse=True)


def test_less_of_an_attribute_is_not_it(short_run):
  predictor = zsljax.load(short_run("semantic_softmax"))
  images = np.random.default_rng(1).uniform(0, 1, (8, 64)).astype(np.float32)
  found = predictor.predict(images, top_k=2, attributes=14)
  classes = predictor.classes
  for (own, other), shares in zip(found.classes, found.attributes, strict=True):
    for name, _ in shares:
      column = classes.attribute_names.index(name.removeprefix("not "))
      of = (classes.embeddings[classes.names.index(n), column] for n in (own, other))
      assert name.startswith("not ") == (next(of) < next(of))


def test_learned_class_weights_refuse_new_classes(short_run):
  predictor = zsljax.load(short_run("cosine"))
  images = np.zeros((1, 64), np.float32)
  new = described(predictor, ["zebra"])
  with pytest.raises(ZsljaxError, match="class 'zebra': found a new class.*trained on"):
    predictor.predict(images, new)
  known = set(np.array(predictor.classes.names)[predictor.classes.seen])
  assert set(predictor.predict(images, top_k=99).classes[0]) == known
  found = predictor.predict(images, predictor.classes.subset([0, 1]), attributes=3)
  assert set(found.classes[0]) == {"0", "1"} and found.attributes == [[]]


@pytest.mark.parametrize(
  ("features", "options", "message"),
  [
    (np.zeros((2, 63)), {}, r"shape \(2, 63\), expected \(B, 64\).*another network"),
    (np.zeros((0, 64)), {}, "no images"),
    (np.full((2, 64), np.nan), {}, r"image \[0\], counted from 0: found NaN"),
    (np.full((2, 64), "x"), {}, "expected numbers"),
    (np.zeros((1, 64)), {"attributes": -1}, "attributes: found -1"),
    (np.zeros((1, 64)), {"top_k": 0}, "top_k: found 0"),
    (np.zeros((1, 64)), {"top_k": "3"}, "top_k: found '3', expected a whole number"),
    (np.zeros((1, 64)), {"top_k": 2.5}, "top_k: found 2.5, expected a whole number"),
    ([[1, 2], [3]], {}, "features: .*inhomogeneous.*, expected rows of one length"),
    (np.zeros((1, 64)), {"classes": "ready", "seen": True}, "beside candidates"),
    (np.zeros((1, 64)), {"classes": {"zebra": [1]}}, "classes: found a dict"),
  ],
)
def test_unusable_input_is_refused(features, options, message, run):
  predictor = zsljax.load(run)
  if options.get("classes") == "ready":
    options = options | {"classes": predictor.candidates()}
  with pytest.raises(ZsljaxError, match=message):
    predictor.predict(features, **options)


def test_file_and_python_ways_agree(run, images, tmp_path):
  predictor = zsljax.load(run)
  images = np.concatenate([images, np.full((1, 64), np.nan, np.float32)])
  np.save(tmp_path / "x.npy", images)
  values = np.asarray(predictor.classes.embeddings)[:2] + 0.25
  names = predictor.classes.attribute_names
  write_class_table(tmp_path / "new.csv", ["a", "b"], names, values)
  with (tmp_path / "new.csv").open("a") as file:
    file.write("c,1,2\n")
  files = {"features": tmp_path / "x.npy", "classes": tmp_path / "new.csv", "top_k": 3}
  with pytest.raises(ZsljaxError, match=r"class 'c' \(line 4\): found 2 numbers"):
    predict_files(run, **files)
  dest = tmp_path / "out.csv"
  told = predict_files(run, **files, seen=True, skip_bad=True, dest=dest)
  assert "left out: class 'c' (line 4)" in told
  assert "left out: image 3: features not finite" in told
  new = ClassSpace.create(["a", "b"], values)
  found = predictor.predict(images[:3], new, seen=True, top_k=3, attributes=3)
  rows = list(csv.DictReader(dest.read_text().splitlines()))
  assert [row["class"] for row in rows] == sum(found.classes, [])
  np.testing.assert_allclose(
    [float(row["score"]) for row in rows], found.scores.ravel(), 1e-6
  )
  assert rows[0]["because"].startswith(found.attributes[0][0][0])
  table = predict_files(run, **files, skip_bad=True)
  assert table.splitlines()[0].split() == ["image", "class", "score", "%"]
  assert "because of" in table


CHOSEN = {
  **{"rule": RULE, "point": {}, "step": 10_000, "share": 0.5, "metric": "ausuc"},
  **{"value": 1.0, "settings": 1, "folds": "5", "reselected": []},
}


def test_gamma_is_that_of_the_sweep_or_the_config(run, tmp_path):
  assert zsljax.load(run).calibration.gamma is None
  copy = shutil.copytree(run, tmp_path / "run")
  manifest = json.loads((copy / "manifest.json").read_text())
  manifest["config"]["evaluation"]["gamma"] = 0.25
  (copy / "manifest.json").write_text(json.dumps(manifest))
  assert zsljax.load(copy).calibration.gamma == 0.25
  (copy / "chosen.json").write_text(json.dumps(CHOSEN | {"gamma": 0.5}))
  assert zsljax.load(copy).calibration.gamma == 0.5
  (copy / "chosen.json").write_text(json.dumps(CHOSEN | {"gamma": 0.0}))
  assert zsljax.load(copy).calibration.gamma == 0
  (copy / "chosen.json").write_text(json.dumps(CHOSEN | {"gamma": 0.5, "step": 0}))
  assert zsljax.load(copy).calibration.gamma == 0.25  # Training went on.
  (copy / "chosen.json").write_text(json.dumps({"gamma": 0.0}))
  with pytest.raises(ZsljaxError, match="chosen.json: rule: found None, expected"):
    zsljax.load(copy)
  (copy / "chosen.json").unlink()
  with pytest.raises(ZsljaxError, match="gamma: found nan"):
    zsljax.load(copy, gamma=float("nan"))
  path = copy / "classes.npz"
  path.write_bytes(path.read_bytes()[:99])
  with pytest.raises(ZsljaxError, match="classes.npz: not readable"):
    zsljax.load(copy)
  np.savez(path, names=["a"], embeddings=np.ones((1, 2)), odd=1)
  with pytest.raises(ZsljaxError, match="classes.npz: not readable .*'odd'"):
    zsljax.load(copy)
  path.unlink()
  with pytest.raises(ZsljaxError, match="no classes.npz"):
    zsljax.load(copy)
  with pytest.raises(ZsljaxError, match="no manifest.json"):
    zsljax.load(tmp_path)


OPEN_SET = {
  "semantic_softmax": ((6,), {}),
  "attended_autoencoder": ((4, 6), {}),
  "msdn": ((4, 6), {"preset": "official_code"}),
  "sdl": ((6,), {}),
  "cosine": ((6,), {"preset": "class_norm_official_code", "generator_hidden": 8}),
  "eszsl": ((6,), {}),
  "sae": ((6,), {}),
  "nearest_mean": ((6,), {}),
}
QUICK = ("semantic_softmax", "msdn", "sdl", "eszsl")


@pytest.mark.parametrize(
  "name",
  [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in OPEN_SET],
)
def test_a_new_class_scores_as_its_description_says(name, class_space):
  """Scores equal those of an unseen class with the same description."""
  shape, fields = OPEN_SET[name]
  classes = class_space()
  rng = np.random.default_rng(0)
  vectors = rng.standard_normal((4, 3)).astype(np.float32)
  classes = dataclasses.replace(
    classes, attribute_vectors=vectors, attribute_names=tuple("abcd")
  )
  system = build_system({"name": name, **fields})
  spec = spec_of(shape, classes)
  params = system.init(jax.random.key(0), spec)
  noise = jax.random.normal(jax.random.key(1), (1000,))
  params = jax.tree.map(lambda x: x + noise[: x.size].reshape(x.shape), params)
  predictor = Predictor(system, params, classes, spec)
  images = rng.uniform(0, 1, (2, *shape)).astype(np.float32)
  unseen = classes.subset(~classes.seen)
  new = ClassSpace.create(["new 1", "new 2"], unseen.embeddings)
  known = predictor.predict(images, seen=True, top_k=9)
  found = predictor.predict(images, new, seen=True, top_k=9, attributes=2)
  np.testing.assert_allclose(found.scores, known.scores, 1e-5, 1e-5)
  renamed = dict(zip(unseen.names, new.names, strict=True))
  assert found.classes == [[renamed.get(c, c) for c in row] for row in known.classes]
  assert len(found.attributes[0]) == 2
  assert (found.probabilities is None) == (name == "sdl")


def test_labels_that_reach_their_thresholds(class_space, tmp_path):
  classes = class_space()
  system = build_system({"name": "sdl"})
  spec = spec_of((6,), classes)
  params = system.init(jax.random.key(0), spec)
  images = np.random.default_rng(0).uniform(0, 1, (3, 6)).astype(np.float32)
  everything = Predictor(system, params, classes, spec).predict(images, top_k=9)
  cut = float(np.sort(everything.scores.ravel())[-2])  # Two labels in all.
  thresholds = Thresholds({}, cut, cut)
  predictor = Predictor(system, params, classes, spec, thresholds=thresholds)
  found = predictor.predict(images)
  assert [found.count(i) for i in range(3)] == (everything.scores >= cut).sum(
    1
  ).tolist()
  shown = _table(["a", "b", "c"], found).splitlines()
  bare = [name for i, name in enumerate("abc") if not found.count(i)]
  assert [line[0] for line in shown if line.endswith("no label")] == bare and bare
  assert len(shown) == 1 + 2 + len(bare)
  _write(tmp_path / "p.csv", ["a", "b", "c"], found)
  assert len((tmp_path / "p.csv").read_text().splitlines()) == 3
  assert predictor.predict(images, top_k=1).given is None
