"""Every config builds; one a shape of data trains, resumes and evaluates."""

import csv
import pathlib
import shutil
import subprocess
import sys

import chex
import numpy as np
import pytest
import scipy.sparse

from zsljax import training
from zsljax.configs import (
  attended_autoencoder,
  baselines,
  cosine,
  msdn,
  recommended,
  sdl,
  semantic_softmax,
)
from zsljax.data import make_multilabel_set, open_dataset, prepare
from zsljax.errors import ZsljaxError
from zsljax.evaluation import PROTOCOLS, Calibration
from zsljax.evaluation.multilabel import population
from zsljax.losses import FAMILY
from zsljax.models import build_system
from zsljax.reporting.rows import read_rows
from zsljax.runs import evaluate as evaluation
from zsljax.runs.config import read_config
from zsljax.runs.evaluate import evaluate
from zsljax.runs.train import train
from zsljax.training.checkpoints import Checkpoints

MODULES = (attended_autoencoder, baselines, cosine, msdn, recommended, sdl)
MODULES += (semantic_softmax,)
SHORT = (
  "epochs=2", "optimizer.tolerance=0.0", "checkpoint.every_epochs=1", "mesh.data=1",
  "evaluation.batch_size=64",
)  # fmt: skip
MULTI_LABEL = ("lesa", "biam_openimages", "sdl", "ml_decoder", "dualcoop")


def multi_label_stand_in(name, dest, prefix="label", same=0):
  """Stores a small random set with several labels an image."""
  rng = np.random.default_rng(0)
  labels = rng.choice([-1, 0, 1], (200, 14), p=[0.2, 0.5, 0.3]).astype(np.int8)
  feature_set = make_multilabel_set(
    name=name,
    features_kind="random",
    class_embedding="words",
    split_version="made up",
    features=rng.standard_normal((200, 12)).astype(np.float32),
    labels=scipy.sparse.csr_array(labels),
    label_names=[f"{'label' if i < same else prefix} {i}" for i in range(14)],
    vectors=rng.standard_normal((14, 5)),
    seen=np.arange(14) < 11,
    trainval=np.arange(160),
    test=np.arange(160, 200),
    where="made up",
    sources={},
  )
  prepare(feature_set, dest)


@pytest.fixture
def small(stand_in, tmp_path_factory):
  """Reads a shipped config, shortened to two epochs, and makes its dataset once."""
  root = tmp_path_factory.getbasetemp() / "datasets"

  def small(argument, *fields):
    overrides = [f"--config.{field}" for field in (*SHORT, *fields)]
    config = read_config(argument, overrides)
    name, dataset = argument.split(":")[0], config["data"]["name"]
    embedded = dataset in ("digits", "multidigit")
    dest = root / ("embedded" if embedded else name)
    config["data"]["dir"] = config["data"]["dir"] or str(dest)
    if not embedded and not (dest / dataset).exists():
      if name == "sdl":
        multi_label_stand_in(dataset, dest)
      else:
        regions = (4, config["data"]["num_channels"] or 8)
        on_regions = name in ("msdn", "attended_autoencoder")
        stand_in(dataset, dest, shape=regions if on_regions else (12,))
    return config

  return small


@pytest.fixture
def digits_run(small, tmp_path_factory):
  """A config and its run of two steps, which is trained once."""
  config = small("semantic_softmax:digits")
  workdir = tmp_path_factory.getbasetemp() / "digits_run"
  if not workdir.exists():
    train(config, workdir)
  return config, workdir


def test_every_config_builds_its_system_and_optimizer():
  count = 0
  several = {baselines: baselines.SYSTEMS, cosine: FAMILY}
  several[recommended] = recommended.GRIDS
  for module in MODULES:
    choices = several.get(module, [""])
    for dataset in module.DATASETS:
      for choice in choices:
        if module is recommended and (choice == "sdl") != (dataset in sdl.DATASETS):
          continue
        config = module.get_config(f"{dataset},{choice}".rstrip(",")).to_dict()
        system = build_system(config["system"])
        assert config["data"]["name"] == dataset
        training.make_optimizer(config["optimizer"], config["batch_size"], 100)
        if module is cosine:
          assert system.loss_name == choice
          assert (system.task == "closed_set") == (dataset == "digits")
        count += 1
  assert count > 100


