"""Tables of results: means over seeds, and published numbers apart from them.

A block holds rows of one dataset, features, class embedding, split version and
protocol: these compare. A row says how it was selected. Published numbers, mostly on
other features, follow in blocks of their own, each with its source.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
import shutil
import sys
import textwrap
from typing import Any

from zsljax.errors import ZsljaxError, did_you_mean, paragraph, require
from zsljax.reporting.published import Published, names, read_published
from zsljax.reporting.rows import (
  SELECTIONS,
  Row,
  Summary,
  aligned,
  column_name,
  data_of,
  deciding_fields,
  short,
  summarize,
  system_title,
)

_BLOCK = ("dataset", "features", "class_embedding", "split_version", "protocol")
# Metrics of other protocols that are shown where they are asked for.
_RARE = re.compile("sample_|macro_|weighted_|_[pr]@threshold")
# Of the usual protocol; others show all their metrics but those.
_SHOWN = {"xian": ("t1", "u", "s", "h", "ausuc")}
# Of which the highest is not the best.
_UNRANKED = ("eer", "intra", "inter")
_WORDS = 3  # Columns of a block before its numbers.
_IN_MARKDOWN = 7  # Columns of numbers beside each other.
# Columns that go into the title where all lines share them.
_SHARED = ("selection", "calibration", "seeds", "status")
# The longest of all where there is no room.
_KEPT = ("H", "T1", "U", "S")
# Of a LaTeX column: of the names, and points of its narrowest usual form (two columns
# on letter paper), of the space beside a cell, and of a letter.
_NAMES, _COLUMN, _BESIDE, _LETTER = 0.25, 229, 3, 4
_IN_DOCUMENT = "% Needs \\usepackage{booktabs} in the preamble.\n"
_DOCUMENT = (
  "\\documentclass[twocolumn]{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
)


@dataclasses.dataclass(frozen=True)
class Block:
  """A table of comparable rows.

  Attributes:
    title: the data and the protocol of all rows.
    header: names of the columns, three with words and the others with numbers.
    lines: cells, as texts.
    notes: explanations below the table.
    best: line and column of the highest mean of each metric, where several lines
      compete; those chosen on the test images do not.
  """

  title: str
  header: tuple[str, ...]
  lines: tuple[tuple[str, ...], ...]
  notes: tuple[str, ...] = ()
  best: frozenset[tuple[int, int]] = frozenset()


def folders_with_rows(folders: Sequence[pathlib.Path]) -> list[pathlib.Path]:
  """Finds runs and sweeps with rows: each of ``folders``, or its subfolders.

  Raises:
    ZsljaxError: a folder has none.
  """
  found = []
  for folder in folders:
    require(folder.is_dir(), str(folder), "no folder", "that of a run or a sweep")
    below = sorted(path.parent for path in folder.glob("*/results.jsonl"))
    own = [folder] if (folder / "results.jsonl").exists() else below
    expected = "that of eval.py or of a sweep"
    require(len(own) > 0, str(folder), "no results.jsonl", expected)
    found += own
  return found


def make_blocks(
  rows: Sequence[Row], columns: Sequence[str] = (), published: bool = True
) -> list[Block]:
  """Makes the blocks of each dataset, followed by its published numbers.

  Args:
    rows: of runs and sweeps.
    columns: metrics to show, in this order; the protocol's usual ones when empty.
    published: also makes the blocks of published numbers.

  Raises:
    ZsljaxError: rows that would share a block are of different data, or a seed occurs
      twice with the same settings.
  """
  groups: dict[tuple, list[Row]] = {}
  for row in rows:
    counted = json.dumps(
      [row.get("conditions"), row["provenance"].get("pairs")], sort_keys=True
    )
    groups.setdefault((*(row[field] for field in _BLOCK), counted), []).append(row)
  blocks: list[Block] = []
  for dataset in dict.fromkeys(row["dataset"] for row in rows):
    some = [group for group in groups.values() if group[0]["dataset"] == dataset]
    blocks += (_block(group, columns) for group in some)
    if published:
      blocks += _published_blocks(dataset, [row for group in some for row in group])
  return blocks


def render(
  blocks: Sequence[Block],
  form: str,
  width: int | None = None,
  standalone: bool = False,
) -> str:
  """Writes the blocks as text.

  Args:
    blocks: tables.
    form: ``terminal``, ``markdown`` or ``latex``.
    width: of the terminal; None is without an end.
    standalone: a LaTeX document of its own.
  """
  if form == "terminal":
    return "\n".join(_terminal(block, width) for block in blocks)
  if form == "markdown":
    return "\n".join(map(_markdown, blocks))
  begin, end = (_DOCUMENT if standalone else _IN_DOCUMENT), ""
  if standalone:
    end = "\\end{document}\n"
  return begin + "\n".join(map(_latex, blocks)) + end


def terminal_width() -> int | None:
  """The terminal's width; None where the output is not shown on one."""
  shown = sys.stdout.isatty() or "COLUMNS" in os.environ
  return shutil.get_terminal_size().columns if shown else None


