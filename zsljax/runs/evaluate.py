"""Evaluates a run: checkpoint in, result rows out."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import hashlib
import pathlib
import textwrap
from typing import Any

import numpy as np

from zsljax import evaluation
from zsljax.devices.precision import computed_in
from zsljax.errors import ZsljaxError, did_you_mean, require
from zsljax.evaluation.class_retrieval import DEFINITION
from zsljax.models import CLOSED_SET, MULTI_LABEL, Embeds, System, build_system
from zsljax.reporting.curves import write_columns, write_curve
from zsljax.reporting.rows import (
  Row,
  add_rows,
  deciding_fields,
  read_chosen,
  read_rows,
  terminal_table,
)
from zsljax.runs.experiment import Experiment
from zsljax.runs.workdir import flat
from zsljax.training.checkpoints import Checkpoints

SINGLE_LABEL, RETRIEVAL, EMBEDDINGS = "xian", "retrieval", "embeddings"


def evaluate(
  workdir: pathlib.Path,
  split: str = "test",
  data_dir: str | None = None,
  gamma: float | None = None,
  gamma_from: pathlib.Path | None = None,
  protocol: str | None = None,
  top_k: tuple[int, ...] | None = None,
  pairs: pathlib.Path | None = None,
  calibration: str | None = None,
  test_oracle: bool = False,
) -> list[Row]:
  """Rows for the latest checkpoint, also added to ``workdir/results.jsonl``.

  Args:
    workdir: the folder of a training run.
    split: ``test`` or ``val``.
    data_dir: where the dataset is now, when it was moved.
    gamma: also report with this subtracted from the scores of seen classes; when
      None, and no ``gamma_from`` is, the config's ``evaluation.gamma``.
    gamma_from: as ``gamma``, with what ``val`` chose in this workdir.
    protocol: how to count; None is the first that fits the data.
    top_k: numbers of labels to predict for an image that has several; None takes the
      config's ``evaluation.top_k``, or the protocol's.
    pairs: a file with pairs of images, to be verified as well.
    calibration: what gamma does, ``additive`` or ``multiplicative``; None takes the
      config's ``evaluation.calibration``.
    test_oracle: also report with the gamma that is best on the test images.
  """
  run = Experiment.of_run(workdir, data_dir)
  config = run.config
  on_test = split == "test"
  require(
    on_test or config["data"]["train_split"] == "train",
    f"--split=val: config.data.train_split of {workdir}",
    config["data"]["train_split"],
    "train: this run was trained on the validation images",
  )
  multi_label = run.system.task == MULTI_LABEL
  known = _protocols(run.system)
  protocol = protocol or known[0]
  if protocol not in known:
    raise ZsljaxError(
      f"--protocol: {run.system.name} on {run.dataset.metadata['name']} cannot be "
      f"evaluated by {protocol!r}. {did_you_mean(protocol, known)}"
    )
  if protocol != SINGLE_LABEL:
    for flag, value in (
      ("gamma", gamma),
      ("gamma_from", gamma_from),
      ("calibration", calibration),
      ("test_oracle", test_oracle or None),
    ):
      require(
        value is None, f"--{flag}", value, f"no calibration with --protocol={protocol}"
      )
  require(
    multi_label or top_k is None,
    "--top_k",
    top_k,
    "a run on images with several labels",
  )
  require(
    pairs is None or protocol == EMBEDDINGS,
    "--pairs",
    pairs,
    f"no pairs with --protocol={protocol}",
  )
  if multi_label:
    rows = _multi_label_rows(workdir, run, split, protocol, top_k)
  elif protocol == EMBEDDINGS:
    rows = _embedding_rows(workdir, run, split, pairs)
  elif protocol == RETRIEVAL:
    rows = [_retrieval_row(workdir, run, split)]
  else:
    rows = _single_label_rows(
      workdir, run, split, gamma, gamma_from, calibration, test_oracle
    )
  add_rows(workdir, rows)
  return rows


def _protocols(system: System) -> list[str]:
  """Those that fit a system, the usual one first."""
  if system.task == MULTI_LABEL:
    return list(evaluation.MULTI_LABEL_PROTOCOLS)
  if system.task == CLOSED_SET:
    return [EMBEDDINGS]
  return [
    SINGLE_LABEL,
    RETRIEVAL,
    *([EMBEDDINGS] if isinstance(system, Embeds) else []),
  ]


@dataclasses.dataclass(frozen=True)
class _Scored:
  """A restored run, about to be evaluated.

  Attributes:
    run: the experiment.
    split: of the images.
    splits: of the stored set, that make it.
    step: of the checkpoint.
    selection: ``val_selected`` where a sweep chose settings and step, else ``last``.
    seen: of the classes that are scored, ``[C]`` bool.
    inputs: of ``evaluation.decide_all`` and its like.
  """

  run: Experiment
  split: str
  splits: tuple[str, ...]
  step: int
  selection: str
  seen: np.ndarray
  inputs: dict[str, Any]

  def all(self, function: Callable) -> Any:
    """What ``function`` makes of all images."""
    with computed_in(self.run.config["matmul_precision"]):
      return function(**self.inputs)

  def row(
    self,
    protocol: str,
    metrics: dict[str, float],
    **described,
  ) -> Row:
    """A result row with these numbers, see ``Experiment.row``."""
    described = {"selection": self.selection} | described
    return self.run.row(
      _protocol(protocol, self.split), metrics, step=self.step, **described
    )


def _restored(workdir: pathlib.Path, run: Experiment, split: str) -> _Scored:
  """The latest checkpoint, and the images and classes to be scored with it."""
  checkpoints = Checkpoints(workdir, run.identity())
  step = checkpoints.latest_step()
  params = checkpoints.restore_params(run.param_shapes(), step)
  checkpoints.close()
  chosen = read_chosen(workdir)
  selection = "val_selected" if chosen and chosen["step"] >= step else "last"
  classes, splits, batches = run.images(split)
  inputs = {
    "system": run.system,
    "params": params,
    "classes": classes,
    "batches": batches,
    "mesh": run.mesh,
  }
  return _Scored(run, split, splits, step, selection, np.asarray(classes.seen), inputs)


def _embedding_rows(
  workdir: pathlib.Path, run: Experiment, split: str, pairs: pathlib.Path | None
) -> list[Row]:
  scored = _restored(workdir, run, split)
  images = scored.all(evaluation.embed_all)
  metrics, roc = evaluation.embedding_metrics(images, scored.seen, run.mesh)
  write_columns(
    workdir / f"roc_{split}.csv",
    {"threshold": roc.thresholds, "far": roc.far, "tar": roc.tar},
  )
  rows = [scored.row(EMBEDDINGS, metrics)]
  if pairs is not None:
    rows.append(_pair_row(scored, images, pairs))
  return rows


def _retrieval_row(workdir: pathlib.Path, run: Experiment, split: str) -> Row:
  scored = _restored(workdir, run, split)
  classes, labels = scored.inputs["classes"], run.dataset.labels(scored.splits)
  columns = np.cumsum(~scored.seen) - 1
  positions = np.asarray(classes.positions(labels))
  gallery = np.flatnonzero(~scored.seen[positions])
  gallery = gallery[np.argsort(run.dataset.source_rows(scored.splits)[gallery])]
  found = evaluation.class_retrieval(
    scored.all(evaluation.class_scores)[gallery][:, ~scored.seen],
    columns[positions[gallery]],
  )
  return scored.row(RETRIEVAL, {name: 100 * value for name, value in found.items()})


def _pair_row(scored: _Scored, images: evaluation.Embedded, path: pathlib.Path) -> Row:
  given = evaluation.read_pairs(path)
  rows = scored.run.dataset.source_rows(scored.splits)
  order = np.argsort(rows)
  at = order[np.minimum(np.searchsorted(rows, given, sorter=order), len(rows) - 1)]
  strange = given[rows[at] != given]
  require(
    not strange.size,
    f"{path}: row",
    strange[0] if strange.size else "",
    f"rows of the {len(rows)} {scored.split} images, such as {rows[:3].tolist()}",
  )
  verified = evaluation.pair_verification(
    evaluation.pair_similarities(images.embeddings, at),
    images.label[at[:, 0]] == images.label[at[:, 1]],
  )
  shares = {f"tar@{f:g}": tar for f, tar in verified.tar.items()}
  shares |= {"eer": verified.eer, "auc": verified.auc}
  return scored.row(
    "pairs",
    {name: 100 * float(share) for name, share in shares.items()},
    pairs={
      "file": path.name,
      "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
      "positives": verified.positives,
      "negatives": verified.negatives,
    },
  )


def _single_label_rows(
  workdir: pathlib.Path,
  run: Experiment,
  split: str,
  gamma: float | None,
  gamma_from: pathlib.Path | None,
  calibration: str | None,
  test_oracle: bool,
) -> list[Row]:
  on_test = split == "test"
  require(on_test or not test_oracle, "--test_oracle", "--split=val", "--split=test")
  require(
    on_test or gamma_from is None,
    "--gamma_from",
    f"{gamma_from} with --split=val",
    "--split=test: on val gamma is chosen, not taken",
  )
  calibration = calibration or run.config["evaluation"]["calibration"]
  chosen = None if gamma_from is None else chosen_gamma(gamma_from, run, calibration)
  scored = _restored(workdir, run, split)
  decisions = scored.all(evaluation.decide_all)

  def calibrated(gamma: float, selection: str, origin: str) -> Row:
    metrics = evaluation.single_label_metrics(
      decisions, scored.seen, gamma, calibration
    )
    return scored.row(
      SINGLE_LABEL,
      metrics,
      selection=selection,
      calibration=calibration,
      gamma=gamma,
      gamma_from=origin,
    )

  origin = "--gamma"
  if gamma is None and gamma_from is None and on_test:
    gamma, origin = run.config["evaluation"]["gamma"], "config.evaluation.gamma"
  plain = evaluation.single_label_metrics(decisions, scored.seen)
  curve = evaluation.seen_unseen_curve(decisions, scored.seen, calibration=calibration)
  rows = [scored.row(SINGLE_LABEL, plain)]
  if not on_test:
    rows.append(calibrated(curve.best_gamma(), "val_selected", "highest H on val"))
  if gamma is not None:
    rows.append(calibrated(gamma, scored.selection, origin))
  if chosen is not None:
    rows.append(calibrated(*chosen))
  if test_oracle:
    rows.append(calibrated(curve.best_gamma(), "test_oracle", "highest H on test"))
  write_curve(workdir, split, curve.gamma, 100 * curve.unseen, 100 * curve.seen, rows)
  return rows


def _multi_label_rows(
  workdir: pathlib.Path,
  run: Experiment,
  split: str,
  protocol: str,
  top_k: tuple[int, ...] | None,
) -> list[Row]:
  rules = evaluation.MULTI_LABEL_PROTOCOLS[protocol]
  top_k = tuple(top_k or run.config["evaluation"]["top_k"] or rules.top_k)
  require(all(k >= 1 for k in top_k), "--top_k", list(top_k), "numbers of 1 or more")
  rules = dataclasses.replace(rules, top_k=top_k)
  scored = _restored(workdir, run, split)
  scores, labels = scored.all(evaluation.score_all)
  metrics, counted = evaluation.multi_label_metrics(scores, labels, scored.seen, rules)
  conditions = dataclasses.asdict(rules) | counted
  return [scored.row(protocol, metrics, conditions=conditions)]


def _protocol(name: str, split: str) -> str:
  """The protocol as rows name it: apart where it is not the test images'."""
  return name if split == "test" else f"{name}_{split}"