@pytest.mark.parametrize(
  ("argument", "fields", "steps", "protocols"),
  [
    ("semantic_softmax:digits", (), 2, ("xian", "retrieval")),
    ("baselines:digits,eszsl", ("epochs=1",), 1, ("xian", "retrieval")),
    ("msdn:sun", ("batch_size=20",), 4, ("xian",)),
    ("attended_autoencoder:scene15", ("batch_size=20",), 4, ("xian",)),
    ("cosine:digits", ("batch_size=500",), 4, ("embeddings",)),
    ("sdl:open_images", ("batch_size=80",), 4, ("lesa",)),
    *(
      pytest.param(*case, marks=pytest.mark.slow)
      for case in (
        ("semantic_softmax:awa1", (), 2, ("xian", "retrieval")),
        ("baselines:cub,sae", ("epochs=1",), 1, ("xian", "retrieval")),
        ("baselines:digits,nearest_mean", ("epochs=1",), 1, ("xian", "retrieval")),
        ("msdn:digits", ("batch_size=500", "data.cache=none"), 4, ("xian",)),
        ("cosine:cub", ("batch_size=24",), 4, ("xian", "embeddings")),
        ("recommended:cub,cosine", ("batch_size=24",), 4, ("xian", "embeddings")),
        ("sdl:corel5k", ("batch_size=80",), 4, MULTI_LABEL),
      )
    ),
  ],
)
def test_config_trains_and_evaluates(
  small, tmp_path, argument, fields, steps, protocols
):
  config = small(argument, *fields)
  for _ in range(2):  # The second start finds the run finished.
    assert int(train(config, tmp_path / "w").step) == steps
  assert evaluate(tmp_path / "w")[0]["protocol"] == protocols[0]
  found = {}
  for protocol in protocols:
    row = found[protocol] = evaluate(tmp_path / "w", protocol=protocol)[0]
    assert (row["system"], row["dataset"], row["protocol"], row["step"]) == (
      config["system"]["name"],
      config["data"]["name"],
      protocol,
      steps,
    )
    assert all(-100 <= value <= 100 for value in row["metrics"].values())
  metrics = {protocol: row["metrics"] for protocol, row in found.items()}
  if argument.startswith("baselines:digits"):
    assert metrics["xian"]["s"] > 30 and metrics["retrieval"]["map"] > 50
  if argument.startswith("baselines"):
    curve = np.genfromtxt(tmp_path / "w" / "curve_test.csv", delimiter=",", names=True)
    at = np.searchsorted(curve["gamma"], 0)
    s = metrics["xian"]["s"]
    assert curve["s"][at - 1] >= s - 1e-4 >= curve["s"][at] - 2e-4
    assert (tmp_path / "w" / "curve_test.png").read_bytes().startswith(b"\x89PNG")
  if "embeddings" in metrics:
    assert metrics["embeddings"].keys() >= {"accuracy", "map", "tar@0.01", "eer"}
    roc = np.loadtxt(tmp_path / "w" / "roc_test.csv", delimiter=",", skiprows=1)
    assert roc[0, 1] == roc[0, 2] == 0 and roc[-1, 1] == roc[-1, 2] == 1
  if "sdl" in metrics:
    assert len(read_rows(tmp_path / "w")) == len(MULTI_LABEL)
    conditions = {protocol: row["conditions"] for protocol, row in found.items()}
    for protocol, counted in conditions.items():
      assert counted["drop_images_without_positive"] == (protocol != "lesa")
    lesa, other = (conditions[p]["zsl"]["density"] for p in ("lesa", "sdl"))
    assert lesa < other
  if config["evaluation"]["top_k"]:
    assert tuple(row["conditions"]["top_k"]) == config["evaluation"]["top_k"]