def fitted(text: str, indent: str = "") -> str:
  """Breaks ``text`` into lines that fit the terminal; one line where there is none.

  ``indent`` stands before all lines but the first.
  """
  return paragraph(text, terminal_width() or sys.maxsize, indent)


def _block(rows: Sequence[Row], columns: Sequence[str] = ()) -> Block:
  """The block of rows that compare."""
  first = rows[0]
  data = [row["provenance"]["data"] for row in rows]
  fingerprints = {one["fingerprint"] for one in data}
  parts = [{"storage": d.get("storage_dtype")} | d.get("sources", {}) for d in data]
  names = dict.fromkeys(name for part in parts for name in part)
  differing = [x for x in names if len({part.get(x) for part in parts}) > 1]
  require(
    len(fingerprints) == 1,
    f"rows of {first['dataset']} ({first['features']}, {first['class_embedding']})",
    f"{len(fingerprints)} different data sets of this name: fingerprints "
    f"{', '.join(sorted(f[:12] for f in fingerprints))}"
    + (f", made of other {', '.join(differing)}" if differing else ""),
    "rows of one import of the data, which alone compare",
  )
  every = dict.fromkeys(name for row in rows for name in row["metrics"])
  usual = [name for name in every if not _RARE.search(name)]
  metrics = [*columns] or [*_SHOWN.get(first["protocol"], usual)]
  for name in metrics:
    hint = did_you_mean(name, every)
    require(name in every, "--columns", repr(name), f"a metric of the rows. {hint}")
  lines: list[tuple[tuple[str, ...], Summary]] = []
  for name, summary in _summaries(_by_name(rows)):
    selection, calibration = summary.row["selection"], summary.row["calibration"]
    seeds = summary.seeds
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
      raise ZsljaxError(
        f"{first['dataset']}, {name}, {selection}: found seed {twice[0]} twice, "
        "expected each seed once: the same run was given twice, or with several gammas"
      )
    if calibration != "none" and len(summary.gammas) == 1:
      calibration += f" ({summary.gammas[0]:.3g})"
    cells = map(summary.cell, metrics)
    line = (name, selection, calibration, str(len(seeds)), *cells)
    lines.append((line, summary))
  lines.sort(key=lambda line: SELECTIONS.index(line[0][1]))
  title = f"{first['dataset']}: {data_of(first)}, protocol {first['protocol']}"
  notes = ["percent; mean (standard deviation) over seeds"]
  if any(line[1] == "test_oracle" for line, _ in lines):
    notes.append(
      "test_oracle: the number of steps and gamma that are best on the test images; "
      "not a result, but what many published tables show"
    )
  header = ("system", "selection", "calibration", "seeds", *map(column_name, metrics))
  best = _best([summary for _, summary in lines], metrics)
  texts = tuple(line for line, _ in lines)
  return Block(title, header, texts, tuple(notes), frozenset(best))


