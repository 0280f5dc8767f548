import pickle

import chex
import numpy as np
import pytest
import sklearn.base
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import check_estimator

from zsljax import ZeroShotClassifier
from zsljax.data.pipeline import load
from zsljax.errors import ZsljaxError
from zsljax.runs.config import read_config
from zsljax.runs.experiment import Experiment
from zsljax.runs.train import train

NAMES = ("ape", "bat", "cow", "dog", "elk", "fox", "gnu", "hen")
ATTRIBUTES = dict(
  zip(NAMES, np.random.default_rng(0).uniform(0, 1, (8, 5)).tolist(), strict=True)
)
SEEN = NAMES[:-1]
VECTORS = np.eye(5, 7)


def images(names, count=15, regions=0, seed=0):
  """Features that are a linear map of the attributes, and noise."""
  rng = np.random.default_rng(seed)
  y = np.repeat(names, count)
  shape = (len(y), regions, 12) if regions else (len(y), 12)
  turn = np.random.default_rng(1).standard_normal((5, 12))
  means = np.array([ATTRIBUTES[name] for name in y]) @ turn
  means = means[:, None] if regions else means
  return means + rng.normal(0, 0.05, shape), y


@pytest.mark.parametrize(
  ("system", "regions"),
  [
    ("eszsl", 0),
    pytest.param("nearest_mean", 0, marks=pytest.mark.slow),
    pytest.param("semantic_softmax", 0, marks=pytest.mark.slow),
    pytest.param("normface", 0, marks=pytest.mark.slow),
    pytest.param("msdn", 4, marks=pytest.mark.slow),
    pytest.param("attended_autoencoder", 4, marks=pytest.mark.slow),
  ],
)
def test_every_system_predicts_a_class_without_images(system, regions):
  X, y = images(SEEN, regions=regions)
  model = ZeroShotClassifier(system, gamma=0.1)
  model.fit(X, y, ATTRIBUTES, VECTORS)
  assert list(model.classes_) == sorted(ATTRIBUTES)
  new, of_new = images(["hen"], regions=regions, seed=1)
  assert (model.predict(new, unseen_alone=True) == of_new).all()
  chances = model.predict_proba(new)
  np.testing.assert_allclose(chances.sum(1), 1, rtol=1e-5)
  found = model.predictor_.predict(new, model.predictor_.classes, top_k=1)
  assert [names[0] for names in found.classes] == list(model.predict(new))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("config", "fields"),
  [
    ("baselines:digits,eszsl", {}),
    (
      "semantic_softmax:digits",
      {"epochs": 9, "system.l2_weights": 0.1, "system.l2_prototypes": 1.0},
    ),
  ],
)
def test_it_is_the_run_of_the_command(tmp_path, config, fields):
  system = config.split(",")[-1].split(":")[0]
  flags = [f"--config.{field}={value}" for field, value in fields.items()]
  config = read_config(config, ["--config.mesh.data=1", *flags])
  state = train(config, tmp_path)
  run = Experiment.of_run(tmp_path)
  stored = load(run.dataset, run.dataset.training_splits("trainval"))
  space = run.dataset.classes
  described = dict(zip(space.names, np.asarray(space.embeddings), strict=True))
  named = np.array(space.names)[space.columns(stored["labels"])]
  model = ZeroShotClassifier(system, fields=fields)
  model.fit(stored["features"], named, described)
  assert_close = chex.assert_trees_all_close
  assert_close(model.predictor_.params, state.params, rtol=1e-3, atol=1e-5)


def test_descriptions_in_any_form_are_the_same():
  X, y = images(SEEN)
  places = {name: i for i, name in enumerate(sorted(ATTRIBUTES))}
  array = np.array([ATTRIBUTES[name] for name in places])
  named = ZeroShotClassifier().fit(X, y, ATTRIBUTES)
  turned = ZeroShotClassifier().fit(X, y, dict(reversed(ATTRIBUTES.items())))
  numbered = ZeroShotClassifier().fit(X, [places[name] for name in y], array)
  for other in (turned, numbered):
    np.testing.assert_allclose(other.predict_proba(X), named.predict_proba(X), 1e-5)


def test_the_seed_and_the_settings_are_the_config_s():
  X, y = images(SEEN, regions=4)
  fields = {"epochs": 2}

  def chances(seed):
    model = ZeroShotClassifier("msdn", fields=fields, random_state=seed)
    return model.fit(X, y, ATTRIBUTES, VECTORS).predict_proba(X)

  np.testing.assert_array_equal(chances(0), chances(0))
  assert (chances(0) != chances(1)).any()


