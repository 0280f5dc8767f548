import shutil
import statistics
import subprocess

import pytest

from zsljax.errors import ZsljaxError
from zsljax.evaluation import Calibration, Report
from zsljax.reporting import tables
from zsljax.reporting.rows import add_rows, make_row

METADATA = {
  "name": "cub",
  "features": "res101",
  "class_embedding": "att",
  "split_version": "xlsa17-v1",
}


def row(
  seed=0,
  h=50.0,
  selection="last",
  system="msdn",
  fingerprint="f",
  step=30,
  sampling="epochs",
  **changed,
):
  settings = {"name": system, "preset": "paper"} | changed
  return make_row(
    system=system,
    dataset=METADATA,
    protocol="xian",
    selection=selection,
    seed=seed,
    step=step,
    report=Report(
      {"t1": h + 10, "u": h, "s": h, "h": h, "ausuc": h / 2},
      Calibration(gamma=None if selection == "last" else 0.7),
    ),
    provenance={
      "config": {
        "system": settings,
        "optimizer": {"learning_rate": 0.1},
        "epochs": 1,
        "batch_size": 2,
        "matmul_precision": "float32",
        "data": {"train_split": "trainval", "sampling": sampling},
      },
      "data": {"fingerprint": fingerprint},
    },
  )


def test_block_has_means_over_seeds_and_keeps_selections_apart():
  values = (50.0, 52.0, 57.0)
  rows = [row(i, h) for i, h in enumerate(values)]
  rows += [row(i, h + 5, "test_oracle") for i, h in enumerate(values)]
  rows += [row(i, h - 3, "val_selected") for i, h in enumerate(values)]
  block, *published = tables.make_blocks(rows)
  assert [line[1] for line in block.lines] == ["val_selected", "last", "test_oracle"]
  h = block.header.index("H")
  deviation = statistics.stdev(values)
  assert [line[h] for line in block.lines] == [
    f"{statistics.fmean(values) + shift:.1f} ({deviation:.1f})" for shift in (-3, 0, 5)
  ]
  assert block.lines[0][2] == "additive (0.7)"
  assert any("not a result" in note for note in block.notes)
  assert all(("the same" in b.title) == ("res101 (" in b.title) for b in published)
  assert any("other features: not to be compared" in b.title for b in published)
  assert not any(set(block.lines) & set(other.lines) for other in published)


def test_settings_that_differ_name_the_row():
  rows = [row(fusion=0.9), row(fusion=0.7), row(system="eszsl", gamma=1.0)]
  block, *_ = tables.make_blocks(rows)
  assert sorted(line[0] for line in block.lines) == [
    "ESZSL",
    "MSDN, fusion 0.7",
    "MSDN, fusion 0.9",
  ]


def test_unlike_rows_are_not_averaged():
  block, *_ = tables.make_blocks([row(step=10), row(1, step=30)])
  assert [line[0] for line in block.lines] == ["MSDN, step 10", "MSDN, step 30"]
  block, *_ = tables.make_blocks([row(), row(1, sampling="class_balanced")])
  assert {line[0] for line in block.lines} == {
    "MSDN, sampling epochs",
    "MSDN, sampling class_balanced",
  }
  computed = [row(i) for i in range(2)]
  for of_seed, precision in zip(computed, ("float32", "bfloat16"), strict=True):
    of_seed["provenance"]["products"] = {"training": precision, "scoring": "float32"}
  block, *_ = tables.make_blocks(computed)
  assert {line[0] for line in block.lines} == {
    "MSDN, matmul_precision float32",
    "MSDN, matmul_precision bfloat16",
  }
  calibrated = [row(i) | {"calibration": "additive"} for i in range(2)]
  calibrated[1]["provenance"] |= {"gamma": 0.9}
  block, *_ = tables.make_blocks(calibrated)
  assert [line[0] for line in block.lines] == [
    "MSDN, step 30, gamma 0",
    "MSDN, step 30, gamma 0.9",
  ]
  other = row(1)
  del other["metrics"]["ausuc"]
  with pytest.raises(ZsljaxError, match="seed 1: found t1, u, s, h, expected t1, u, s"):
    tables.make_blocks([row(), other])


def test_other_data_or_protocols_are_not_mixed():
  with pytest.raises(ZsljaxError, match="2 different data sets of this name"):
    tables.make_blocks([row(fingerprint="a"), row(1, fingerprint="b")])
  first, second = row(fingerprint="a"), row(1, fingerprint="b")
  for one, digest in ((first, "1"), (second, "2")):
    sources = {"photos.h5": "0", "unseen.txt": digest}
    one["provenance"]["data"] |= {"sources": sources, "storage_dtype": "float32"}
  with pytest.raises(
    ZsljaxError, match="fingerprints a, b, made of other unseen.txt, e"
  ):
    tables.make_blocks([first, second])
  other = row() | {"split_version": "v2"}
  counted = [row() | {"conditions": {"top_k": [k]}, "protocol": "l"} for k in (3, 5)]
  blocks = tables.make_blocks([row(), other, *counted])
  assert sum("published" not in block.title for block in blocks) == 4


def test_a_seed_counts_once():
  with pytest.raises(ZsljaxError, match="MSDN, last: found seed 0 twice"):
    tables.make_blocks([row(), row()])