def _best(
  summaries: Sequence[Summary], metrics: Sequence[str]
) -> Iterator[tuple[int, int]]:
  """Places of the best line of each metric, see ``Block.best``."""
  results = [i for i, s in enumerate(summaries) if s.row["selection"] != SELECTIONS[-1]]
  for column, metric in enumerate(metrics, _WORDS + 1):
    if metric in _UNRANKED:
      continue
    means = {i: summaries[i].mean.get(metric, math.nan) for i in results}
    if len(means) > 1 and all(map(math.isfinite, means.values())):
      highest = max(means.values())
      if any(mean < highest for mean in means.values()):
        yield from ((i, column) for i, mean in means.items() if mean == highest)


def _summaries(named: dict[str, list[Row]]) -> Iterator[tuple[str, Summary]]:
  """Means over seeds, apart by circumstances; these are named where they differ."""
  for name, rows in named.items():
    groups: dict[tuple, dict[str, list[Row]]] = {}
    for row in rows:
      kind = row["selection"], row["calibration"]
      groups.setdefault(kind, {}).setdefault(_circumstances(row), []).append(row)
    for apart in groups.values():
      for circumstances, group in apart.items():
        (summary,) = summarize(group)
        yield (name if len(apart) == 1 else f"{name}, {circumstances}"), summary


