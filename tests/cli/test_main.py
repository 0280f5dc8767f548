"""Verbs are found, explained and run, each without the others."""

import importlib
import inspect
import re
import subprocess
import sys

import pytest

import zsljax
from zsljax.cli.main import GROUPS, main, parser_of, verbs
from zsljax.runs.config import config_names, flat, read_config

CONFIGS = [*config_names(), "msdn:cub", "cosine:awa1,cosface"]

KEPT = (
  "benchmark", "benchmark-encode", "compare", "config", "data build",
  "data describe", "data export-xlsa17", "data import-coco",
  "data import-multilabel",
  "data import-nus-wide", "data import-open-images", "data import-regions",
  "data import-xlsa17", "data verify", "encode", "ensemble", "eval", "explain", "fit",
  "list",
  "plan", "predict", "reproduce", "score", "semantics", "sweep", "table", "train",
)  # fmt: skip
ALONE = """
import sys, time
began = time.process_time()
from zsljax.cli.main import main
try:
  main(sys.argv[1:])
except SystemExit as ended:
  assert not ended.code, ended
print(time.process_time() - began, *sys.modules)
"""


def modules_of(*argv):
  """Modules that a process has imported when it ends, and the seconds of computing."""
  done = subprocess.run(
    [sys.executable, "-c", ALONE, *argv], capture_output=True, text=True, check=True
  )
  seconds, *found = done.stdout.splitlines()[-1].split()
  return set(found), float(seconds)


def test_overview_is_quick_and_narrow_and_has_all_verbs(capsys):
  found, seconds = modules_of("--help")
  assert not found & {"jax", "numpy", "tensorflow", "scipy", "h5py", "ml_collections"}
  assert seconds < 1
  main([])
  page = capsys.readouterr().out
  lines = page.splitlines()
  assert max(map(len, lines)) <= 80
  assert [line[:-1] for line in lines if line[:-1] in GROUPS] == list(GROUPS)
  assert tuple(verbs()) == KEPT
  for verb in KEPT:
    assert sum(line.startswith(f"  {verb} ") for line in lines) == 1, verb
  main(["data", "--help"])
  assert set(capsys.readouterr().out.splitlines()) < {*lines}


@pytest.mark.parametrize("verb", KEPT)
def test_help_of_a_verb_ends_with_an_example(verb):
  parser, module = parser_of(verb)
  text, _, examples = parser.format_help().partition("\nExample")
  assert module.__doc__.splitlines()[0] in text
  assert f"\n  zsljax {verb} " in examples
  assert max(map(len, module.__doc__.splitlines())) <= 88


def test_a_verb_imports_no_other():
  for module in map(importlib.import_module, verbs().values()):
    imported = re.findall(r"zsljax\.cli[.\w]*", inspect.getsource(module))
    assert {*imported} <= {"zsljax.cli.common"}
  found, _ = modules_of("table", "--help")
  there = {name for name in found if name.startswith("zsljax.cli.")}
  assert there - {"zsljax.cli.data"} == {
    "zsljax.cli.main",
    "zsljax.cli.common",
    "zsljax.cli.compiled",
    "zsljax.cli.table",
  }


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["tarin", "--workdir=W"], "unknown verb 'tarin'. Did you mean 'train'?"),
    (["data", "biuld"], "unknown verb 'data biuld'. Did you mean 'data build'?"),
    (["--verson"], "unknown verb"),
    (["list"], "are required: systems|datasets|configs|recipes|protocols (see"),
    (["list", "sytems"], "protocols: invalid choice: 'sytems'"),
    (["list", "systems", "--dir=D"], "--dir: found D, expected none but with"),
    (["config", "msdn:cup"], "unknown argument 'cup'. Did you mean 'cub'?"),
    (
      ["config", "msdn:cub", "--config.lerning_rate=1"],
      "--config.lerning_rate. Did you mean config.optimizer.learning_rate?",
    ),
    (["train", "--config=msdn"], "zsljax train: the following arguments are required"),
    (["table", "W", "--format=tex"], "argument --format: invalid choice: 'tex'"),
    (["benchmark", "--config.epochs=3"], "unrecognized arguments: --config.epochs=3"),
    (["eval", "--workdir=W", "--top_k=few"], "expected numbers as in 3,5"),
    (["eval", "--workdir=W", "--gamma=1", "--gamma_from=V"], "not allowed with"),
    (["eval", "--workdir=/absent"], "/absent: no manifest.json, expected"),
    (["data", "import-xlsa17", "--source=/absent", "--dest=D"], "no such folder"),
    (["benchmark", "--preset=cub9"], "Did you mean 'cub'"),
    (["reproduce", "--systems=eszsl"], "--dest: found nothing, expected a folder"),
    (["reproduce", "--systems=eszsl", "--list"], "not allowed with argument"),
    (["reproduce", "--paper=msdn/cup", "--dest=D"], "Did you mean 'msdn/cub'"),
    (["reproduce", "--paper=msdn/cub", "--folds=3"], "--folds: found 3, expected none"),
    (["benchmark", "--system=msdn"], "found shape (2048,), expected regions"),
    (
      ["compare", "--config=cosine:digits", "--losses=normfac", "--workdir=W"],
      "Did you mean 'normface'",
    ),
  ],
)
def test_wrong_command_is_one_paragraph(argv, message, capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit) as ended:
    main(argv)
  said = capsys.readouterr().err
  assert ended.value.code == 2 and said.startswith("error: ")
  assert message in " ".join(said.split())
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("what", "line"),
  [
    ("systems", "msdn  Mutually Semantic Distillation Network (Chen et al. 2022)."),
    ("datasets", "digits needs no folder"),
    ("configs", "Arguments: cub, sun, awa2, scene15, digits, own."),
    (
      "recipes",
      "recommended_regions --config=recommended:DATASET,attended_autoencoder",
    ),
    ("protocols", "xian  single label: t1, u, s, h,"),
  ],
)
def test_list(what, line, capsys):
  main(["list", what])
  said = capsys.readouterr().out
  assert " ".join(line.split()[:4]) in " ".join(said.split())
  assert max(map(len, said.splitlines())) <= 100
  assert ":math:" not in said and "`" not in said


@pytest.mark.parametrize("argument", CONFIGS)
def test_config_shows_every_field_with_its_comment(argument, capsys):
  main(["config", argument, "--config.seed=7"])
  said = capsys.readouterr().out
  assert "seed = 7\n    Decides initial parameters, the order of batches" in said
  fields = re.findall(r"^([\w.]+) = ", said, re.MULTILINE)
  assert sorted(fields) == sorted(flat(read_config(argument)))
  assert fields[0].startswith("system.")
  assert max(map(len, said.splitlines())) <= 88


def test_version(capsys):
  main(["--version"])
  assert capsys.readouterr().out == f"zsljax {zsljax.__version__}\n"


def test_a_platform_that_is_not_there_is_a_sentence(command, tmp_path):
  done = command(
    *("-m", "zsljax", "train", "--config=msdn:digits", f"--workdir={tmp_path / 'w'}"),
    env={"JAX_PLATFORMS": "cuda"},
    check=False,
  )
  assert done.returncode == 2 and "Traceback" not in done.stderr
  said = " ".join(done.stderr.split())
  assert "error: JAX_PLATFORMS: found 'cuda', of which there is no device" in said


def test_errors_send_no_orders_to_the_terminal(capsys):
  with pytest.raises(SystemExit):
    main(["data", "describe", "absent\x1b[2J"])
  assert "absent?[2J: found no stored dataset" in capsys.readouterr().err
