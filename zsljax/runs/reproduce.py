"""One command: systems swept on datasets, and a report of what came out.

Every number of the report is of a sweep: chosen on class folds, several seeds, tested
once. Beside it stands ``test_oracle``, and the gap between both.
"""

from __future__ import annotations

from collections.abc import Sequence
import json
import pathlib
import shlex
import shutil
import sys
from typing import Any

import jax

from zsljax.data import StoredDataset
from zsljax.data.store import variants
from zsljax.errors import counted, require, require_known
from zsljax.evaluation import PROTOCOLS
from zsljax.io.files import write_json, write_text
from zsljax.io.versions import hardware
from zsljax.reporting import published
from zsljax.reporting.pictures import new_figure, save_figure
from zsljax.reporting.rows import Row, column_name, summarize
from zsljax.reporting.tables import Block, fitted, make_blocks, render
from zsljax.runs.comparison import compared
from zsljax.runs.config import read_config
from zsljax.runs.sweep import RESELECTIONS, seconds_of, sweep

# The config of each system, what follows the dataset's name in its argument, and the
# images that it needs: with pooled features, with regions, with several labels, or with
# pooled features in the space of the descriptions.
# The quickest first.
SYSTEMS = {
  "similarity": ("baselines", ",similarity", "shared-space"),
  "nearest_mean": ("baselines", ",nearest_mean", "pooled"),
  "recommended": ("recommended", "", "pooled"),
  "eszsl": ("baselines", ",eszsl", "pooled"),
  "sae": ("baselines", ",sae", "pooled"),
  "recommended_sae": ("recommended", ",sae", "pooled"),
  "recommended_cosine": ("recommended", ",cosine", "pooled"),
  "semantic_softmax": ("semantic_softmax", "", "pooled"),
  "normface": ("cosine", ",normface", "pooled"),
  "so_softmax": ("cosine", ",so_softmax", "pooled"),
  "attended_autoencoder": ("attended_autoencoder", "", "region"),
  "recommended_regions": ("recommended", ",attended_autoencoder", "region"),
  "msdn": ("msdn", "", "region"),
  "sdl": ("sdl", "", "multi-label"),
  "recommended_sdl": ("recommended", ",sdl", "multi-label"),
}
_SEVERAL = ("corel5k", "corel5k_lite2", "nus_wide", "coco", "open_images")
DATASETS = (
  *("digits", "cub", "sun", "awa2", "awa1", "apy", "flo", "scene15"),
  *_SEVERAL,
)

_RECONSTRUCTED = (
  "SO-softmax is a reconstruction: the published formula was not at hand.",
  "",
)


def reproduce(
  systems: str,
  datasets: str,
  dest: pathlib.Path,
  seeds: int,
  data_dir: pathlib.Path | None,
  fields: Sequence[str],
  folds: str = "5",
) -> pathlib.Path:
  """Sweeps every pair of system and dataset; the path of the report.

  Args:
    systems: of ``SYSTEMS``, apart by commas, or ``all``.
    datasets: of ``DATASETS``, apart by commas, or ``all``.
    dest: the folder of the report and of the sweeps.
    seeds: number of runs that are tested.
    data_dir: the folder of stored datasets.
    fields: of the configs, as in ``--config.epochs=3``.
    folds: see ``sweep``.

  Raises:
    ZsljaxError: a name is unknown, data are missing, or nothing fits.
  """
  usable = _usable(
    _names(systems, "--systems", SYSTEMS),
    _names(datasets, "--datasets", DATASETS),
    data_dir,
  )
  require(len(usable) > 0, "--systems", systems, "systems that fit the datasets")
  dest = dest.expanduser().absolute()
  runs, rows = [], []
  read = [config_of(*pair, data_dir, fields) for pair in usable]
  for (system, dataset, _), config in zip(usable, read, strict=True):
    name = f"{dataset}_{system}"
    print(f"{name}:", flush=True)
    folder = dest / "runs" / name
    found = sweep(config, seeds, folder, folds)
    rows += [(system, row) for row in found]
    runs.append(_recorded(name, found[0], seconds_of(folder)))
    _copy_curve(dest, name, config["seed"])
  manifest = {
    "command": shlex.join(["python", "-m", "zsljax", *sys.argv[1:]]),
    "seeds": seeds,
    "seconds": round(sum(run["seconds"] for run in runs), 1),
    "hardware": {"devices": [d.device_kind for d in jax.devices()], **hardware()},
    "runs": runs,
  }
  write_json(dest / "manifest.json", manifest)
  lines = (json.dumps(row) + "\n" for _, row in rows)
  write_text(dest / "results.jsonl", "".join(lines))
  write_text(dest / "README.md", _report(dest, rows, manifest))
  return dest / "README.md"


