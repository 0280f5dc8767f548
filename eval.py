"""Evaluates a trained run: checkpoint in, result rows out.

  python eval.py --workdir=W                    # the test images
  python eval.py --workdir=W --split=val        # of a run with train_split=train

``--split=val`` chooses gamma of calibrated stacking on the validation classes;
``--gamma_from`` takes what it chose to the test images of another run.
"""

import dataclasses
import pathlib

from absl import app, flags
import jax

from zsljax import evaluation, training
from zsljax.checkpoints import Checkpoints
from zsljax.data import evaluation_batches
from zsljax.errors import ZsljaxError, require, shown_to_user
from zsljax.experiment import Experiment
import zsljax.flags
from zsljax.flags import parse_flags, workdir
from zsljax.models import build_system
from zsljax.reporting.rows import Row, add_rows, make_row, read_rows, terminal_table

SPLIT = flags.DEFINE_enum(
  "split",
  "test",
  ["test", "val"],
  "Images to score; val needs a run with config.data.train_split=train.",
)
DATA_DIR = flags.DEFINE_string(
  "data_dir", None, "Where the dataset is now, when it was moved."
)
GAMMA = flags.DEFINE_float(
  "gamma",
  None,
  "Also report with this subtracted from scores of seen classes; the config's "
  "evaluation.gamma when neither this nor --gamma_from is given.",
)
GAMMA_FROM = flags.DEFINE_string(
  "gamma_from",
  None,
  "As --gamma, with the value chosen by `--split=val` in this workdir.",
)
flags.mark_flags_as_mutual_exclusive(["gamma", "gamma_from"])
flags.adopt_module_key_flags(zsljax.flags)

# What a run that chooses gamma must share with the one that takes it.
_DECISIVE = ("system", "optimizer", "epochs", "batch_size")
PROTOCOLS = {"test": "xian", "val": "xian_val"}


