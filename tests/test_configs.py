"""Every config trains, resumes and evaluates on data of its shape."""

import importlib
import shutil
import subprocess
import sys

import chex
import numpy as np
import pytest
import scipy.sparse

from zsljax.configs import (
  attended_autoencoder,
  baselines,
  cosine,
  msdn,
  sdl,
  semantic_softmax,
)
from zsljax.data import make_multilabel_set, open_dataset, prepare
from zsljax.errors import ZsljaxError
from zsljax.evaluation import MULTI_LABEL_PROTOCOLS
from zsljax.losses import FAMILY
from zsljax.models import build_system
from zsljax.reporting.rows import read_rows
from zsljax.training.checkpoints import Checkpoints

train = importlib.import_module("zsljax.runs.train")
eval_script = importlib.import_module("zsljax.runs.evaluate")
evaluate = eval_script.evaluate


def multi_label_stand_in(name, dest):
  """The same of a set with several labels an image."""
  rng = np.random.default_rng(0)
  labels = rng.choice([-1, 0, 1], (200, 14), p=[0.2, 0.5, 0.3]).astype(np.int8)
  feature_set = make_multilabel_set(
    name=name,
    features_kind="random",
    class_embedding="words",
    split_version="made up",
    features=rng.standard_normal((200, 12)).astype(np.float32),
    labels=scipy.sparse.csr_array(labels),
    label_names=[f"label {i}" for i in range(14)],
    vectors=rng.standard_normal((14, 5)),
    seen=np.arange(14) < 11,
    trainval=np.arange(160),
    test=np.arange(160, 200),
    where="made up",
    sources={},
  )
  prepare(feature_set, dest)


@pytest.fixture
def small(stand_in):
  """Makes a shipped config, shortened to two steps, and its dataset."""

  def small(module, argument, dest):
    config = module.get_config(argument)
    config.data.dir = str(dest)
    config.epochs = 2
    config.optimizer.tolerance = 0.0
    config.checkpoint.every_epochs = 1
    config.mesh.data = 1
    config.evaluation.batch_size = 64
    if config.data.name == "own":
      config.data.name = "mine"
    name, regions = config.data.name, module in (msdn, attended_autoencoder)
    if module is sdl:
      if name != "multidigit":
        multi_label_stand_in(name, dest)
    elif name != "digits":
      shape = (4, config.data.num_channels or 8) if regions else (12,)
      stand_in(name, dest, shape=shape)
    return config.to_dict()

  return small


@pytest.mark.parametrize("dataset", semantic_softmax.DATASETS)
def test_config_trains_two_steps_and_evaluates(small, dataset, tmp_path):
  config = small(semantic_softmax, dataset, tmp_path / "data")
  for _ in range(2):  # The second start finds the run finished.
    assert int(train.train(config, tmp_path / "w").step) == 2
  (row,) = evaluate(tmp_path / "w")
  assert (row["system"], row["dataset"], row["step"]) == (
    "semantic_softmax",
    config["data"]["name"],
    2,
  )
  assert all(0 <= value <= 100 for value in row["metrics"].values())


@pytest.mark.parametrize("system", baselines.SYSTEMS)
@pytest.mark.parametrize("dataset", ["digits", "cub"])
def test_baseline_is_solved_and_evaluated(small, dataset, system, tmp_path):
  config = small(baselines, f"{dataset},{system}", tmp_path / "data")
  config["epochs"] = 1
  assert int(train.train(config, tmp_path / "w").step) == 1
  (row,) = evaluate(tmp_path / "w")
  assert (row["system"], row["dataset"]) == (system, config["data"]["name"])
  if dataset == "digits":
    assert row["metrics"]["s"] > 30
  (found,) = evaluate(tmp_path / "w", protocol="retrieval")
  assert found["metrics"].keys() >= {"map", "p@25", "map_released"}
  if dataset == "digits":
    assert found["metrics"]["map"] > 50
  curve = np.genfromtxt(tmp_path / "w" / "curve_test.csv", delimiter=",", names=True)
  at = np.searchsorted(curve["gamma"], 0)
  assert curve["s"][at - 1] >= row["metrics"]["s"] - 1e-4 >= curve["s"][at] - 2e-4
  assert (tmp_path / "w" / "curve_test.png").read_bytes().startswith(b"\x89PNG")