@pytest.mark.parametrize(
  ("dataset", "split", "zsl", "gzsl", "expected"),
  [
    ("nus_wide", "nus-925-81", 1.8757, 6.8, "LESA's lists"),
    ("nus_wide", "as_given", 1.4, 2.419, "DualCoOp's filtered lists"),
    ("nus_wide", "nus-925-81", 1.8757, 5.97, "none known"),
    ("coco", "as_given", 0.5, 2.5702, "released lists"),
    ("coco", "coco-48-17-val2014", 0.5, 2.7, "all of val2014"),
    ("coco", "coco-48-17", 1.21, 2.91, "SDL's rows"),
    ("corel5k", "as_given", 1.0, 2.48, None),
  ],
)
def test_populations_are_told_by_their_density(dataset, split, zsl, gzsl, expected):
  counted = {"zsl": {"density": zsl}, "gzsl": {"density": gzsl}}
  assert population(dataset, split, counted) == expected
  row = {"dataset": dataset, "conditions": {"population": expected}}
  said = evaluation._densities(row)
  assert (f"population: {expected}" in said) == (expected is not None)
  assert ("do not compare" in said) == (expected in ("none known", "all of val2014"))


def test_evaluation_on_another_dataset(small, tmp_path):
  """Labels with names of the training are seen, others are not."""
  config = small("sdl:corel5k")
  train(config, tmp_path / "w")
  multi_label_stand_in("other", tmp_path / "data", prefix="tag", same=4)
  evaluate(tmp_path / "w")
  (row,) = evaluate(tmp_path / "w", on=tmp_path / "data")
  assert row["dataset"] == "other"
  assert row["provenance"]["trained_on"]["name"] == "corel5k"
  assert row["conditions"]["zsl"]["labels"] == 10
  assert [row["dataset"] for row in read_rows(tmp_path / "w")] == ["corel5k", "other"]
  multi_label_stand_in("apart", tmp_path / "apart", prefix="tag")
  with pytest.raises(ZsljaxError, match="classes: found 0 of 14 classes that were"):
    evaluate(tmp_path / "w", on=tmp_path / "apart")
  with pytest.raises(ZsljaxError, match="found 2 datasets"):
    evaluate(tmp_path / "w", on=tmp_path)


def test_rows_of_other_k_stay_beside_each_other(small, tmp_path):
  train(small("sdl:corel5k"), tmp_path / "w")
  for top_k in ((1,), (3,), (1,)):
    (row,) = evaluate(tmp_path / "w", top_k=top_k)
  assert {n for n in row["metrics"] if "@" in n} == {
    f"{setting}_{name}@1"
    for setting in ("zsl", "gzsl")
    for name in ("p", "r", "f1", "sample_f1", "macro_f1")
  }
  found = [row["conditions"]["top_k"] for row in read_rows(tmp_path / "w")]
  assert found == [[3], [1]]


@pytest.mark.slow
def test_multi_label_run_on_validation_labels(small, tmp_path):
  fields = ("data.train_split=train", "batch_size=2000")
  train(small("sdl:multidigit", *fields), tmp_path / "w")
  (row,) = evaluate(tmp_path / "w", split="val")
  assert row["protocol"] == "lesa_val"
  counted = row["conditions"]
  assert [counted[s]["labels"] for s in ("zsl", "gzsl")] == [2, 7]
  assert counted["zsl"]["images"] == 1000


@pytest.mark.parametrize(
  ("argument", "fields", "message"),
  [
    ("sdl:corel5k", "data.name=digits", "expected several labels, wh"),
    ("semantic_softmax:digits", "data.name=multidigit", "found several labels each, e"),
    ("msdn:digits", "data.num_channels=7", "found 25 channels, expected 7, config.dat"),
    (
      "msdn:digits",
      "data.sampling=class_balanced mesh.data=4",
      "config.batch_size=50, class_balanced: images of a batch",
    ),
  ],
)
def test_config_must_fit_the_data(small, tmp_path, argument, fields, message):
  with pytest.raises(ZsljaxError, match=message):
    train(small(argument, *fields.split()), tmp_path / "w")