def chosen_gamma(
  workdir: pathlib.Path, run: Experiment, calibration: str
) -> tuple[float, str, str]:
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
    if row["protocol"] == _protocol(SINGLE_LABEL, "val")
    and (row["selection"], row["calibration"]) == ("val_selected", calibration)
  ]
  if not rows:
    raise ZsljaxError(
      f"--gamma_from={workdir}: no {calibration} gamma was chosen there, expected a "
      "run with config.data.train_split=train after `eval.py --split=val`"
    )
  row = rows[-1]
  there, here = (
    {
      **flat(deciding_fields(config), "config."),
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


def _densities(row: Row) -> str:
  """How the labels of a multi-label row compare with those of published tables."""
  published = evaluation.PUBLISHED_DENSITY.get(row["dataset"])
  density = "density: labels to an image, K * P / R at every K; -: fewer than K labels"
  if published is None:
    return density
  here = {setting: row["conditions"][setting]["density"] for setting in published}
  same = all(abs(here[s] / published[s] - 1) < 0.005 for s in published)
  numbers = ", ".join(f"{s} {value:.3f}" for s, value in published.items())
  return f"{density}; on the lists of published tables {numbers}: " + (
    "the same here" if same else "these are other images or labels, do not compare"
  )


def described(rows: list[Row], split: str) -> str:
  """The rows of one evaluation as the terminal shows them."""
  row = rows[0]
  trained_on = row["provenance"]["config"]["data"]["train_split"]
  per_class = row["protocol"].startswith(SINGLE_LABEL)
  lines = (
    f"{row['system']} ({_described(row['provenance'])}), seed {row['seed']}, step "
    f"{row['step']}, trained on {trained_on}\n"
    f"{row['dataset']}: {row['features']} features, classes by "
    f"{row['class_embedding']}, split {row['split_version']}; "
    f"{'mean per-class accuracy ' if per_class else ''}in percent on {split} "
    f"images\n\n{terminal_table(rows)}\n"
  )
  if "conditions" in row:
    lines += f"\n{_densities(row)}\n"
  if row["protocol"].startswith(RETRIEVAL):
    lines += f"\n{textwrap.fill(DEFINITION, 88)}\n"
  return lines
