"""The verbs ``train`` and ``eval``, and the scripts that stand for them."""

import csv
import json
import os
import pathlib

import pytest

from zsljax.cli.main import main
from zsljax.evaluation import PROTOCOLS

TRAIN = ("train", "--config=semantic_softmax:digits")


def test_scripts_train_and_evaluate(command, tmp_path, capsys):
  work = f"--workdir={tmp_path / 'w'}"
  config = ("--config", "configs/semantic_softmax.py:digits")
  fields = ("--config.epochs", "3", "--config.optimizer.tolerance=0")
  narrow = {"COLUMNS": "80"}
  done = command("train.py", *config, work, *fields, env=narrow)
  assert f"step 3; now: zsljax eval {work}" in done.stdout
  assert "3/3" in done.stderr
  assert len(done.stdout.splitlines()[0]) <= 80
  relative = os.path.relpath(tmp_path / "w", pathlib.Path(__file__).parents[2])
  done = command("eval.py", f"--workdir={relative}", env=narrow)
  assert "protocol xian, selection last, calibration none\n" in done.stdout
  *lines, last = done.stdout.splitlines()
  assert max(map(len, lines)) <= 80 and last == f"rows in {relative}/results.jsonl"
  (row,) = map(json.loads, (tmp_path / "w" / "results.jsonl").read_text().splitlines())
  assert tuple(row["metrics"]) == PROTOCOLS["xian"].metrics
  assert row["provenance"]["data"]["sources"]
  with (tmp_path / "w" / "classes_test.csv").open() as file:
    lines = list(csv.DictReader(file))
  assert [line["kind"] for line in lines] == ["seen"] * 7 + ["unseen"] * 3
  of_seen = [float(line["accuracy (none)"]) for line in lines[:7]]
  assert sum(of_seen) / 7 == pytest.approx(row["metrics"]["s"], abs=0.01)
  of_unseen = [float(line["accuracy among unseen"]) for line in lines[7:]]
  assert sum(of_unseen) / 3 == pytest.approx(row["metrics"]["t1"], abs=0.01)
  right = [float(x["accuracy (none)"]) * int(x["images"]) for x in lines]
  images = sum(int(line["images"]) for line in lines)
  assert sum(right) / images == pytest.approx(row["metrics"]["accuracy"], abs=0.01)
  for file in (
    *("manifest.json", "metrics.jsonl", "tensorboard", "checkpoints"),
    "classes_test.png",
  ):
    assert (tmp_path / "w" / file).exists()
  with pytest.raises(SystemExit) as ended:
    main([*TRAIN, work, "--config.epochs=4"])
  told = " ".join(capsys.readouterr().err.split())
  assert ended.value.code == 2 and "Traceback" not in told
  assert "config.epochs is 4, there 3" in told


@pytest.mark.slow
def test_multi_label_run_from_the_embedded_set(tmp_path, capsys):
  work = f"--workdir={tmp_path / 'w'}"
  main(["train", "--config=sdl:multidigit", work, "--config.epochs=1"])
  assert "5000 images of 7 labels" in capsys.readouterr().out
  main(["eval", work, "--protocol=sdl", "--top_k=1,3"])
  lines = capsys.readouterr().out.splitlines()
  assert any("F1@1" in line and "F1@3" in line and "density" in line for line in lines)
  assert any(line.startswith("zsl: 3 unseen") for line in lines)
  assert any("protocol sdl" in line and "dropped" in line for line in lines)


@pytest.mark.parametrize(
  ("argument", "message"),
  [
    (
      "--config.sytem.preset=paper",
      "flag --config.sytem.preset. Did you mean 'system'?",
    ),
    ("--config.system.l2_weight=1", "Did you mean 'l2_weights'?"),
    ("--config.epochs=0", "config.epochs: found 0, expected 1 or more"),
    ("--config.selection.seed=-1", "config.selection.seed: found -1, expected 0 or"),
    (
      "--config.evaluation.every_epochs=5",
      "config.evaluation.every_epochs: found 5 with config.data.train_split=trainval",
    ),
    ("--config.system.preset=papr", "Did you mean 'paper'"),
    ("--config.epochs=many", "--config.epochs=many"),
    (
      "--config.optimizer.lr=1",
      "flag --config.optimizer.lr. Known: clip_norm, decay_biases",
    ),
    ("--l2_weights=1", "flag --l2_weights. Fields are set by --config.FIELD=VALUE"),
    ("stray", "found 'stray', expected only flags"),
    ("--config.data.name=cubs", "config.data.dir: found nothing"),
    ("--config.data.name=digts", "Did you mean 'digits'?"),
    ("--config.data.dir=/dev/null/x", "could not be written"),
    ("--config=semantic_sotfmax:digits", "Did you mean 'semantic_softmax'"),
    ("--config=semantic_softmax:digit", "Did you mean 'digits'"),
    ("--config=cosine:digits,arcfase", "unknown loss 'arcfase'. Did you mean 'arcf"),
  ],
)
def test_wrong_field_is_one_paragraph(tmp_path, capsys, argument, message):
  with pytest.raises(SystemExit) as ended:
    main([*TRAIN, f"--workdir={tmp_path / 'w'}", argument])
  said = capsys.readouterr().err
  assert ended.value.code == 2 and said.startswith("error: ")
  assert message in " ".join(said.split())
  assert not (tmp_path / "w").exists()
