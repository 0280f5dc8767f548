"""Result rows: one number set with everything that gives it its meaning."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
import dataclasses
import json
import math
import pathlib
import statistics
from typing import Any

from zsljax.errors import require
from zsljax.io.files import locked, read_lines, write_text
from zsljax.io.json_files import (
  COUNT,
  NUMBER,
  OBJECT,
  TEXT,
  check_json,
  list_of,
  object_of,
  or_none,
  read_json,
)

SCHEMA = 3
_ABBREVIATIONS = ("eszsl", "msdn", "sae", "sdl")
SELECTIONS = ("val_selected", "last", "test_oracle")  # In the order of tables.
# Rows that agree in these, in gamma, in K and in given pairs say the same thing; the
# later one counts.
_IDENTITY = (
  "system",
  "dataset",
  "features",
  "class_embedding",
  "split_version",
  "protocol",
  "selection",
  "calibration",
  "seed",
  "step",
)
_FILE = "results.jsonl"
# What a sweep has chosen, in its folder and in those of its runs, and the rule.
CHOSEN = "chosen.json"
RULE = "longest within one standard error, share of the mean training margin"

Row = dict[str, Any]

_NUMBERS = {"type": "object", "additionalProperties": NUMBER}
_ROW = object_of(
  **dict.fromkeys(_IDENTITY, TEXT)
  | {"seed": COUNT, "step": COUNT, "selection": {"enum": list(SELECTIONS)}},
  metrics=_NUMBERS,
  provenance=object_of(
    gamma=NUMBER,
    config=object_of(
      system=OBJECT, optimizer=OBJECT, data=OBJECT, epochs={}, batch_size={}
    ),
    data=object_of(fingerprint=TEXT),
  ),
)
_ROW["properties"] |= {
  "conditions": object_of(top_k=list_of(COUNT)),
  "spread": OBJECT,
}
_POINT = {"point": OBJECT, "step": COUNT, "share": or_none(NUMBER)}
_CHOSEN = object_of(
  **_POINT,
  metric=TEXT,
  value=NUMBER,
  settings=COUNT,
  folds=TEXT,
  reselected=list_of(object_of(**_POINT)),
)
_CHOSEN["properties"] |= {
  "gamma": or_none(NUMBER),
  "thresholds": object_of(own=OBJECT, seen=NUMBER, unseen=NUMBER),
}


def make_row(
  dataset: Mapping[str, Any],
  report: Any,
  provenance: dict[str, Any],
  selections: Mapping[str, float] | None = None,
  **fields,
) -> Row:
  """A result row, see ``Experiment.row``; ``dataset`` is its metadata.

  ``report`` is a ``zsljax.evaluation.Report``; ``fields`` are ``system``,
  ``protocol``, ``selection`` (of ``SELECTIONS``), ``seed`` and ``step``.
  """
  calibration, conditions = report.calibration, report.conditions
  row = {"dataset": dataset["name"], **dataset, **fields}
  row["calibration"] = calibration.name
  spread = {
    "interval": {
      name: [round(x, 3) for x in bounds] for name, bounds in report.intervals().items()
    },
    "selections": selections,
  }
  spread = {name: values for name, values in spread.items() if values}
  return {
    "schema": SCHEMA,
    **{name: row[name] for name in _IDENTITY},
    "metrics": {k: round(v, 6) for k, v in report.metrics.items()},
    **({} if conditions is None else {"conditions": conditions}),
    **({"spread": spread} if spread else {}),
    "provenance": {"gamma": calibration.gamma or 0.0, **provenance},
  }


def read_rows(workdir: pathlib.Path) -> list[Row]:
  """The rows of a run.

  Raises:
    ZsljaxError: a row has another schema, or is damaged.
  """
  path = workdir / _FILE
  rows = read_lines(path, whole=True)
  for row in rows:
    found = row.get("schema")
    require(found == SCHEMA, f"{path}: schema", found, str(SCHEMA))
    check_json(row, _ROW, str(path), "result rows as zsljax writes them")
  return rows


def kept_choice(chosen: Mapping[str, Any]) -> dict[str, Any]:
  """The part of a choice that rows have."""
  kept = ("point", "step", "metric", "value", "settings", "folds", "rule", "share")
  return {field: chosen[field] for field in (*kept, "sweeps") if field in chosen}


def read_chosen(workdir: pathlib.Path, step: int = 0) -> dict[str, Any] | None:
  """The choice of a sweep, from its folder or that of a run of it; else None.

  A run that went on, to a ``step`` after the chosen one, is no longer what was chosen.

  Raises:
    ZsljaxError: it was made by another rule.
  """
  path = workdir / CHOSEN
  if not path.exists():
    return None
  again = "sweep again in another workdir"
  chosen = read_json(path, OBJECT, f"the choice of a sweep: {again}")
  found, expected = chosen.get("rule"), f"{RULE!r}: {again}"
  require(found == RULE, f"{path}: rule", found, expected)
  check_json(chosen, _CHOSEN, str(path), f"the choice of a sweep: {again}")
  return chosen if step <= chosen["step"] else None


def deciding_fields(config: Mapping[str, Any]) -> dict[str, Any]:
  """The fields of a config that make runs those of one method, by their dots."""
  system = dict(config["system"])
  stage = system.pop("stage", {})
  parts = {"system": system, "optimizer": config["optimizer"], "stage": stage}
  fields = {
    f"{part}.{field}": value
    for part, values in parts.items()
    for field, value in values.items()
  }
  fields |= {k: config[k] for k in ("epochs", "batch_size", "matmul_precision")}
  return fields | {"data.sampling": config["data"]["sampling"]}


def data_of(row: Row) -> str:
  """A row's features, class embedding and split, as text."""
  return (
    f"{row['features']} features, classes by {row['class_embedding']}, split "
    f"{row['split_version']}"
  )