def _names(text: str, flag: str, known: Sequence[str] | dict) -> list[str]:
  if text == "all":
    return list(known)
  names = list(dict.fromkeys(text.split(",")))
  for name in names:
    require_known(name, known, flag)
  return names


def _usable(
  systems: Sequence[str], datasets: Sequence[str], data_dir: pathlib.Path | None
) -> list[tuple[str, str, StoredDataset | None]]:
  """Pairs that fit, each with the stored form of the dataset (None: it is embedded).

  Raises:
    ZsljaxError: a dataset is not there in any form that one of the systems wants.
  """
  usable = []
  for dataset in datasets:
    before, left_out = len(usable), []
    forms = variants(data_dir, dataset) if data_dir and dataset != "digits" else []
    for system in systems:
      form = SYSTEMS[system][-1]
      several = form == "multi-label"
      if dataset == "digits":
        if form != "shared-space":
          usable.append((system, "multidigit" if several else dataset, None))
      elif stored := form_for(system, dataset, forms):
        usable.append((system, dataset, stored))
      elif several == (dataset in _SEVERAL):
        left_out.append(f"{system} on {dataset} (no {form} features of it)")
    require(
      len(usable) > before,
      f"--data_dir={data_dir}",
      f"no {dataset} that one of the systems can use",
      f"an import of it{_import_of(systems, dataset)}, see docs/importing.md",
    )
    if left_out:
      print(fitted(f"left out: {', '.join(left_out)}"))
  return usable


def _import_of(systems: Sequence[str], dataset: str) -> str:
  """The commands that published results of such systems name, and files they read."""
  configs = tuple(f"{SYSTEMS[system][0]}:" for system in systems)
  commands = dict.fromkeys(
    f"`{paper.imported_by}`"
    for paper in map(published.read_published, published.names())
    if paper.dataset == dataset and (paper.config or "").startswith(configs)
  )
  return f" by {' or '.join(commands)}" if commands else ""


def form_for(
  system: str, dataset: str, forms: Sequence[StoredDataset]
) -> StoredDataset | None:
  """The form of a stored set that a system takes; None where there is none.

  Raises:
    ZsljaxError: there are several.
  """
  kind = SYSTEMS[system][-1]
  needed = 2 if kind == "region" else 1, kind == "multi-label"
  forms = [one for one in forms if (len(one.feature_shape), one.multi_label) == needed]
  require(
    len(forms) <= 1,
    f"--data_dir: {dataset}",
    ", ".join(f"{form.folder}" for form in forms),
    "one form of it with regions and one without",
  )
  for form in forms:
    width = form.classes.embeddings.shape[1]
    if kind != "shared-space" or form.feature_shape == (width,):
      return form
  return None


def config_of(
  system: str,
  dataset: str,
  stored: StoredDataset | None,
  data_dir: pathlib.Path | None,
  fields: Sequence[str],
) -> dict[str, Any]:
  """The config of a system for a dataset, on a stored form of it.

  Args:
    system: of ``SYSTEMS``.
    dataset: as the config's argument names it.
    stored: the form; None where the dataset is embedded.
    data_dir: the folder of stored datasets.
    fields: of the config, as in ``--config.epochs=3``.
  """
  of_data = []
  if stored is not None:
    of_data = [f"--config.data.features={stored.variant}"]
    if data_dir is not None:
      of_data += [f"--config.data.dir={data_dir}"]
  name, argument, _ = SYSTEMS[system]
  return read_config(f"{name}:{dataset}{argument}", [*of_data, *fields])


def _recorded(name: str, row: Row, seconds: float) -> dict[str, Any]:
  origin = row["provenance"]
  return {
    "name": name,
    "seconds": round(seconds, 1),
    **{field: origin[field] for field in ("chosen", "versions", "device", "config")},
    "data": {**{k: row[k] for k in ("dataset", "features")}, **origin["data"]},
  }


def _copy_curve(dest: pathlib.Path, name: str, seed: int) -> None:
  source = dest / "runs" / name / f"seed_{seed}" / "curve_test.png"
  if source.exists():
    (dest / "curves").mkdir(exist_ok=True)
    shutil.copyfile(source, dest / "curves" / f"{name}.png")