def _by_name(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """Groups rows by their settings; names mention the settings that differ."""
  groups: dict[str, list[Row]] = {}
  for row in rows:
    groups.setdefault(json.dumps(_settings(row), sort_keys=True), []).append(row)
  settings = [_settings(group[0]) for group in groups.values()]
  named: dict[str, list[Row]] = {}
  for setting, group in zip(settings, groups.values(), strict=True):
    system = setting["system.name"]
    others = [other for other in settings if other["system.name"] == system]
    parts = [system_title({"name": system})]
    for field, value in sorted(setting.items()):
      if value is not None and any(other.get(field) != value for other in others):
        name = field.removeprefix("system.").removeprefix("data.")
        parts.append(f"{name} {short(value)}")
    named[", ".join(parts)] = group
  return named


def _settings(row: Row) -> dict[str, Any]:
  """The fields of a row's config that tell one method from another."""
  config = row["provenance"]["config"]
  if config["system"].get("members"):  # Of an ensemble.
    digest = hashlib.sha256(json.dumps(config["system"], sort_keys=True).encode())
    name = system_title(config["system"])
    config = config | {"system": {"name": name, "runs": digest.hexdigest()[:8]}}
  fields = deciding_fields(config) | {"trained on": config["data"]["train_split"]}
  computed = row["provenance"].get("products")  # Older rows have none.
  return fields | ({"matmul_precision": computed["training"]} if computed else {})


def _circumstances(row: Row) -> str:
  """Circumstances in which rows of one method agree, so that their mean makes sense.

  A gamma that was chosen on validation may be each seed's own, and the oracle's number
  of steps too.
  """
  oracle = row["selection"] == "test_oracle"
  parts = [] if oracle else [f"step {row['step']}"]
  computed = row["provenance"].get("products")
  if computed and computed["scoring"] != computed["training"]:
    parts.append(f"scored in {computed['scoring']}")
  if row["selection"] == "last" and row["calibration"] != "none":
    parts.append(f"gamma {row['provenance']['gamma']:.6g}")
  if row["selection"] == "val_selected":
    swept = "chosen" in row["provenance"]
    parts.append("settings of a sweep" if swept else "gamma alone chosen")
  return ", ".join(parts)


def _published_blocks(dataset: str, results: Sequence[Row]) -> Iterator[Block]:
  """Published numbers of a dataset, a block for each features, classes and images."""
  groups: dict[tuple, list[Published]] = {}
  for entry in map(read_published, names()):
    if entry.dataset == dataset:
      data = entry.features, entry.class_embedding, entry.split, entry.population
      groups.setdefault(data, []).append(entry)
  for (features, class_embedding, split, population), entries in groups.items():
    same = any(entries[0].of_same_data(row) for row in results)
    images = f", images of {population}" if population else ""
    relation = "the same features" if same else "other features: not to be compared"
    columns = dict.fromkeys(name for entry in entries for name in entry.metrics)
    lines = []
    for entry in entries:
      values = (entry.metrics.get(name) for name in columns)
      cells = ("-" if value is None else f"{value:.1f}" for value in values)
      lines.append((entry.method, entry.selection, entry.status, *cells))
    notes = [f"{entry.method}: {entry.source}" for entry in entries]
    notes += [f"{entry.method}: {entry.note}" for entry in entries if entry.note]
    yield Block(
      f"{dataset}, published: {features} features, classes by {class_embedding}, split "
      f"{split}{images}; {relation}",
      ("published", "selected on", "status", *map(column_name, columns)),
      tuple(lines),
      tuple(dict.fromkeys(notes)),
    )


# Identifiers and addresses may be broken.
_IN_LATEX = str.maketrans(
  {c: f"\\{c}" for c in "&%#${}"}
  | {"_": r"\_\allowbreak{}", "/": r"/\allowbreak{}"}
  | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def _without_common(block: Block) -> tuple[Block, int]:
  """The block with what all its lines share in its title; its columns of words left."""
  shared = [
    i
    for i, head in enumerate(block.header)
    if head in _SHARED and len({line[i] for line in block.lines}) == 1
  ]
  if not block.lines or not shared:
    return block, _WORDS
  above = ", ".join(f"{block.header[i]} {block.lines[0][i]}" for i in shared)
  keep = [i for i in range(len(block.header)) if i not in shared]
  return Block(
    f"{block.title}, {above}",
    tuple(block.header[i] for i in keep),
    tuple(tuple(line[i] for i in keep) for line in block.lines),
    block.notes,
    frozenset((line, keep.index(i)) for line, i in block.best),
  ), _WORDS - sum(i < _WORDS for i in shared)


def _terminal(block: Block, width: int | None) -> str:
  """A block as aligned columns, of which some are left out where they do not fit."""
  block, words = _without_common(block)
  lines, notes = [block.header, *block.lines], [*block.notes]
  room = width or sys.maxsize

  def table():
    return aligned(lines, left=words)

  def too_wide():
    return max(map(len, table().splitlines())) > room

  if too_wide() and any(" (" in cell for line in lines for cell in line[words:]):
    lines = [(*x[:words], *(re.sub(r" \(.*", "", c) for c in x[words:])) for x in lines]
    notes.append("deviations need a wider terminal")
  for most in range(24, 11, -1):
    if too_wide():
      cut = ((c if len(c) <= most else f"{c[: most - 1]}…" for c in x) for x in lines)
      lines = [
        (*x[:words], *old[words:])
        for x, old in zip(map(tuple, cut), lines, strict=True)
      ]
  left_out: list[str] = []
  while too_wide() and len(lines[0]) > words + 1:
    heads = lines[0][words:]
    last = max(
      heads, key=lambda h: (_KEPT.index(h) if h in _KEPT else 4, heads.index(h))
    )
    left_out.insert(0, last)
    place = words + heads.index(last)
    lines = [(*line[:place], *line[place + 1 :]) for line in lines]
  if left_out:
    notes.append(f"no room for {', '.join(left_out)}: --columns chooses")
  texts = (textwrap.fill(text, min(room, 100)) for text in (block.title, *notes))
  title, *below = texts
  return "\n".join([title, "", table(), "", *below, ""])


def _markdown(block: Block) -> str:
  """A block as a Markdown table; metrics that would make it too wide follow below."""
  lines = [
    [f"**{c}**" if (i, j) in block.best else c for j, c in enumerate(line)]
    for i, line in enumerate(block.lines)
  ]
  count = len(block.header)
  rows = [block.header, ["---"] * _WORDS + ["---:"] * (count - _WORDS), *lines]
  tables = []
  for first in range(_WORDS, count, _IN_MARKDOWN):
    places = [*range(_WORDS), *range(first, min(first + _IN_MARKDOWN, count))]
    cells = ([row[i].replace("|", r"\|") for i in places] for row in rows)
    tables += [*("| " + " | ".join(row) + " |" for row in cells), ""]
  notes = [f"- {note}" for note in block.notes]
  return "\n".join([f"**{block.title}**", "", *tables, *notes, ""])


def _latex(block: Block) -> str:
  """A block as a LaTeX table that fits a column, its notes in the caption.

  Words beside a name, such as the selection, stand above the lines that share them.
  Metrics that have no room beside others follow below.
  """
  block, words = _without_common(block)
  lines = [block.header, *block.lines]
  room = (1 - _NAMES) * _COLUMN - _BESIDE
  parts: list[list[int]] = [[]]
  for column in range(words, len(block.header)):
    parts[-1].append(column)
    if sum(max(_points(line[i]) for line in lines) for i in parts[-1]) > room:
      parts.append([parts[-1].pop()])
  caption = "; ".join(map(_escaped, (block.title, *block.notes)))
  begin = [r"\begin{table}", r"\centering", rf"\caption{{{caption}.}}", r"\scriptsize"]
  begin.append(rf"\setlength{{\tabcolsep}}{{{_BESIDE / 2}pt}}")
  tables = (_tabular(block, words, columns) for columns in parts)
  return "\n".join([*begin, "\n\\smallskip\n\n".join(tables), r"\end{table}", ""])


def _points(cell: str) -> float:
  """About the width of a number in LaTeX, or of the head of its column."""
  mean, _, deviation = cell.partition(" (")
  return _LETTER * (len(mean) + 0.8 * len(deviation)) + _BESIDE


def _tabular(block: Block, words: int, columns: Sequence[int]) -> str:
  """The names of a block and some of its columns of numbers."""

  def cells(line: Sequence[str], best: Container[int] = ()) -> str:
    found = []
    for i in columns:
      mean, _, deviation = line[i].partition(" (")
      text = rf"\textbf{{{_escaped(mean)}}}" if i in best else _escaped(mean)
      found.append(text + (rf"$_{{\pm{deviation[:-1]}}}$" if deviation else ""))
    return " & ".join([rf"\raggedright {_escaped(line[0])}", *found]) + r" \\"

  def shared(line: tuple[int, Sequence[str]]) -> str:
    said = (re.sub(r" \(.*", "", text) for text in line[1][1:words])  # No gamma.
    return _escaped(", ".join(dict.fromkeys(said)))

  form = rf"@{{}}p{{{_NAMES}\columnwidth}}{'r' * len(columns)}@{{}}"
  text = [rf"\begin{{tabular}}{{{form}}}", r"\toprule", cells(block.header)]
  groups: dict[str, list[tuple[int, Sequence[str]]]] = {}
  for line in enumerate(block.lines):
    groups.setdefault(shared(line), []).append(line)
  for above, group in groups.items():
    text.append(r"\midrule")
    if above:
      whole = r"p{0.96\columnwidth}" if _points(above) > _COLUMN else "l"
      text.append(
        rf"\multicolumn{{{len(columns) + 1}}}{{@{{}}{whole}@{{}}}}"
        rf"{{\raggedright\emph{{{above}}}}} \\"
      )
    text += [cells(x, {j for j in columns if (i, j) in block.best}) for i, x in group]
  return "\n".join([*text, r"\bottomrule", r"\end{tabular}"])


def _escaped(text: str) -> str:
  """Plain text in LaTeX."""
  return text.translate(_IN_LATEX)