def system_name(row: Row) -> str:
  """The system of a row, with its loss where it has several, and its stage."""
  system = row["provenance"]["config"]["system"]
  told = ", ".join(filter(None, (system.get("loss_name"), _stage(system))))
  return f"{row['system']} ({told})" if told else row["system"]


def _stage(system: Mapping[str, Any]) -> str:
  """The features that a system takes, from its config; empty if they are as stored."""
  features = system.get("stage", {}).get("features", "as_is")
  return "" if features == "as_is" else features.replace("_", " ")


def system_title(system: Mapping[str, Any]) -> str:
  """The name of a system in tables, from its config; of an ensemble with its runs."""
  members = system.get("members")
  if members:
    count = collections.Counter(system_title(member) for member in members)
    runs = ", ".join(f"{number} {name}" for name, number in count.items())
    return f"ensemble of {runs}"
  name = system["name"]
  name = name.upper() if name in _ABBREVIATIONS else name.replace("_", " ")
  return f"{_stage(system)} {name}".lstrip()


def column_name(metric: str) -> str:
  """A metric as the head of a column: T1, U, S, H; longer ones as they are."""
  return metric.upper() if len(metric) <= 2 else metric


def add_rows(workdir: pathlib.Path, rows: Sequence[Row]) -> pathlib.Path:
  """Adds rows to ``workdir/results.jsonl``, in place of those they repeat."""
  path = workdir / _FILE
  new = {_meaning(row) for row in rows}
  with locked(workdir / ".results.lock"):
    kept = [row for row in read_rows(workdir) if _meaning(row) not in new]
    write_text(path, "".join(json.dumps(row) + "\n" for row in [*kept, *rows]))
  return path


def _meaning(row: Row) -> tuple:
  top_k = tuple(row.get("conditions", {}).get("top_k", ()))
  pairs = row["provenance"].get("pairs", {}).get("sha256")
  return *(row[k] for k in _IDENTITY), row["provenance"]["gamma"], top_k, pairs


@dataclasses.dataclass(frozen=True)
class Summary:
  """Mean and spread of rows that differ in their seed alone.

  Attributes:
    row: one of them.
    seeds: of the rows.
    gammas: of the rows, each once.
    mean: of each metric.
    deviation: of each metric, between seeds (of a sample); empty of one seed.
  """

  row: Row
  seeds: tuple[int, ...]
  gammas: tuple[float, ...]
  mean: dict[str, float]
  deviation: dict[str, float]

  def cell(self, metric: str) -> str:
    """``41.2 (0.6)``; ``-`` where the metric does not exist."""
    if not math.isfinite(self.mean.get(metric, math.nan)):
      return "-"
    spread = f" ({self.deviation[metric]:.1f})" if self.deviation else ""
    return f"{self.mean[metric]:.1f}{spread}"