def _report(
  dest: pathlib.Path, rows: Sequence[tuple[str, Row]], manifest: dict[str, Any]
) -> str:
  seeds, machine = manifest["seeds"], manifest["hardware"]
  gaps = _gaps(rows)
  names = [run["name"] for run in manifest["runs"]]
  same = compared([dest / "runs" / name for name in names])
  _draw_gaps(gaps, dest / "gaps.png")
  lines = [
    "# Results",
    "",
    f"Made by `{manifest['command']}` in "
    f"{counted(round(manifest['seconds'] / 60), 'minute')} on "
    f"{counted(machine['cpu_cores'], 'core')} and {', '.join(machine['devices'])}; "
    f"{counted(seeds, 'seed')} each. Versions, data hashes and settings are in "
    "`manifest.json`, all rows in `results.jsonl`.",
    "",
    "`val_selected` is the result: settings, number of steps and gamma were chosen on "
    "class folds. `test_oracle` chose steps and gamma on the test images, as many "
    "published tables do; the gap says what that is worth.",
    "",
    *(_RECONSTRUCTED if any("so_softmax" in name for name in names) else ()),
    render([gaps], "markdown"),
    "![Gaps](gaps.png)",
    "",
    *(["## Systems on the same images", "", render(same, "markdown")] if same else []),
    "## All rows",
    "",
    render(make_blocks([row for _, row in rows]), "markdown"),
  ]
  drawn = [name for name in names if (dest / "curves" / f"{name}.png").exists()]
  lines += ["## Seen-unseen curves", "", "Of the first seed.", ""]
  lines += [f"![{name}](curves/{name}.png)" for name in drawn]
  return "\n".join(lines) + "\n"


def _gaps(rows: Sequence[tuple[str, Row]]) -> Block:
  """The results of all recipes, and the gain from choosing on the test images."""
  lines = []
  sweeps: dict[tuple, list[Row]] = {}
  for recipe, row in rows:
    if row["protocol"] in PROTOCOLS:
      key = row["dataset"], recipe, row["protocol"]
      sweeps.setdefault(key, []).append(row)
  for (dataset, name, protocol), group in sweeps.items():
    best = {
      (s.row["selection"], s.row["calibration"] != "none"): s for s in summarize(group)
    }
    calibrated = ("test_oracle", True) in best
    if not calibrated and ("test_oracle", False) not in best:
      continue  # Embeddings of a zero-shot system.
    metric = "h" if calibrated else PROTOCOLS[protocol].selects[0]
    oracle, chosen = (
      best[selection, calibrated] for selection in ("test_oracle", "val_selected")
    )
    spread = chosen.row.get("spread", {})
    selections = spread.get("selections", {}).get(metric)
    lines.append(
      (
        dataset,
        name,
        column_name(metric),
        chosen.cell("t1"),
        chosen.cell(metric),
        "-" if selections is None else f"{selections:.1f}",
        oracle.cell(metric),
        f"{oracle.mean[metric] - chosen.mean[metric]:.1f}",
      )
    )
  return Block(
    "Results, and what choosing on the test images would add",
    ("dataset", "system", "metric", "T1", "val_selected", "selections")
    + ("test_oracle", "gap"),
    tuple(lines),
    (
      "percent; mean (standard deviation) over final seeds; a baseline in closed form "
      "is the same for every seed",
      "selections: standard deviation of the first seed's result over "
      f"{RESELECTIONS} choices, each on as many folds drawn from those of the sweep",
      "gap: of the number of steps and gamma together",
    ),
  )


def _draw_gaps(block: Block, path: pathlib.Path) -> None:
  """Bars from what was chosen on the folds to what the test images would choose."""
  names = [f"{line[0]}, {line[1]} ({line[2]})" for line in block.lines]
  figure = new_figure(7, 1 + 0.25 * len(names))
  axes = figure.add_subplot()
  chosen = [float(line[4].split()[0]) for line in block.lines]
  gap = [float(line[7]) for line in block.lines]
  axes.margins(y=0.01)
  axes.barh(names, chosen, color="#4477aa", label="chosen on class folds")
  axes.barh(names, gap, left=chosen, color="#ee6677", label="gap to the test's choice")
  axes.invert_yaxis()
  axes.set_xlabel("percent")
  axes.legend(loc="lower right", frameon=False)
  save_figure(figure, path)
