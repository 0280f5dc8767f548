import numpy as np
import pytest

from zsljax.__main__ import main
from zsljax.data.files.class_table import read_class_table
from zsljax.data.semantics import prompts, read_sentences, sources_of, write_sources
from zsljax.errors import ZsljaxError
from zsljax.io.checksums import sha256_of


def test_names_become_a_class_table(tmp_path, capsys):
  (tmp_path / "glove.txt").write_text("polar 1 2\nbear 3 6\nape 0 1\n")
  (tmp_path / "names.txt").write_text("polar bear\nape\nzorse\n")
  arguments = ["semantics", f"--names={tmp_path}/names.txt"]
  arguments += [f"--word_vectors={tmp_path}/glove.txt", f"--dest={tmp_path}/c.csv"]
  main([*arguments, "--unknown=known_words"])
  table = read_class_table(tmp_path / "c.csv")
  assert table.names == ("polar bear", "ape")
  np.testing.assert_array_equal(table.values, [[2, 4], [0, 1]])
  said = capsys.readouterr().out
  assert "2 classes, 2 numbers each" in said and "zorse" in said
  assert [*sources_of(tmp_path / "c.csv")] == [
    f"{tmp_path.name}/{name}" for name in ("names.txt", "glove.txt")
  ]


def test_a_table_has_hashes_of_what_it_was_made_of(tmp_path):
  table, weights = tmp_path / "c.csv", tmp_path / "model.safetensors"
  table.write_text("class,x\nape,1\n")
  weights.write_bytes(b"weights")
  assert sources_of(table) == {}
  write_sources(table, [None, weights])
  hashes = {f"{tmp_path.name}/model.safetensors": sha256_of(weights)}
  assert sources_of(table) == hashes
  table.write_text("class,x\nape,2\n")
  assert sources_of(table) == {}
  (tmp_path / "c.sources.json").write_text("[]")
  with pytest.raises(ZsljaxError, match="c.sources.json: .*as semantics writes them"):
    sources_of(table)


def test_rows_of_a_text_encoder_become_a_class_table(tmp_path):
  vectors = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
  np.save(tmp_path / "clip.npy", vectors)
  (tmp_path / "names.txt").write_text("a photo of a bear\nape\nzorse\n")
  main(
    [
      "semantics",
      f"--names={tmp_path}/names.txt",
      f"--word_vectors={tmp_path}/clip.npy",
      f"--dest={tmp_path}/c.csv",
    ]
  )
  table = read_class_table(tmp_path / "c.csv")
  assert table.names[0] == "a photo of a bear"
  np.testing.assert_array_equal(table.values.astype(np.float32), vectors)


def test_names_in_prompts(tmp_path):
  (tmp_path / "names.txt").write_text("polar bear\nape\n")
  assert prompts(tmp_path / "names.txt") == {
    "polar bear": ["polar bear"],
    "ape": ["ape"],
  }
  (tmp_path / "templates.txt").write_text("a photo of a {}.\nart of {}\n")
  found = prompts(tmp_path / "names.txt", tmp_path / "templates.txt")
  assert found["ape"] == ["a photo of a ape.", "art of ape"]
  (tmp_path / "templates.txt").write_text("a photo\n")
  with pytest.raises(
    ZsljaxError, match=r"templates.txt: found \['a photo'\], expected {}"
  ):
    prompts(tmp_path / "names.txt", tmp_path / "templates.txt")


def test_sentences_by_class(tmp_path):
  path = tmp_path / "s.csv"
  path.write_text('class,sentence\nape,"Big, and wild."\nbee,Small.\nape,Hairy.\n')
  assert read_sentences(path) == {
    "ape": ["Big, and wild.", "Hairy."],
    "bee": ["Small."],
  }


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("ape,Big.\n", "line 1: found 'ape,Big.', expected the header class,sentence"),
    ("class,sentence\nape\n", "line 2: found 'ape', expected class,sentence"),
    ("class,sentence\n", "found no sentences"),
  ],
)
def test_other_files_of_sentences(tmp_path, text, message):
  (tmp_path / "s.csv").write_text(text)
  with pytest.raises(ZsljaxError, match=message):
    read_sentences(tmp_path / "s.csv")


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (
      ["--sentences=s", "--word_vectors=g"],
      "--word_vectors: found g, expected --names",
    ),
    (["--sentences=s", "--templates=t"], "--templates: found t, expected --names"),
    (["--names=n", "--word_vectors=g", "--templates=t"], "--templates: found t"),
    (["--names=n", "--word_vectors=g", "--activation=gelu"], "expected none with"),
    (["--names=n", "--word_vectors=g", "--tokenizer=t"], "--tokenizer: found t"),
  ],
)
def test_flags_that_do_not_belong_together(flags, message, tmp_path, capsys):
  with pytest.raises(SystemExit):
    main(["semantics", *flags, f"--dest={tmp_path}/c.csv"])
  assert message in capsys.readouterr().err
