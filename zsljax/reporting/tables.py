"""Tables of results: means over seeds, and published numbers apart from them.

A block holds rows of one dataset, features, class embedding, split version and
protocol: these compare. A row says how it was selected. Published numbers have other
features and follow in a block of their own, each with its source.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import csv
import dataclasses
import importlib.resources
import io
import json
import pathlib
from typing import Any

from zsljax.errors import ZsljaxError, require
from zsljax.reporting.rows import Row, Summary, aligned, read_rows, summarize

FORMATS = ("terminal", "markdown", "latex", "csv")
_BLOCK = ("dataset", "features", "class_embedding", "split_version", "protocol")
# Of the usual protocol; others show all their metrics.
_SHOWN = {"xian": ("t1", "u", "s", "h", "ausuc")}
_SELECTIONS = ("val_selected", "last", "test_oracle")
_STATUSES = ("re-read", "recalled")


@dataclasses.dataclass(frozen=True)
class Block:
  """A table of comparable rows.

  Attributes:
    title: what its rows have in common.
    header: names of the columns.
    lines: cells, as texts.
    left: how many columns are words.
    notes: what must be known to read it.
  """

  title: str
  header: tuple[str, ...]
  lines: tuple[tuple[str, ...], ...]
  left: int
  notes: tuple[str, ...] = ()


def find_rows(folders: Sequence[pathlib.Path]) -> list[Row]:
  """The rows of runs and sweeps, and of those in subfolders of other folders.

  Raises:
    ZsljaxError: a folder has none; or rows of another schema.
  """
  rows = []
  for folder in folders:
    folder = folder.expanduser()
    require(folder.is_dir(), str(folder), "no folder", "that of a run or a sweep")
    own = read_rows(folder)
    if not own:
      below = sorted(p.parent for p in folder.glob("*/results.jsonl"))
      own = [row for sub in below for row in read_rows(sub)]
    if not own:
      raise ZsljaxError(
        f"{folder}: no results.jsonl, expected that of eval.py or of a sweep"
      )
    rows += own
  return rows


def make_blocks(rows: Sequence[Row]) -> list[Block]:
  """Result blocks, each followed by the published numbers of its dataset.

  Raises:
    ZsljaxError: rows that would share a block are of different data, or a seed occurs
      twice with the same settings.
  """
  groups: dict[tuple, list[Row]] = {}
  for row in rows:
    what = *(row[field] for field in _BLOCK), _counted(row)
    groups.setdefault(what, []).append(row)
  blocks: list[Block] = []
  for group in groups.values():
    blocks.append(_block(group))
  for dataset in dict.fromkeys(row["dataset"] for row in rows):
    published = [entry for entry in read_published() if entry["dataset"] == dataset]
    blocks += _published_blocks(dataset, published)
  return blocks


def read_published() -> list[dict[str, Any]]:
  """Published numbers: each entry with its source, features, selection and status.

  Status is ``re-read`` (in the named public source) or ``recalled``.
  """
  path = importlib.resources.files("zsljax.reporting") / "published.json"
  entries = json.loads(path.read_text())
  for entry in entries:
    require(
      entry["status"] in _STATUSES,
      f"published.json: status of {entry['method']}",
      entry["status"],
      f"one of {', '.join(_STATUSES)}",
    )
  return entries


def render(blocks: Sequence[Block], form: str) -> str:
  """The blocks as text of one of ``FORMATS``."""
  require(form in FORMATS, "--format", repr(form), f"one of {', '.join(FORMATS)}")
  if form == "csv":
    return _csv(blocks)
  write = {"terminal": _terminal, "markdown": _markdown, "latex": _latex}[form]
  return "\n".join(write(block) for block in blocks)


def _counted(row: Row) -> str:
  """What a multi-label protocol counted; such rows compare when it agrees."""
  conditions = row.get("conditions")
  return json.dumps(conditions, sort_keys=True) if conditions else ""


def _block(rows: Sequence[Row]) -> Block:
  first = rows[0]
  fingerprints = {row["provenance"]["data"]["fingerprint"] for row in rows}
  require(
    len(fingerprints) == 1,
    f"rows of {first['dataset']} ({first['features']}, {first['class_embedding']})",
    f"{len(fingerprints)} different data sets of this name: fingerprints "
    f"{', '.join(sorted(f[:12] for f in fingerprints))}",
    "rows of one import of the data, which alone compare",
  )
  named = _by_name(rows)
  shown = _SHOWN.get(first["protocol"])
  metrics = list(
    shown or dict.fromkeys(name for row in rows for name in row["metrics"])
  )
  lines = []
  for name, group in named.items():
    for summary in summarize(group):
      _check_seeds(name, summary)
      row = summary.row
      gammas = {r["provenance"]["gamma"] for r in group if _alike(r, row)}
      calibration = row["calibration"]
      if calibration != "none" and len(gammas) == 1:
        calibration += f" ({gammas.pop():.3g})"
      lines.append(
        (
          name,
          row["selection"],
          calibration,
          str(len(summary.seeds)),
          *(summary.cell(metric) for metric in metrics),
        )
      )
  lines.sort(key=lambda line: _SELECTIONS.index(line[1]))
  title = (
    f"{first['dataset']}: {first['features']} features, classes by "
    f"{first['class_embedding']}, split {first['split_version']}, protocol "
    f"{first['protocol']}"
  )
  notes = ["percent; mean (standard deviation) over seeds"]
  if any(line[1] == "test_oracle" for line in lines):
    notes.append(
      "test_oracle: the number of steps and gamma that are best on the test images; "
      "not a result, but what many published tables show"
    )
  header = ("system", "selection", "calibration", "seeds", *map(_column, metrics))
  return Block(title, header, tuple(lines), 3, tuple(notes))


def _column(metric: str) -> str:
  return metric.upper() if len(metric) <= 2 else metric


def _alike(a: Row, b: Row) -> bool:
  return all(a[field] == b[field] for field in ("selection", "calibration"))


def _by_name(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """Rows of the same settings, by a name that tells them from the others."""
  groups: dict[str, list[Row]] = {}
  for row in rows:
    groups.setdefault(json.dumps(_settings(row), sort_keys=True), []).append(row)
  settings = [_settings(group[0]) for group in groups.values()]
  differing = {
    field
    for one in settings
    for other in settings
    if one["system.name"] == other["system.name"]
    for field in one.keys() | other.keys()
    if one.get(field) != other.get(field)
  }
  named: dict[str, list[Row]] = {}
  for setting, group in zip(settings, groups.values(), strict=True):
    parts = [str(setting["system.name"])]
    for field in sorted(differing & setting.keys()):
      if setting[field] is not None and any(
        other["system.name"] == setting["system.name"]
        and other.get(field) != setting[field]
        for other in settings
      ):
        parts.append(f"{field.removeprefix('system.')} {_short(setting[field])}")
    named[", ".join(parts)] = group
  return named


def _short(value: Any) -> str:
  return f"{value:g}" if isinstance(value, float) else str(value)


def _settings(row: Row) -> dict[str, Any]:
  """The fields of a row's config that make it another method than others."""
  config = row["provenance"]["config"]
  settings = {
    f"{part}.{field}": value
    for part in ("system", "optimizer")
    for field, value in config[part].items()
  }
  settings |= {field: config[field] for field in ("epochs", "batch_size")}
  settings["trained on"] = config["data"]["train_split"]
  return settings