def summarize(rows: Sequence[Row]) -> list[Summary]:
  """Rows of several seeds by what else they are, in the order in which they come.

  Raises:
    ZsljaxError: rows that belong together have other metrics.
  """
  groups: dict[tuple, list[Row]] = {}
  for row in rows:
    what = tuple(row[field] for field in _IDENTITY if field not in ("seed", "step"))
    groups.setdefault(what, []).append(row)
  summaries = []
  for group in groups.values():
    metrics = [row["metrics"] for row in group]
    for row in group:
      require(
        row["metrics"].keys() == metrics[0].keys(),
        f"metrics of {row['system']} on {row['dataset']}, seed {row['seed']}",
        ", ".join(row["metrics"]),
        f"{', '.join(metrics[0])}, as for the other seeds: evaluate it again",
      )
    columns = {name: [values[name] for values in metrics] for name in metrics[0]}
    summaries.append(
      Summary(
        group[0],
        tuple(row["seed"] for row in group),
        tuple(dict.fromkeys(row["provenance"]["gamma"] for row in group)),
        {name: statistics.fmean(values) for name, values in columns.items()},
        {n: statistics.stdev(v) for n, v in columns.items() if len(v) > 1},
      )
    )
  return summaries


def short(value: Any) -> str:
  """A setting as text; numbers without needless digits."""
  return f"{value:g}" if isinstance(value, float) else str(value)


def calibration_of(row: Row) -> str:
  """A row's calibration with its gamma, as text."""
  if row["calibration"] == "none":
    return "none"
  return f"{row['calibration']} ({row['provenance']['gamma']:.4g})"


# Metrics as heads of columns, where they have a shorter name; None: in files alone.
_HEADS = {"accuracy": "ACC", "ausuc_micro": None}


def terminal_table(rows: Sequence[Row]) -> str:
  """The rows as aligned text, metrics in percent with two decimals.

  What all rows have in common stands above.
  """
  if "conditions" in rows[0]:
    return _multi_label_table(rows)
  names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
  heads = {name: _HEADS.get(name, name.upper()) for name in names}
  words, numbers = [], []
  for row in rows:
    words.append(
      {
        "protocol": row["protocol"],
        "selection": row["selection"],
        "calibration": calibration_of(row),
      }
    )
    cells = {head: row["metrics"].get(name) for name, head in heads.items() if head}
    numbers.append({k: "-" if v is None else f"{v:.2f}" for k, v in cells.items()})
  return _with_common(words, numbers)


def _multi_label_table(rows: Sequence[Row]) -> str:
  """Two lines a row: among the unseen labels (zsl), and among all (gzsl)."""
  top_k = sorted({k for row in rows for k in row["conditions"]["top_k"]})
  names = [f"{name}@{k}" for k in top_k for name in ("p", "r", "f1")] + ["map"]
  if any("zsl_f1@threshold" in row["metrics"] for row in rows):
    names.insert(-1, "f1@threshold")
  words, numbers = [], []
  for row in rows:
    conditions = row["conditions"]
    for setting, among in (("zsl", "unseen"), ("gzsl", "all")):
      counted = conditions[setting]
      metrics = {name: row["metrics"].get(f"{setting}_{name}") for name in names}
      words.append(
        {
          "protocol": row["protocol"],
          "selection": row["selection"],
          "bare images": "dropped"
          if conditions["drop_images_without_positive"]
          else "kept",
          "unannotated": conditions["unannotated"],
          "labels": f"{setting}: {counted['labels']} {among}",
        }
      )
      numbers.append(
        {"images": str(counted["images"]), "density": f"{counted['density']:.3f}"}
        | {
          "mAP" if name == "map" else name.upper(): "-" if m is None else f"{m:.2f}"
          for name, m in metrics.items()
        }
      )
  return _with_common(words, numbers)


def _with_common(
  words: Sequence[Mapping[str, str]], numbers: Sequence[Mapping[str, str]]
) -> str:
  """Lines of words and numbers by their heads; words that all lines share go above."""
  common = {k: v for k, v in words[0].items() if all(line[k] == v for line in words)}
  own = [head for head in words[0] if head not in common]
  lines = [[*own, *numbers[0]]]
  for some, values in zip(words, numbers, strict=True):
    lines.append([*(some[head] for head in own), *values.values()])
  above = ", ".join(f"{head} {text}" for head, text in common.items())
  return f"{above}\n\n" * bool(above) + aligned(lines, left=len(own))


def aligned(lines: Sequence[Sequence[str]], left: int) -> str:
  """Columns, the first ``left`` of them flush left."""
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return "\n".join(
    "  ".join(
      cell.ljust(width) if i < left else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    ).rstrip()
    for line in lines
  )