@pytest.mark.parametrize(
  ("argument", "options", "message"),
  [
    ("sdl:corel5k", {"protocol": "lessa"}, "cannot be evaluated by 'lessa'. Did you"),
    ("sdl:corel5k", {"gamma": 0.5}, "--gamma: found 0.5, expected no calibration wit"),
    ("sdl:corel5k", {"top_k": (0,)}, r"top_k: found .*0.*, expected numbers of 1 or"),
    ("cosine:digits", {"protocol": "xian"}, "cosine on digits cannot be evaluated by "),
    ("cosine:digits", {"gamma": 0.5}, "no calibration with --protocol=embeddings"),
    (
      "cosine:digits",
      {"on": True},
      "--on: found cosine with prototypes that are learn",
    ),
    (
      "semantic_softmax:digits",
      {"gamma": np.inf},
      "gamma: found inf, expected a finit",
    ),
    ("semantic_softmax:digits", {"protocol": "lesa"}, "'lesa'. Known: retrieval, xian"),
    ("semantic_softmax:digits", {"top_k": (3,)}, "--top_k"),
    ("semantic_softmax:digits", {"split": "val"}, "trained on the validation images"),
    (
      "semantic_softmax:digits",
      {"gamma_from": pathlib.Path("/absent")},
      "found no such folder",
    ),
  ],
)
def test_evaluation_refuses_what_does_not_fit(
  small, tmp_path_factory, argument, options, message
):
  workdir = tmp_path_factory.getbasetemp() / f"refused_{argument.replace(':', '_')}"
  if not workdir.exists():
    fields = [] if "softmax" in argument else ["batch_size=80", "epochs=1"]
    train(small(argument, *fields), workdir)
  if "on" in options:
    folder = tmp_path_factory.getbasetemp() / "datasets"
    options = {"on": next(folder.rglob("digits/pixels_strokes/1.0.0"))}
  with pytest.raises(ZsljaxError, match=message):
    evaluate(workdir, **options)


@pytest.mark.slow
def test_given_pairs_are_verified(small, tmp_path):
  config = small("cosine:digits", "batch_size=500", "epochs=10")
  train(config, tmp_path / "w")
  dataset = open_dataset(config["data"])
  images = dataset.source_rows(dataset.test_splits)
  labels = dataset.labels(dataset.test_splits)
  assert len(set(images)) == len(images) == len(labels)
  rng = np.random.default_rng(0)
  chosen = rng.integers(len(images), size=(60, 2))
  lines = ["# two images", *(f"{a}, {b}" for a, b in images[chosen])]
  pairs = tmp_path / "pairs.txt"
  pairs.write_text("\n".join(lines))
  whole, row = evaluate(tmp_path / "w", pairs=pairs)
  assert (whole["protocol"], row["protocol"]) == ("embeddings", "pairs")
  assert set(row["metrics"]) == set(PROTOCOLS["pairs"].metrics)
  same = (labels[chosen[:, 0]] == labels[chosen[:, 1]]).sum()
  counted = row["provenance"]["pairs"]
  assert (counted["positives"], counted["negatives"]) == (same, 60 - same)
  assert 0 <= row["metrics"]["eer"] <= 100 and 50 < row["metrics"]["auc"] <= 100
  training_row = dataset.source_rows(("train",))[0]
  for line, message in (
    ("1 2 3", r"shape \(1, 3\), expected two whole numbers a line"),
    ("1 two", "found could not convert string 'two' .*, expected two whole numbers"),
    ("# nothing", r"found shape \(0, .*, expected two whole numbers"),
    (f"{images[0]} {training_row}", f"row: found {training_row}, expected rows of the"),
  ):
    pairs.write_text(line)
    with pytest.raises(ZsljaxError, match=message):
      evaluate(tmp_path / "w", pairs=pairs)
  with pytest.raises(ZsljaxError, match="No such file"):
    evaluate(tmp_path / "w", pairs=tmp_path / "none.txt")