def _check_seeds(name: str, summary: Summary) -> None:
  seeds = summary.seeds
  twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
  require(
    not twice,
    f"{summary.row['dataset']}, {name}, {summary.row['selection']}",
    f"seed {twice[0] if twice else ''} twice",
    "each seed once: the same run was given twice, or at several numbers of steps",
  )


def _published_blocks(dataset: str, entries: Sequence[dict[str, Any]]) -> list[Block]:
  blocks = []
  for names in (("t1", "u", "s", "h"), _label_metrics(entries)):
    some = [
      entry for entry in entries if names and entry["metrics"].keys() & set(names)
    ]
    if not some:
      continue
    lines = tuple(
      (
        entry["method"],
        entry["features"],
        entry["class_embedding"],
        entry["split"],
        entry["selection"],
        entry["status"],
        *(_number(entry["metrics"].get(name)) for name in names),
      )
      for entry in some
    )
    notes = list(
      dict.fromkeys(f"{entry['method']}: {entry['source']}" for entry in some)
    )
    notes += dict.fromkeys(
      f"{entry['method']}: {entry['note']}" for entry in some if "note" in entry
    )
    header = ("published", "features", "classes by", "split", "selected on", "status")
    title = f"{dataset}: published numbers, on other features: not to be compared"
    header += tuple(map(_column, names))
    blocks.append(Block(title, header, lines, 6, tuple(notes)))
  return blocks


def _label_metrics(entries: Iterable[dict[str, Any]]) -> tuple[str, ...]:
  names = {name for entry in entries for name in entry["metrics"] if "_" in name}
  return tuple(sorted(names, key=lambda name: (name.split("_")[0] == "gzsl", name)))


def _number(value: float | None) -> str:
  return "-" if value is None else f"{value:.1f}"


def _terminal(block: Block) -> str:
  table = aligned([block.header, *block.lines], left=block.left)
  return "\n".join([block.title, "", table, "", *block.notes, ""])


def _markdown(block: Block) -> str:
  rule = ["---"] * block.left + ["---:"] * (len(block.header) - block.left)
  rows = [block.header, rule, *block.lines]
  table = ["| " + " | ".join(row) + " |" for row in rows]
  notes = [f"- {note}" for note in block.notes]
  return "\n".join([f"**{block.title}**", "", *table, "", *notes, ""])


def _latex(block: Block) -> str:
  columns = "l" * block.left + "r" * (len(block.header) - block.left)
  rows = [" & ".join(map(_escaped, row)) + r" \\" for row in block.lines]
  return "\n".join(
    [
      f"% {block.title}",
      rf"\begin{{tabular}}{{{columns}}}",
      r"\toprule",
      " & ".join(map(_escaped, block.header)) + r" \\",
      r"\midrule",
      *rows,
      r"\bottomrule",
      r"\end{tabular}",
      *(f"% {note}" for note in block.notes),
      "",
    ]
  )


def _escaped(text: str) -> str:
  for character in "&%#_$":
    text = text.replace(character, f"\\{character}")
  return text


def _csv(blocks: Sequence[Block]) -> str:
  """One line for each number: block, words of the row, metric, value."""
  file = io.StringIO()
  writer = csv.writer(file, lineterminator="\n")
  writer.writerow(("block", "row", "metric", "value"))
  for block in blocks:
    for line in block.lines:
      words = "; ".join(line[: block.left])
      for name, cell in zip(
        block.header[block.left :], line[block.left :], strict=True
      ):
        writer.writerow((block.title, words, name, cell))
  return file.getvalue()
