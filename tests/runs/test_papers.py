"""Published results: files, settings, and results trained again."""

import dataclasses
import json
import re
import shlex
import typing

import pytest

from zsljax import training
from zsljax.cli.main import parse
from zsljax.errors import ZsljaxError
from zsljax.evaluation import PROTOCOLS
from zsljax.evaluation.multilabel import POPULATIONS
from zsljax.models import build_system
from zsljax.reporting import published
from zsljax.runs import papers
from zsljax.runs.config import read_config

CUB = {
  "class_embedding": "att",
  "split_version": "xlsa17-v1",
  "attribute_vectors": None,
}


def paper(name="eszsl/cub", **changed):
  return dataclasses.replace(published.read_published(name), **changed)


@pytest.mark.parametrize("name", published.names())
def test_files_are_whole_and_their_settings_build(name):
  entry = published.read_published(name)
  system, _, dataset = name.partition("/")
  assert dataset.startswith(entry.dataset)
  hints = typing.get_type_hints(published.Published)
  for field, kind in hints.items():
    value = getattr(entry, field)
    kind = {list[published.Training]: list, float: int | float}.get(kind, kind)
    assert isinstance(value, kind), field
    assert value != "", field
  assert entry.status in ("re-read", "recalled")
  metrics, known = entry.metrics, PROTOCOLS[entry.protocol].metrics
  assert {re.sub(r"@\d+$", "@K", name) for name in metrics} <= {*known}
  assert entry.population in (None, *POPULATIONS.get(entry.dataset, ()))
  assert metrics and all(0 < value < 100 for value in metrics.values())
  assert len(metrics) == sum(len(one.metrics) for one in entry.trainings)
  if metrics.keys() >= {"u", "s", "h"}:
    h = 2 * metrics["u"] * metrics["s"] / (metrics["u"] + metrics["s"])
    assert h == pytest.approx(metrics["h"], abs=0.11)
  assert 0 < entry.tolerance <= 2
  args, _ = parse(shlex.split(entry.imported_by)[1:])
  assert str(args.dest) == "DATA"
  if entry.config is None:
    assert not any(one.fields for one in entry.trainings)
    return
  for one in entry.trainings:
    fields = [f"--config.{field}={value}" for field, value in one.fields.items()]
    config = read_config(entry.config, fields)
    assert config["data"]["name"] == entry.dataset
    built = build_system(config["system"])
    assert (built.task == "multi_label") == (entry.protocol != "xian")
    training.make_optimizer(config["optimizer"], config["batch_size"], 100)
    own = config["evaluation"]["top_k"] or (3, 5)
    assert {int(m.split("@")[1]) for m in metrics if "@" in m} <= {*own}


def test_features_of_one_name_are_stored_as_one():
  entries = list(map(published.read_published, published.names()))
  stored = {(entry.features, entry.stored_as) for entry in entries}
  assert len(stored) == len({features for features, _ in stored})
  several = [entry for entry in entries if "f1" in json.dumps(entry.metrics)]
  assert {e.population for e in several if e.dataset == "coco"} == {
    "older rows",
    "SDL's rows",
  }


@pytest.mark.slow
def test_each_verdict_once(stand_in, tmp_path, monkeypatch):
  """A set in the layout of CUB, with published numbers that are made up too."""
  same, other = tmp_path / "same", tmp_path / "other"
  stand_in("cub", same, features_kind="res101", **CUB)
  stand_in("cub", other, features_kind="vit", **CUB)
  not_replayed, generalized = paper().trainings
  one = dataclasses.replace(generalized, metrics={"u": 50.0, "s": 100.0})
  made_up = paper(trainings=[one, not_replayed], tolerance=55.0)
  text = papers.replay(made_up, tmp_path, 2, same)
  lines = {line.split()[0]: line for line in text.splitlines() if line}
  assert re.search(r"^U +50 .* \(0\.0\) .*  reproduced$", lines["U"])
  _, expected, got, _, deviation, *verdict = lines["S"].split()
  assert float(deviation) == pytest.approx(float(got) - float(expected), abs=0.06)
  assert verdict == ["not", "reproduced"]
  assert re.search(r"^T1 .* -  trained on .*: no verdict$", lines["T1"])
  assert (tmp_path / "eszsl_cub" / "verdict.txt").read_text() == text
  text = papers.replay(made_up, tmp_path / "other", 1, other)
  assert text.count("other features: no verdict") == 2
  assert "here: vit features, classes by att, split xlsa17-v1; the last step of" in text
  monkeypatch.setenv("COLUMNS", "80")
  assert max(map(len, papers.overview(same).splitlines())) <= 80
  monkeypatch.delenv("COLUMNS")
  listed = {line.split()[0]: line for line in papers.overview(same).splitlines()}
  assert listed["eszsl/cub"].endswith("ready")
  assert "no verdict (here res101_att); needs res101 regions" in listed["msdn/cub"]
  assert "needs res101 (ImageNet, frozen), by zsljax data imp" in listed["eszsl/sun"]
  assert listed["dazle/cub"].endswith("no such system in zsljax: in tables alone")


def test_other_images_have_no_verdict():
  entry = published.read_published("lesa/nus_wide")
  assert entry.of_same_images({"conditions": {"population": "LESA's lists"}})
  assert not entry.of_same_images({"conditions": {"population": "none known"}})
  assert paper().of_same_images({})


@pytest.mark.parametrize(
  ("name", "seeds", "message"),
  [
    (
      "dazle/cub",
      1,
      "dazle/cub: found no such system in zsljax, expected a result tha",
    ),
    ("eszsl/sun_xian", 1, "found settings are not published, expected a result that"),
    ("msdn/cub", 0, "--seeds: found 0, expected 1 or more"),
    (
      "msdn/cub",
      1,
      "found no cub, expected an import of it .*_101_CUB.hdf5 --dest=DAT",
    ),
  ],
)
def test_what_cannot_be_trained_again_is_refused(tmp_path, name, seeds, message):
  with pytest.raises(ZsljaxError, match=message):
    papers.replay(published.read_published(name), tmp_path, seeds, tmp_path)