@pytest.mark.parametrize(
  ("argument", "fields", "mesh"),
  [
    ("sdl:corel5k", ("batch_size=32",), {"data": 4}),
    pytest.param(
      *("msdn:digits", ("batch_size=128", "epochs=1"), {"data": 4}),
      marks=pytest.mark.slow,
    ),
    pytest.param(
      "cosine:cub",
      ("batch_size=24", "system.preset=embedding", "system.encoder=mlp"),
      {"data": 2, "model": 2},
      marks=pytest.mark.slow,
    ),
  ],
)
def test_several_devices_equal_one(small, tmp_path, argument, fields, mesh):
  config = small(argument, *fields)
  one = train(config, tmp_path / "one")
  config["mesh"] |= mesh
  several = train(config, tmp_path / "several")
  chex.assert_trees_all_close(one.params, several.params, atol=1e-5)
  rows = (evaluate(tmp_path / name)[0]["metrics"] for name in ("one", "several"))
  one, other = rows
  assert one.keys() == other.keys()
  if "model" in mesh:
    prototypes = several.params["prototypes"]
    assert prototypes.sharding.shard_shape(prototypes.shape)[0] == len(prototypes) // 2
    shutil.copytree(tmp_path / "several", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "4")
    cut = train(config, tmp_path / "cut")
    chex.assert_trees_all_equal(cut.params, several.params)


@pytest.mark.slow
def test_three_devices_evaluate_every_image(digits_run, tmp_path):
  config, workdir = digits_run
  train(config | {"mesh": {"data": 3, "model": 1}}, tmp_path / "three")
  (one,), (three,) = evaluate(workdir), evaluate(tmp_path / "three")
  assert three["metrics"] == pytest.approx(one["metrics"], abs=0.5)


@pytest.mark.parametrize(
  ("argument", "sampling", "caches"),
  [
    ("sdl:coco", "epochs", ("none", "device")),
    pytest.param("msdn:digits", "epochs", ("device", "none"), marks=pytest.mark.slow),
    pytest.param("cosine:digits", "epochs", ("none", "device"), marks=pytest.mark.slow),
    pytest.param(
      "msdn:digits", "independent", ("device", "device"), marks=pytest.mark.slow
    ),
    pytest.param(
      "msdn:digits", "class_balanced", ("host", "none"), marks=pytest.mark.slow
    ),
  ],
)
def test_interrupted_run_ends_bit_identical(
  small, argument, sampling, caches, tmp_path, monkeypatch
):
  """Killed after a checkpoint, and continued with the data possibly elsewhere."""
  size = 32 if argument == "sdl:coco" else 200
  fields = (f"data.sampling={sampling}", f"batch_size={size}")
  config = small(argument, *fields, f"data.cache={caches[0]}")
  whole = train(config, tmp_path / "whole")
  save, saved = Checkpoints.save, []

  def dying(self, step, *rest):
    save(self, step, *rest)
    saved.append(step)
    self.wait()
    raise KeyboardInterrupt

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(Checkpoints, "save", dying)
    train(config, tmp_path / "cut")
  config["data"]["cache"] = caches[1]
  cut = train(config, tmp_path / "cut")
  assert 0 < saved[0] < int(whole.step)
  chex.assert_trees_all_equal(cut.params, whole.params)
  chex.assert_trees_all_equal(cut.opt_state, whole.opt_state)


@pytest.mark.slow
def test_gamma_of_the_config_is_reported_too(small, tmp_path):
  train(small("semantic_softmax:digits", "evaluation.gamma=0.5"), tmp_path / "w")
  plain, calibrated = evaluate(tmp_path / "w")
  assert calibrated["calibration"] == "additive"
  assert calibrated["provenance"]["gamma"] == 0.5
  assert calibrated["metrics"]["u"] >= plain["metrics"]["u"]
  _, given = evaluate(tmp_path / "w", gamma=2.0)
  assert (given["provenance"]["gamma"], given["selection"]) == (2.0, "last")
  # It belongs to the kind of the config.
  assert len(evaluate(tmp_path / "w", calibration="multiplicative")) == 1