def test_folders_of_runs_and_of_sweeps_are_found(tmp_path):
  for name in ("a", "b"):
    (tmp_path / name).mkdir()
    add_rows(tmp_path / name, [row(system=name)])
  a, b = tmp_path / "a", tmp_path / "b"
  assert tables.folders_with_rows([tmp_path]) == [a, b]
  assert tables.folders_with_rows([b, a]) == [b, a]
  (tmp_path / "a" / "empty").mkdir()
  with pytest.raises(ZsljaxError, match=r"no results.jsonl, expected that of eval.py"):
    tables.folders_with_rows([tmp_path / "a" / "empty"])
  with pytest.raises(ZsljaxError, match="found no folder"):
    tables.folders_with_rows([tmp_path / "c"])


def test_formats():
  blocks = tables.make_blocks([row(), row(1, 52.0)])
  assert "51.0 (1.4)" in tables.render(blocks, "terminal")
  assert "| MSDN | last | none | 2 | 61.0 (1.4) |" in tables.render(blocks, "markdown")
  latex = tables.render(blocks, "latex")
  assert r"MSDN & 61.0$_{\pm1.4}$" in latex
  assert "selection last, calibration none, seeds 2" in latex
  assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == len(blocks)
  assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}")


def test_latex_fits_a_column():
  """Words stand above the lines that share them, more metrics in a tabular below."""
  metrics = {f"recall@{k}": 50.0 for k in (1, 5, 10, 20, 50)}
  rows = [row(i, selection=s) for i in (0, 1) for s in ("last", "val_selected")]
  rows = [r | {"metrics": r["metrics"] | metrics} for r in rows]
  blocks = tables.make_blocks(rows, [*metrics], published=False)
  latex = tables.render(blocks, "latex")
  assert latex.count(r"\emph{last, none") == latex.count(r"\begin{tabular}") == 2


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX here")
def test_latex_compiles_alone(tmp_path):
  rows = [row(i, selection=s) for i in (0, 1) for s in ("last", "val_selected")]
  text = tables.render(tables.make_blocks(rows), "latex", standalone=True)
  (tmp_path / "table.tex").write_text(text)
  command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
  said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
  assert said.returncode == 0 and "Overfull" not in said.stdout, said.stdout


def test_published_numbers_of_other_images_are_in_blocks_of_their_own():
  counted = {"top_k": [3, 5], "zsl": {"density": 1.876}, "gzsl": {"density": 6.8}}
  nus = row() | {"dataset": "nus_wide", "protocol": "lesa", "conditions": counted}
  _, *published = tables.make_blocks([nus])
  methods = {line[0]: block.title for block in published for line in block.lines}
  assert "images of LESA's lists; other features" in methods["BiAM"]
  assert methods["BiAM"] == methods["LESA"] != methods["SDL"]
  assert all("other features" in title for title in methods.values())


@pytest.mark.parametrize("width", [60, 80, 120])
def test_terminal_tables_fit(width):
  rows = [row(i, 50.0 + i, s) for i in range(2) for s in ("last", "val_selected")]
  rows += [row(i, 49.0, system="semantic_softmax") for i in range(2)]
  text = tables.render(tables.make_blocks(rows), "terminal", width)
  assert max(map(len, text.splitlines())) <= width
  assert "semantic softmax" in text
  own, *_ = text.split("published")
  assert ("50.5 (0.7)" in own) == (width == 120)
  assert width == 60 or "ausuc" in own


def test_best_is_bold_but_not_the_oracle():
  rows = [row(h=h, system=s) for h, s in ((50.0, "sae"), (52.0, "eszsl"))]
  rows.append(row(h=60.0, selection="test_oracle"))
  blocks = tables.make_blocks(rows, columns=["h"], published=False)
  assert [block.header[4:] for block in blocks] == [("H",)]
  assert "| **52.0** |" in tables.render(blocks, "markdown")
  latex = tables.render(blocks, "latex", standalone=True)
  assert latex.count(r"\textbf") == 1 and r"ESZSL & \textbf{52.0}" in latex
  assert latex.startswith(r"\documentclass") and latex.endswith("\\end{document}\n")
  assert r"\usepackage{booktabs}" in latex
  with pytest.raises(ZsljaxError, match="--columns: found 'hh', expected a metric"):
    tables.make_blocks(rows, columns=["hh"])


def test_many_metrics_follow_below_in_markdown():
  header = ("system", "selection", "calibration", *"abcdefghi")
  block = tables.Block("many", header, (("sae", "last", "none", *"123456789"),))
  lines = tables.render([block], "markdown").splitlines()
  assert lines[4] == "| sae | last | none | 1 | 2 | 3 | 4 | 5 | 6 | 7 |"
  assert lines[6] == "| system | selection | calibration | h | i |"
  assert lines[8] == "| sae | last | none | 8 | 9 |"


def test_texts_stay_texts():
  header = ("system", "selection", "calibration", "H")
  block = tables.Block("a|b", header, ((r"x|\input{/etc/passwd}^~", "", "", "1"),), ())
  assert r"| x\|\input{/etc/passwd}^~ |" in tables.render([block], "markdown")
  expected = (
    r"x|\textbackslash{}input\{/\allowbreak{}etc/\allowbreak{}passwd\}"
    r"\textasciicircum{}\textasciitilde{}"
  )
  assert expected in tables.render([block], "latex")


def test_text_fits_the_terminal_where_there_is_one(monkeypatch):
  text = f"  because of {'attribute ' * 20}"
  monkeypatch.setenv("COLUMNS", "40")
  lines = tables.fitted(text, "    ").splitlines()
  assert lines[0].startswith("  because") and lines[1].startswith("    attribute")
  assert 30 < max(map(len, lines)) <= 40
  monkeypatch.delenv("COLUMNS")
  assert tables.fitted(text) == text.rstrip()