def test_a_stage_is_fitted_to_the_images():
  X, y = images(SEEN)
  centred = X - X.mean(0)
  covariance = centred.T @ centred / len(X)
  root = np.linalg.cholesky(covariance + np.trace(covariance) / 12 * np.eye(12))
  fields = {"system.ridge": 0.1}
  behind = ZeroShotClassifier("recommended", fields=fields).fit(X, y, ATTRIBUTES)
  alone = ZeroShotClassifier("nearest_mean", fields=fields)
  whitened = np.linalg.solve(root, centred.T).T
  expected = alone.fit(whitened, y, ATTRIBUTES).predict_proba(whitened)
  np.testing.assert_allclose(behind.predict_proba(X), expected, rtol=1e-3)
  plain = ZeroShotClassifier(
    "recommended", fields=fields | {"stage.features": "as_is"}
  ).fit(X, y, ATTRIBUTES)
  assert not np.allclose(plain.predict_proba(X), expected, rtol=0.1)


def test_a_model_that_has_predicted_is_pickled():
  X, y = images(SEEN)
  model = ZeroShotClassifier().fit(X, y, ATTRIBUTES)
  expected = model.predict_proba(X)
  copy = pickle.loads(pickle.dumps(model))
  np.testing.assert_array_equal(copy.predict_proba(X), expected)


def test_scores_far_apart_have_a_best_unseen_class():
  X, y = images(SEEN[:-1])
  model = ZeroShotClassifier(gamma=-1e4).fit(X, y, ATTRIBUTES)
  assert set(model.predict(X)) <= set(SEEN[:-1])
  assert set(model.predict(X, unseen_alone=True)) == {"gnu", "hen"}


def test_in_scikit_learn_s_tools():
  X, y = images(SEEN)
  model = sklearn.base.clone(ZeroShotClassifier("nearest_mean"))
  scores = cross_val_score(model, X, y, cv=3, params={"class_embeddings": ATTRIBUTES})
  assert scores.mean() > 0.9


@pytest.mark.slow
def test_scikit_learn_s_checks():
  check_estimator(ZeroShotClassifier(), on_skip=None)


@pytest.mark.parametrize(
  ("options", "changed", "message"),
  [
    ({"system": "esszl"}, {}, "system: found 'esszl', expected Did you mean 'eszsl'"),
    ({"system": "sdl"}, {}, "system: found 'sdl'"),
    (
      {"system": "msdn"},
      {},
      r"X for msdn: found shape \(105, 12\), expected \[N, R, D\]",
    ),
    ({"system": "similarity"}, {}, "found 12 features and 5 attributes, expected both"),
    ({"fields": {"epoch": 3}}, {}, "fields: epoch: found a field without effect"),
    ({"fields": {"data.seed": 3}}, {}, "fields: data.seed: found a field without"),
    ({"fields": {"batch_size": 8}}, {}, "config.batch_size: found 8, expected 0"),
    ({"system": "msdn", "fields": {"epochs": 0}}, {}, "config.epochs: found 0"),
    ({}, {"y": np.repeat("ape", 105)}, "y: found images of one class"),
    ({}, {"class_embeddings": {"ape": [1]}}, "class_embeddings: found none of"),
    ({}, {"class_embeddings": {**ATTRIBUTES, "cow": [1]}}, "vectors of one length"),
    ({}, {"class_embeddings": np.ones(4)}, r"found shape \(4,\), expected \[C, A\]"),
    ({}, {"X": np.full((105, 12), np.nan)}, "Input X contains NaN"),
  ],
)
def test_refusals(options, changed, message):
  X, y = images(SEEN)
  arguments = {"X": X, "y": y, "class_embeddings": ATTRIBUTES} | changed
  with pytest.raises(ValueError, match=message):
    ZeroShotClassifier(**options).fit(**arguments)


def test_no_unseen_class_cannot_be_asked_for():
  X, y = images(SEEN)
  model = ZeroShotClassifier("nearest_mean").fit(X, y)
  assert model.score(X, y) == 1
  with pytest.raises(ZsljaxError, match="unseen_alone: found no unseen class"):
    model.predict(X, unseen_alone=True)