@pytest.mark.slow
def test_minibatches_of_regions(small, tmp_path):
  config = small(
    "semantic_softmax:digits", "system.preset=official_code", "system.hidden=(7,)",
    "data.features=patches_strokes", "data.cache=none", "optimizer.name=adam",
    "batch_size=200",
  )  # fmt: skip
  assert int(train(config, tmp_path / "w").step) == 2 * (1008 // 200)
  evaluate(tmp_path / "w")


@pytest.mark.slow
def test_run_goes_on_when_its_data_have_another_form_too(small, stand_in, tmp_path):
  config = small("semantic_softmax:awa1", f"data.dir={tmp_path / 'data'}")
  stand_in("awa1", tmp_path / "data")
  train(config, tmp_path / "w")
  stand_in("awa1", tmp_path / "moved", "float16")
  moved = config | {"data": config["data"] | {"dir": str(tmp_path / "moved")}}
  with pytest.raises(ZsljaxError, match="is 'random_att_float16', there 'random_att'"):
    train(moved, tmp_path / "w")
  stand_in("awa1", tmp_path / "data", "float16")
  (row,) = evaluate(tmp_path / "w")
  assert row["provenance"]["data"]["storage_dtype"] == "float32"
  with pytest.raises(ZsljaxError, match="random_att, random_att_float16"):
    train(config, tmp_path / "w")
  config["data"]["features"] = "random_att"
  assert int(train(config, tmp_path / "w").step) == 2


@pytest.mark.slow
def test_two_processes_make_the_same_data_once(tmp_path):
  code = (
    "from zsljax.data import open_dataset; import sys; "
    "d = open_dataset({'name': 'digits', 'features': None, 'dir': sys.argv[1]}); "
    "from zsljax.data import TrainingData; "
    "b = TrainingData(d, 'trainval', 64, 0, 'none').batches(); "
    "print(sum(next(b)['labels'].sum() for _ in range(60)))"
  )
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True
    )
    for _ in range(3)
  ]
  assert len({p.communicate()[0] for p in processes}) == 1
  assert [p.returncode for p in processes] == [0, 0, 0]


@pytest.mark.slow
def test_validation_chooses_gamma_for_the_test(small, digits_run, tmp_path):
  _, workdir = digits_run
  with pytest.raises(ZsljaxError, match="no additive gamma was chosen there"):
    evaluate(workdir, gamma_from=workdir)
  fields = ("semantic_softmax:digits", "data.train_split=train")
  train(small(*fields), tmp_path / "train")
  chosen = evaluate(tmp_path / "train", split="val")[1]
  assert chosen["protocol"] == "xian_val" and chosen["selection"] == "val_selected"
  plain, calibrated, oracle = evaluate(
    workdir, gamma_from=tmp_path / "train", test_oracle=True
  )
  assert plain["selection"] == "last" and plain["calibration"] == "none"
  assert calibrated["selection"] == "val_selected"
  assert oracle["selection"] == "test_oracle"
  with (workdir / "classes_test.csv").open() as file:
    lines = list(csv.DictReader(file))
  gamma = Calibration("additive", calibrated["provenance"]["gamma"])
  heads = [f"accuracy ({text})" for text in ("none", gamma.text)]
  assert [head for head in lines[0] if head.startswith("accuracy (")] == heads
  of_seen = [float(line[heads[1]]) for line in lines if line["kind"] == "seen"]
  assert np.mean(of_seen) == pytest.approx(calibrated["metrics"]["s"], abs=0.01)
  for field in ("share", "temperature_share"):
    assert calibrated["provenance"][field] == chosen["provenance"][field]
  for row in (chosen, calibrated):
    chances = row["provenance"]["probabilities"]
    assert chances["temperature"] > 0 and 0 <= chances["ece"] <= 100
    chances |= {"temperature": 0.07, "ece_before": 2.6, "ece": 2.5}
    assert "2.6 %, 2.5 % with temperature 0.07\n" in evaluation.described([row], "val")
    chances["ece"] = 2.7
    said = evaluation.described([row], "val")
    assert "2.6 %, which temperature 0.07 does not lower (2.7 %)\n" in said
  assert calibrated["metrics"]["t1"] == plain["metrics"]["t1"]
  path = tmp_path / "train" / "results.jsonl"
  split = f'"split_version": "{chosen["split_version"]}"'
  path.write_text(path.read_text().replace(split, '"split_version": "v1"'))
  with pytest.raises(ZsljaxError, match=": split: found v1, expected .* as here"):
    evaluate(workdir, gamma_from=tmp_path / "train")
  train(small(*fields, "system.l2_weights=9.0"), tmp_path / "other")
  evaluate(tmp_path / "other", split="val")
  message = "config.system.l2_weights: found 9.0, expected 0.01"
  with pytest.raises(ZsljaxError, match=message):
    evaluate(workdir, gamma_from=tmp_path / "other")
