"""Tables of results: means over seeds, and published numbers apart from them.

A block holds rows of one dataset, features, class embedding, split version and
protocol: these compare. A row says how it was selected. Published numbers, mostly on
other features, follow in blocks of their own, each with its source.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import json
import pathlib
from typing import Any

from zsljax.errors import ZsljaxError, require
from zsljax.reporting.published import Published, names, read_published
from zsljax.reporting.rows import (
  SELECTIONS,
  Row,
  Summary,
  aligned,
  column_name,
  data_of,
  deciding_fields,
  read_rows,
  short,
  summarize,
)

_BLOCK = ("dataset", "features", "class_embedding", "split_version", "protocol")
# Of the usual protocol; others show all their metrics.
_SHOWN = {"xian": ("t1", "u", "s", "h", "ausuc")}
_WORDS = 3  # Columns of a block before its numbers.


@dataclasses.dataclass(frozen=True)
class Block:
  """A table of comparable rows.

  Attributes:
    title: the data and the protocol of all rows.
    header: names of the columns, three with words and the others with numbers.
    lines: cells, as texts.
    notes: explanations below the table.
  """

  title: str
  header: tuple[str, ...]
  lines: tuple[tuple[str, ...], ...]
  notes: tuple[str, ...] = ()


def find_rows(folders: Sequence[pathlib.Path]) -> list[Row]:
  """Reads the rows of runs and sweeps, or of all in the subfolders of a folder.

  Raises:
    ZsljaxError: a folder has none; or rows of another schema.
  """
  rows = []
  for folder in folders:
    folder = folder.expanduser()
    require(folder.is_dir(), str(folder), "no folder", "that of a run or a sweep")
    found = [row for one in sweeps_below([folder]) for row in read_rows(one)]
    if not found:
      raise ZsljaxError(
        f"{folder}: no results.jsonl, expected that of eval.py or of a sweep"
      )
    rows += found
  return rows


def sweeps_below(folders: Sequence[pathlib.Path]) -> list[pathlib.Path]:
  """The folders with rows: each of ``folders``, or its subfolders."""
  found = []
  for folder in (folder.expanduser() for folder in folders):
    own = (folder / "results.jsonl").exists()
    below = sorted(path.parent for path in folder.glob("*/results.jsonl"))
    found += [folder] if own else below
  return found


def make_blocks(rows: Sequence[Row]) -> list[Block]:
  """Makes the blocks of each dataset, followed by its published numbers.

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
    blocks += map(_block, some)
    blocks += _published_blocks(dataset, [row for group in some for row in group])
  return blocks


def render(blocks: Sequence[Block], form: str) -> str:
  """Writes the blocks as text: ``terminal``, ``markdown`` or ``latex``."""
  write = {"terminal": _terminal, "markdown": _markdown, "latex": _latex}[form]
  return "\n".join(map(write, blocks))


def _block(rows: Sequence[Row]) -> Block:
  """The block of rows that compare."""
  first = rows[0]
  fingerprints = {row["provenance"]["data"]["fingerprint"] for row in rows}
  require(
    len(fingerprints) == 1,
    f"rows of {first['dataset']} ({first['features']}, {first['class_embedding']})",
    f"{len(fingerprints)} different data sets of this name: fingerprints "
    f"{', '.join(sorted(f[:12] for f in fingerprints))}",
    "rows of one import of the data, which alone compare",
  )
  every = dict.fromkeys(name for row in rows for name in row["metrics"])
  metrics = _SHOWN.get(first["protocol"], every)
  lines = []
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
    lines.append((name, selection, calibration, str(len(seeds)), *cells))
  lines.sort(key=lambda line: SELECTIONS.index(line[1]))
  title = f"{first['dataset']}: {data_of(first)}, protocol {first['protocol']}"
  notes = ["percent; mean (standard deviation) over seeds"]
  if any(line[1] == "test_oracle" for line in lines):
    notes.append(
      "test_oracle: the number of steps and gamma that are best on the test images; "
      "not a result, but what many published tables show"
    )
  header = ("system", "selection", "calibration", "seeds", *map(column_name, metrics))
  return Block(title, header, tuple(lines), tuple(notes))


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
    parts = [system]
    for field, value in sorted(setting.items()):
      if value is not None and any(other.get(field) != value for other in others):
        name = field.removeprefix("system.").removeprefix("data.")
        parts.append(f"{name} {short(value)}")
    named[", ".join(parts)] = group
  return named


def _settings(row: Row) -> dict[str, Any]:
  """The fields of a row's config that tell one method from another."""
  config = row["provenance"]["config"]
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


_IN_LATEX = str.maketrans(
  {c: f"\\{c}" for c in "&%#_${}"}
  | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def _terminal(block: Block) -> str:
  """A block as aligned columns."""
  table = aligned([block.header, *block.lines], left=_WORDS)
  return "\n".join([block.title, "", table, "", *block.notes, ""])


def _markdown(block: Block) -> str:
  """A block as a Markdown table."""
  rule = ["---"] * _WORDS + ["---:"] * (len(block.header) - _WORDS)
  rows = [block.header, rule, *block.lines]
  cells = ([text.replace("|", r"\|") for text in row] for row in rows)
  table = ["| " + " | ".join(row) + " |" for row in cells]
  notes = [f"- {note}" for note in block.notes]
  return "\n".join([f"**{block.title}**", "", *table, "", *notes, ""])


def _latex(block: Block) -> str:
  """A block as a LaTeX table, its notes in the caption."""
  columns = "l" * _WORDS + "r" * (len(block.header) - _WORDS)
  header, *rows = (
    " & ".join(map(_escaped, line)) + r" \\" for line in (block.header, *block.lines)
  )
  caption = ". ".join(map(_escaped, (block.title, *block.notes)))
  begin = [r"\begin{table}", r"\centering", rf"\caption{{{caption}.}}"]
  begin += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", header, r"\midrule"]
  end = [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
  return "\n".join([*begin, *rows, *end])


def _escaped(text: str) -> str:
  """Plain text in LaTeX."""
  return text.translate(_IN_LATEX)