REGION_SYSTEMS = [(m, d) for m in (msdn, attended_autoencoder) for d in m.DATASETS]


@pytest.mark.parametrize(
  ("module", "dataset"), REGION_SYSTEMS, ids=lambda x: getattr(x, "__name__", x)
)
def test_region_config_trains_and_evaluates(small, module, dataset, tmp_path):
  config = small(module, dataset, tmp_path / "data")
  config["data"]["cache"] = "none" if module is msdn else "device"
  config["batch_size"] = min(20, config["batch_size"])
  steps = int(train.train(config, tmp_path / "w").step)
  images = 1008 if dataset == "digits" else 48
  if config["data"]["sampling"] == "epochs":
    assert steps == 2 * (images // 20)
  else:
    assert steps == 2 * images // 20
  row, *_ = evaluate(tmp_path / "w")
  assert row["system"] == config["system"]["name"]
  assert all(0 <= value <= 100 for value in row["metrics"].values())


@pytest.mark.parametrize("dataset", sdl.DATASETS)
def test_multi_label_config_trains_and_evaluates(small, dataset, tmp_path):
  config = small(sdl, dataset, tmp_path / "data")
  images = 5000 if dataset == "multidigit" else 160
  config["batch_size"] = images // 2
  for _ in range(2):
    assert int(train.train(config, tmp_path / "w").step) == 4
  found = {}
  for protocol in MULTI_LABEL_PROTOCOLS:
    (row,) = evaluate(tmp_path / "w", protocol=protocol)
    assert (row["protocol"], row["dataset"]) == (protocol, config["data"]["name"])
    assert all(0 <= value <= 100 for value in row["metrics"].values())
    conditions = row["conditions"]
    assert conditions["drop_images_without_positive"] == (protocol != "lesa")
    assert conditions["unannotated"] in ("ignore", "negative")
    found[protocol] = conditions["zsl"]["density"]
    if config["evaluation"]["top_k"]:
      assert tuple(conditions["top_k"]) == config["evaluation"]["top_k"]
  assert found["lesa"] < found["sdl"]
  assert len(read_rows(tmp_path / "w")) == len(MULTI_LABEL_PROTOCOLS)
  (row,) = evaluate(tmp_path / "w", top_k=(1,))
  assert {n for n in row["metrics"] if "@" in n} == {
    f"{setting}_{name}@1" for setting in ("zsl", "gzsl") for name in ("p", "r", "f1")
  }


def test_density_is_compared_with_that_of_published_tables(monkeypatch):
  counted = {"zsl": {"density": 1.8757}, "gzsl": {"density": 6.8}}
  row = {"dataset": "nus_wide", "conditions": counted}
  assert "zsl 1.876, gzsl 6.800: the same here" in eval_script._densities(row)
  counted["gzsl"]["density"] = 5.97
  assert "do not compare" in eval_script._densities(row)
  assert "published" not in eval_script._densities(row | {"dataset": "corel5k"})


def test_rows_of_other_k_stay_beside_each_other(small, tmp_path):
  config = small(sdl, "corel5k", tmp_path / "data")
  train.train(config, tmp_path / "w")
  for top_k in ((1,), (3,), (1,)):
    evaluate(tmp_path / "w", top_k=top_k)
  found = [row["conditions"]["top_k"] for row in read_rows(tmp_path / "w")]
  assert found == [[3], [1]]


def test_multi_label_run_on_validation_labels(small, tmp_path):
  config = small(sdl, "multidigit", tmp_path / "data")
  config["data"]["train_split"] = "train"
  config["batch_size"] = 2000
  train.train(config, tmp_path / "w")
  (row,) = evaluate(tmp_path / "w", split="val")
  assert row["protocol"] == "lesa_val"
  counted = row["conditions"]
  assert [counted[s]["labels"] for s in ("zsl", "gzsl")] == [2, 7]
  assert counted["zsl"]["images"] == 1000


@pytest.mark.parametrize("caches", [("none", "device"), ("host", "none")])
def test_interrupted_sdl_ends_bit_identical(small, caches, tmp_path):
  """The released recipe; killed at half time, continued with the data elsewhere."""
  config = small(sdl, "coco", tmp_path / "data")
  config["batch_size"] = 32
  config["data"]["cache"] = caches[0]
  whole = train.train(config, tmp_path / "whole")
  shutil.copytree(tmp_path / "whole", tmp_path / "cut")
  shutil.rmtree(tmp_path / "cut" / "checkpoints" / str(int(whole.step)))
  config["data"]["cache"] = caches[1]
  cut = train.train(config, tmp_path / "cut")
  chex.assert_trees_all_equal(cut.params, whole.params)
  chex.assert_trees_all_equal(cut.opt_state, whole.opt_state)


def test_sdl_on_four_devices_equals_one(small, tmp_path):
  config = small(sdl, "corel5k", tmp_path / "data")
  one = train.train(config, tmp_path / "one")
  config["mesh"]["data"] = 4
  four = train.train(config, tmp_path / "four")
  chex.assert_trees_all_close(one.params, four.params, atol=1e-5)
  (row,) = evaluate(tmp_path / "four")
  assert row["conditions"]["gzsl"]["images"] == 40


@pytest.mark.parametrize(
  ("module", "dataset", "message"),
  [
    (sdl, "digits", "images: found one label each, expected several labels, what sdl"),
    (semantic_softmax, "multidigit", "found several labels each, expected one label"),
  ],
)
def test_number_of_labels_must_fit_the_system(
  small, module, dataset, message, tmp_path
):
  own = "multidigit" if module is sdl else "digits"
  config = small(module, own, tmp_path / "data")
  config["data"]["name"] = dataset
  with pytest.raises(ZsljaxError, match=message):
    train.train(config, tmp_path / "w")


def test_multi_label_evaluation_says_what_is_wrong(small, tmp_path):
  config = small(sdl, "corel5k", tmp_path / "data")
  train.train(config, tmp_path / "w")
  for options, message in (
    ({"protocol": "lessa"}, "cannot be evaluated by 'lessa'. Did you mean 'lesa'"),
    ({"protocol": "xian"}, "--protocol: sdl on corel5k cannot be evaluated by 'xian'"),
    ({"gamma": 0.5}, "--gamma: found 0.5, expected no calibration with --protocol=le"),
    ({"top_k": (0,)}, r"--top_k: found \[0\], expected numbers of 1 or more"),
  ):
    with pytest.raises(ZsljaxError, match=message):
      evaluate(tmp_path / "w", **options)


def test_single_label_evaluation_has_one_protocol(small, tmp_path):
  config = small(semantic_softmax, "digits", tmp_path / "data")
  train.train(config, tmp_path / "w")
  assert evaluate(tmp_path / "w", protocol="xian") == evaluate(tmp_path / "w")
  with pytest.raises(ZsljaxError, match="cannot be evaluated by 'lesa'. Known: retr"):
    evaluate(tmp_path / "w", protocol="lesa")
  with pytest.raises(ZsljaxError, match="--top_k"):
    evaluate(tmp_path / "w", top_k=(3,))


@pytest.mark.parametrize("dataset", cosine.DATASETS)
def test_cosine_config_trains_and_evaluates(small, dataset, tmp_path):
  config = small(cosine, dataset, tmp_path / "data")
  config["batch_size"] = 500 if dataset == "digits" else 24
  assert int(train.train(config, tmp_path / "w").step) == 4
  (row,) = evaluate(tmp_path / "w")
  closed = dataset == "digits"
  assert row["protocol"] == ("embeddings" if closed else "xian")
  (embedded,) = evaluate(tmp_path / "w", protocol="embeddings")
  assert embedded["metrics"].keys() >= {
    "accuracy",
    "recall@1",
    "map",
    "tar@0.01",
    "eer",
  }
  assert all(-100 <= value <= 100 for value in embedded["metrics"].values())
  roc = np.loadtxt(tmp_path / "w" / "roc_test.csv", delimiter=",", skiprows=1)
  assert roc[0, 1] == roc[0, 2] == 0 and roc[-1, 1] == roc[-1, 2] == 1
  if closed:
    with pytest.raises(ZsljaxError, match="cosine on digits cannot be evaluated by 'x"):
      evaluate(tmp_path / "w", protocol="xian")
    with pytest.raises(ZsljaxError, match="no calibration with --protocol=embeddings"):
      evaluate(tmp_path / "w", gamma=0.5)


def test_given_pairs_are_verified(small, tmp_path):
  config = small(cosine, "digits", tmp_path / "data")
  train.train(config, tmp_path / "w")
  dataset = open_dataset(config["data"])
  images = dataset.source_rows(dataset.test_splits)
  labels = dataset.labels(dataset.test_splits)
  assert len(set(images)) == len(images) == len(labels)
  rng = np.random.default_rng(0)
  chosen = rng.integers(len(images), size=(60, 2))
  lines = ["# two images", *(f"{a}, {b}" for a, b in images[chosen])]
  (tmp_path / "pairs.txt").write_text("\n".join(lines))
  whole, row = evaluate(tmp_path / "w", pairs=tmp_path / "pairs.txt")
  assert (whole["protocol"], row["protocol"]) == ("embeddings", "pairs")
  same = (labels[chosen[:, 0]] == labels[chosen[:, 1]]).sum()
  counted = row["provenance"]["pairs"]
  assert (counted["positives"], counted["negatives"]) == (same, 60 - same)
  assert 0 <= row["metrics"]["eer"] <= 100 and 50 < row["metrics"]["auc"] <= 100
  training = dataset.source_rows(("train",))
  for line, message in (
    ("1 2 3", "line 1: found '1 2 3', expected two whole numbers"),
    ("# nothing", "found no line"),
    (f"{images[0]} {training[0]}", f"row: found {training[0]}, expected rows of the"),
  ):
    (tmp_path / "pairs.txt").write_text(line)
    with pytest.raises(ZsljaxError, match=message):
      evaluate(tmp_path / "w", pairs=tmp_path / "pairs.txt")
  with pytest.raises(ZsljaxError, match="not readable as text"):
    evaluate(tmp_path / "w", pairs=tmp_path / "none.txt")


def test_every_member_of_the_family_has_a_config():
  for name in FAMILY:
    config = cosine.get_config(f"digits,{name}")
    assert config.system.loss_name == name
    assert build_system(config.system.to_dict()).task == "closed_set"
  with pytest.raises(ZsljaxError, match="unknown loss 'arcfase'. Did you mean 'arcfac"):
    cosine.get_config("digits,arcfase")
  with pytest.raises(ZsljaxError, match="Did you mean 'awa1'"):
    cosine.get_config("awa11,arcface")


def test_classes_split_over_devices_train_alike_and_resume(small, tmp_path):
  config = small(cosine, "cub", tmp_path / "data")
  config["system"] |= {"preset": "embedding", "encoder": "mlp"}
  config["batch_size"] = 24
  config["checkpoint"]["every_epochs"] = 1
  one = train.train(config, tmp_path / "one")
  config["mesh"] |= {"data": 2, "model": 2}
  split = train.train(config, tmp_path / "split")
  chex.assert_trees_all_close(one.params, split.params, atol=1e-5)
  prototypes = split.params["prototypes"]
  assert prototypes.sharding.shard_shape(prototypes.shape)[0] == len(prototypes) // 2
  shutil.copytree(tmp_path / "split", tmp_path / "cut")
  shutil.rmtree(tmp_path / "cut" / "checkpoints" / "4")
  cut = train.train(config, tmp_path / "cut")
  chex.assert_trees_all_equal(cut.params, split.params)
  (row,) = evaluate(tmp_path / "split")
  assert row["metrics"].keys() >= {"accuracy", "eer"}


@pytest.mark.parametrize("preset", ["paper", "official_code"])
def test_msdn_on_four_devices_equals_one(small, preset, tmp_path):
  config = small(msdn, "digits", tmp_path / "data")
  config["system"]["preset"] = preset
  config["batch_size"] = 128
  config["epochs"] = 1
  one = train.train(config, tmp_path / "one")
  config["mesh"]["data"] = 4
  four = train.train(config, tmp_path / "four")
  chex.assert_trees_all_close(one.params, four.params, atol=1e-5)
  assert int(one.step) == 1008 // 128


@pytest.mark.parametrize("sampling", ["independent", "class_balanced"])
@pytest.mark.parametrize(
  "caches",
  [
    ("none", "none"),
    ("device", "device"),
    pytest.param(("host", "none"), marks=pytest.mark.slow),
  ],
)
def test_interrupted_msdn_ends_bit_identical(
  small, sampling, caches, tmp_path, monkeypatch
):
  """Killed after a checkpoint, and continued with the data possibly elsewhere."""
  config = small(msdn, "digits", tmp_path / "data")
  config["data"]["sampling"] = sampling
  config["batch_size"] = 200
  config["data"]["cache"] = caches[0]
  whole = train.train(config, tmp_path / "whole")

  save, saved = Checkpoints.save, []

  def dying(self, step, *rest):
    save(self, step, *rest)
    saved.append(step)
    self.wait()
    raise KeyboardInterrupt

  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(Checkpoints, "save", dying)
    train.train(config, tmp_path / "cut")
  config["data"]["cache"] = caches[1]
  cut = train.train(config, tmp_path / "cut")
  assert 0 < saved[0] < int(whole.step)
  chex.assert_trees_all_equal(cut.params, whole.params)
  chex.assert_trees_all_equal(cut.opt_state, whole.opt_state)


def test_images_of_a_batch_must_divide_over_devices(small, tmp_path):
  config = small(msdn, "digits", tmp_path / "data")
  config["data"]["sampling"] = "class_balanced"
  config["mesh"]["data"] = 4
  with pytest.raises(ZsljaxError, match="config.batch_size=50 with 7 classes"):
    train.train(config, tmp_path / "w")


def test_other_width_of_features_is_refused(small, tmp_path):
  config = small(msdn, "digits", tmp_path / "data")
  config["data"]["num_channels"] = 2048
  with pytest.raises(ZsljaxError, match="found 25 channels, expected 2048, config.dat"):
    train.train(config, tmp_path / "w")


def test_msdn_without_word_vectors_is_refused(small, tmp_path):
  config = small(msdn, "digits", tmp_path / "data")
  store = open_dataset(config["data"])
  with np.load(store.folder / "classes.npz") as file:
    arrays = {k: v for k, v in file.items() if k != "attribute_vectors"}
  np.savez(store.folder / "classes.npz", **arrays)
  with pytest.raises(ZsljaxError, match="attribute vectors: found none in this"):
    train.train(config, tmp_path / "w")


def test_gamma_of_the_config_is_reported_too(small, tmp_path):
  config = small(semantic_softmax, "digits", tmp_path / "data")
  config["evaluation"]["gamma"] = 0.5
  train.train(config, tmp_path / "w")
  plain, calibrated = evaluate(tmp_path / "w")
  assert calibrated["calibration"] == "additive"
  assert calibrated["provenance"]["gamma"] == 0.5
  assert calibrated["metrics"]["u"] >= plain["metrics"]["u"]
  assert evaluate(tmp_path / "w", gamma=2.0)[1]["provenance"]["gamma"] == 2.0


@pytest.mark.parametrize("preset", ["paper", "official_code", "official_deep_code"])
@pytest.mark.parametrize("hidden", [(), (7,)])
def test_minibatches_of_regions_in_every_variant(small, preset, hidden, tmp_path):
  config = small(semantic_softmax, "digits", tmp_path / "data")
  config["data"] |= {"features": "patches_strokes", "cache": "none"}
  config["system"] |= {"preset": preset, "hidden": hidden}
  config["optimizer"]["name"] = "adam"
  config["batch_size"] = 200
  assert int(train.train(config, tmp_path / "w").step) == 2 * (1008 // 200)
  evaluate(tmp_path / "w")


def test_run_goes_on_when_its_data_have_another_form_too(small, stand_in, tmp_path):
  config = small(semantic_softmax, "awa1", tmp_path / "data")
  train.train(config, tmp_path / "w")
  stand_in("awa1", tmp_path / "data", "float16")
  (row,) = evaluate(tmp_path / "w")
  assert row["provenance"]["data"]["storage_dtype"] == "float32"
  with pytest.raises(ZsljaxError, match="random_att, random_att_float16"):
    train.train(config, tmp_path / "w")
  config["data"]["features"] = "random_att"
  assert int(train.train(config, tmp_path / "w").step) == 2


def test_resume_on_another_precision_is_refused(small, stand_in, tmp_path):
  config = small(semantic_softmax, "awa1", tmp_path / "data")
  train.train(config, tmp_path / "w")
  stand_in("awa1", tmp_path / "moved", "float16")
  config["data"] |= {"dir": str(tmp_path / "moved")}
  with pytest.raises(ZsljaxError, match="is 'random_att_float16', there 'random_att'"):
    train.train(config, tmp_path / "w")


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


def test_three_devices_evaluate_every_image(small, tmp_path):
  config = small(semantic_softmax, "digits", tmp_path / "data")
  train.train(config, tmp_path / "one")
  config["mesh"]["data"] = 3
  train.train(config, tmp_path / "three")
  (one,), (three,) = evaluate(tmp_path / "one"), evaluate(tmp_path / "three")
  assert three["metrics"] == pytest.approx(one["metrics"], abs=0.5)


def test_validation_chooses_gamma_for_the_test(small, tmp_path):
  config = small(semantic_softmax, "digits", tmp_path / "data")
  on_train = config | {"data": config["data"] | {"train_split": "train"}}
  train.train(on_train, tmp_path / "train")
  train.train(config, tmp_path / "trainval")
  chosen = evaluate(tmp_path / "train", split="val")[1]
  assert chosen["protocol"] == "xian_val"
  assert chosen["selection"] == "val_selected"
  plain, calibrated = evaluate(tmp_path / "trainval", gamma_from=tmp_path / "train")
  assert plain["selection"] == "last" and plain["calibration"] == "none"
  assert calibrated["selection"] == "val_selected"
  assert calibrated["provenance"]["gamma"] == chosen["provenance"]["gamma"]
  assert calibrated["metrics"]["t1"] == plain["metrics"]["t1"]


def test_evaluation_refuses_what_would_mislead(small, tmp_path):
  config = small(semantic_softmax, "digits", tmp_path / "data")
  train.train(config, tmp_path / "w")
  with pytest.raises(ZsljaxError, match="trained on the validation images"):
    evaluate(tmp_path / "w", split="val")
  with pytest.raises(ZsljaxError, match="no additive gamma was chosen there"):
    evaluate(tmp_path / "w", gamma_from=tmp_path / "w")
  with pytest.raises(ZsljaxError, match="found no such folder"):
    evaluate(tmp_path / "w", gamma_from=tmp_path / "absent")
  other = config | {"data": config["data"] | {"train_split": "train"}}
  other["system"] = config["system"] | {"l2_weights": 9.0}
  train.train(other, tmp_path / "v")
  evaluate(tmp_path / "v", split="val")
  message = "config.system.l2_weights: found 9.0, expected 0.01"
  with pytest.raises(ZsljaxError, match=message):
    evaluate(tmp_path / "w", gamma_from=tmp_path / "v")


def test_checkpoint_of_another_system_is_refused(small, tmp_path):
  config = small(semantic_softmax, "digits", tmp_path / "data")
  deep = config | {"system": config["system"] | {"hidden": (3,)}}
  train.train(config, tmp_path / "w")
  train.train(deep, tmp_path / "deep")
  (tmp_path / "w" / "checkpoints").rename(tmp_path / "old")
  (tmp_path / "deep" / "checkpoints").rename(tmp_path / "w" / "checkpoints")
  with pytest.raises(ZsljaxError, match="checkpoints/2: belongs to another run"):
    evaluate(tmp_path / "w")


def test_unknown_argument_is_named():
  with pytest.raises(ZsljaxError, match="Did you mean 'awa1'"):
    semantic_softmax.get_config("awa11")