def evaluate(
  workdir: pathlib.Path,
  split: str = "test",
  data_dir: str | None = None,
  gamma: float | None = None,
  gamma_from: pathlib.Path | None = None,
) -> list[Row]:
  """Rows for the latest checkpoint, also added to ``workdir/results.jsonl``.

  Args:
    workdir: the folder of a training run.
    split: ``test`` or ``val``.
    data_dir: where the dataset is now, when it was moved.
    gamma: also report with this subtracted from the scores of seen classes; when
      None, and no ``gamma_from`` is, the config's ``evaluation.gamma``.
    gamma_from: as ``gamma``, with what ``val`` chose in this workdir.
  """
  manifest = training.read_manifest(workdir)
  config = manifest["config"]
  if data_dir:
    config["data"]["dir"] = data_dir
  config["mesh"]["data"] = -1  # The devices here, not those of training.
  run = Experiment.build(config)
  require(
    run.dataset.fingerprint == manifest["dataset"]["fingerprint"],
    f"{run.dataset.folder}: fingerprint",
    run.dataset.fingerprint[:12],
    f"{manifest['dataset']['fingerprint'][:12]}, the data of the training run",
  )
  on_test = split == "test"
  require(
    on_test or config["data"]["train_split"] == "train",
    f"--split=val: config.data.train_split of {workdir}",
    config["data"]["train_split"],
    "train: this run was trained on the validation images",
  )
  require(
    on_test or gamma_from is None,
    "--gamma_from",
    f"{gamma_from} with --split=val",
    "--split=test: on val gamma is chosen, not taken",
  )
  chosen = None if gamma_from is None else chosen_gamma(gamma_from, run)

  checkpoints = Checkpoints(workdir, run.identity())
  step = checkpoints.latest_step()
  params = checkpoints.restore_params(run.param_shapes(), step)
  checkpoints.close()
  classes = run.dataset.classes if on_test else run.classes
  splits = ("test_seen", "test_unseen") if on_test else ("val",)
  devices = run.mesh.shape["data"]
  batch_size = -(-config["evaluation"]["batch_size"] // devices) * devices
  batches = evaluation_batches(run.dataset, splits, batch_size)
  with jax.default_matmul_precision(config["matmul_precision"]):
    decisions = evaluation.decide_all(run.system, params, classes, batches, run.mesh)

  meta = run.dataset.metadata
  provenance = {
    "preset": config["system"]["preset"],
    "config": run.config | {"data": run.config["data"] | {"dir": None}},
    "data": {k: meta[k] for k in ("fingerprint", "sources", "storage_dtype")},
    "versions": training.library_versions(),
    "device": jax.devices()[0].device_kind,
  }

  def row(calibration: str, gamma: float, selection: str, origin: str) -> Row:
    return make_row(
      system=run.system.name,
      dataset=meta,
      protocol=PROTOCOLS[split],
      selection=selection,
      calibration=calibration,
      seed=config["seed"],
      step=step,
      metrics=evaluation.single_label_metrics(decisions, classes.seen, gamma),
      provenance={"gamma": gamma, "gamma_from": origin, **provenance},
    )

  origin = "--gamma"
  if gamma is None and gamma_from is None and on_test:
    gamma, origin = config["evaluation"]["gamma"], "config.evaluation.gamma"
  rows = [row("none", 0.0, "last", "no calibration")]
  if not on_test:
    best = evaluation.seen_unseen_curve(decisions, classes.seen).best_gamma()
    rows.append(row("additive", best, "val_selected", "highest H on val"))
  if gamma is not None:
    rows.append(row("additive", gamma, "last", origin))
  if chosen is not None:
    rows.append(row("additive", *chosen))
  add_rows(workdir, rows)
  return rows


def chosen_gamma(workdir: pathlib.Path, run: Experiment) -> tuple[float, str, str]:
  """The gamma that ``--split=val`` has chosen in ``workdir``, how, and where.

  Raises:
    ZsljaxError: it has not, or for another system or other data.
  """
  require(
    workdir.is_dir(), f"--gamma_from={workdir}", "no such folder", "that of a run"
  )
  rows = [
    row
    for row in read_rows(workdir)
    if row["protocol"] == PROTOCOLS["val"] and row["calibration"] == "additive"
  ]
  if not rows:
    raise ZsljaxError(
      f"--gamma_from={workdir}: no gamma was chosen there, expected a run with "
      "config.data.train_split=train after `eval.py --split=val`"
    )
  row = rows[-1]
  there, here = (
    {
      **training.flat({part: config[part] for part in _DECISIVE}, "config."),
      "fingerprint of the data": fingerprint,
    }
    for config, fingerprint in (
      (row["provenance"]["config"], row["provenance"]["data"]["fingerprint"]),
      (run.config, run.dataset.fingerprint),
    )
  )
  for field in sorted(there.keys() | here.keys()):
    found, expected = there.get(field), here.get(field)
    require(
      found == expected,
      f"--gamma_from={workdir}: {field}",
      found,
      f"{expected} as here",
    )
  origin = (
    f"highest H on val of seed {row['seed']}, step {row['step']} in {workdir.name}"
  )
  return row["provenance"]["gamma"], row["selection"], origin


def _described(provenance: dict) -> str:
  """The preset, and the system's fields that are neither its nor the defaults."""
  config, preset = provenance["config"]["system"], provenance["preset"]
  plain = dataclasses.asdict(build_system({"name": config["name"], "preset": preset}))
  changed = [
    f"{field}={config[field]}"
    for field, value in plain.items()
    if config[field] != (list(value) if isinstance(value, tuple) else value)
  ]
  return "; ".join([preset, *changed])


def main(argv: list[str]) -> None:
  """Evaluates what the flags say and prints the rows."""
  del argv
  rows = evaluate(
    workdir(),
    SPLIT.value,
    DATA_DIR.value,
    GAMMA.value,
    pathlib.Path(GAMMA_FROM.value).expanduser() if GAMMA_FROM.value else None,
  )
  row = rows[0]
  trained_on = row["provenance"]["config"]["data"]["train_split"]
  print(
    f"{row['system']} ({_described(row['provenance'])}), seed {row['seed']}, step "
    f"{row['step']}, trained on {trained_on}\n"
    f"{row['dataset']}: {row['features']} features, classes by "
    f"{row['class_embedding']}, split {row['split_version']}; mean per-class "
    f"accuracy in percent on {SPLIT.value} images\n\n"
    f"{terminal_table(rows)}\n\nrows in {workdir() / 'results.jsonl'}"
  )


if __name__ == "__main__":
  app.run(shown_to_user(main), flags_parser=parse_flags)
