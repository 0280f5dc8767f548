"""Evaluates a run: checkpoint in, result rows out."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
import hashlib
import pathlib
from typing import Any

import jax
import numpy as np

from zsljax import evaluation
from zsljax.data.pipeline import pad
from zsljax.data.store import only_below
from zsljax.devices.precision import computed_in
from zsljax.devices.processes import is_writer, of_all_processes
from zsljax.errors import ZsljaxError, require, require_known
from zsljax.evaluation import Calibration, Evaluator, Report
from zsljax.evaluation.calibration import best_share, margin_rows, of_share
from zsljax.evaluation.class_retrieval import DEFINITION
from zsljax.evaluation.embeddings import (
  pair_similarities,
  pair_verification,
  read_pairs,
)
from zsljax.evaluation.multilabel import POPULATIONS
from zsljax.evaluation.protocols import EMBEDDINGS, PAIRS, RETRIEVAL, XIAN
from zsljax.evaluation.temperature import (
  ScoredImages,
  best_temperature_share,
  probabilities,
)
from zsljax.models import MULTI_LABEL, build_system
from zsljax.reporting.class_accuracy import write_class_accuracy
from zsljax.reporting.curves import write_columns, write_curve
from zsljax.reporting.metrics_log import add_evaluations
from zsljax.reporting.rows import (
  Row,
  add_rows,
  calibration_of,
  data_of,
  deciding_fields,
  kept_choice,
  read_chosen,
  read_rows,
  system_title,
  terminal_table,
)
from zsljax.reporting.tables import fitted
from zsljax.runs.experiment import Experiment
from zsljax.runs.workdir import changes
from zsljax.training.checkpoints import Checkpoints


def evaluate(
  workdir: pathlib.Path,
  split: str = "test",
  data_dir: pathlib.Path | None = None,
  gamma: float | None = None,
  gamma_from: pathlib.Path | None = None,
  protocol: str | None = None,
  top_k: tuple[int, ...] | None = None,
  pairs: pathlib.Path | None = None,
  calibration: str | None = None,
  test_oracle: bool = False,
  on: pathlib.Path | None = None,
) -> list[Row]:
  """Rows for the latest checkpoint, also added to ``workdir/results.jsonl``.

  Of several processes each scores a share of the images; all have the rows, and the
  first writes them.

  Args:
    workdir: the folder of a training run.
    split: ``test`` or ``val``.
    data_dir: where the dataset is now, when it was moved.
    gamma: also report with this calibration of seen classes; when None, and no
      ``gamma_from`` is given, what the run's sweep chose on its folds, or else the
      config's ``evaluation.gamma``, if ``calibration`` is the config's kind.
    gamma_from: as ``gamma``, with the share of the mean training margin that ``val``
      chose in this workdir.
    protocol: of ``PROTOCOLS``; None is the usual one of the system.
    top_k: numbers of labels to predict for an image that has several; None takes the
      config's ``evaluation.top_k``, or the protocol's.
    pairs: a file with pairs of images, to be verified as well.
    calibration: the kind that gamma belongs to; None takes the config's
      ``evaluation.calibration``.
    test_oracle: also report with the gamma that is best on the test images.
    on: folder of another stored dataset, whose test images are scored among its own
      classes; see ``Experiment.on``.

  Raises:
    ZsljaxError: there is no run or checkpoint, or an argument does not fit it.
  """
  run = Experiment.of_run(workdir, data_dir)
  read_rows(workdir)  # Rows that cannot be added to are refused before the work.
  known = evaluation.protocols_for(run.system)
  protocol = protocol or known[0]
  what = f"{run.system.name} on {run.dataset.metadata['name']} cannot be evaluated by"
  require_known(protocol, known, "--protocol", what)
  own, oracle = run.config["evaluation"], test_oracle or None
  for_calibration = {"gamma": gamma, "gamma_from": gamma_from, "test_oracle": oracle}
  for_calibration["calibration"] = calibration
  _refuse(workdir, run, protocol, split, for_calibration, top_k, on, pairs)
  given = Calibration(calibration or own["calibration"], gamma)
  shares = None if gamma_from is None else chosen_share(gamma_from, run, given.kind)
  elsewhere = run if on is None else run.on(only_below(on))
  evaluator = evaluation.make_evaluator(protocol, top_k or own["top_k"])
  scored = Scored(evaluator, workdir, run, split, elsewhere)
  report = scored.report(Calibration(given.kind))
  rows, result = [scored.row(report)], report
  if report.curve is not None:
    calibrated, result = _calibrated(scored, report, given, shares, test_oracle)
    rows += calibrated
  if pairs is not None:
    rows.append(_pair_row(scored, pairs))
  if not is_writer():
    return rows
  if report.curve is not None and on is None:
    write_curve(workdir, split, report.curve, rows)
    write_class_accuracy(workdir, split, [report, result], scored.names, rows[0])
  if report.roc is not None and on is None:
    write_columns(workdir / f"roc_{split}.csv", report.roc)
  add_rows(workdir, rows)
  names = (
    f"{row['dataset']} {split}, {row['protocol']}, {row['selection']}, "
    f"{calibration_of(row)}"
    for row in rows
  )
  metrics = {name: row["metrics"] for name, row in zip(names, rows, strict=True)}
  add_evaluations(workdir, rows[0]["step"], metrics)
  return rows


def _refuse(
  workdir: pathlib.Path,
  run: Experiment,
  protocol: str,
  split: str,
  for_calibration: Mapping[str, Any],
  top_k: tuple[int, ...] | None,
  on: pathlib.Path | None,
  pairs: pathlib.Path | None,
) -> None:
  """Raises if arguments of ``evaluate`` fit neither the run nor each other."""
  on_test, several = split == "test", run.system.task == MULTI_LABEL
  require(
    on_test or run.config["data"]["train_split"] == "train",
    f"--split=val: config.data.train_split of {workdir}",
    run.config["data"]["train_split"],
    "train: this run was trained on the validation images",
  )
  oracle, gamma_from = for_calibration["test_oracle"], for_calibration["gamma_from"]
  uncalibrated = f"no calibration with --protocol={protocol}"
  for flag, value, fits, expected in (
    *(
      (f, value, protocol == XIAN, uncalibrated) for f, value in for_calibration.items()
    ),
    ("test_oracle", oracle, on_test, "none with --split=val"),
    ("gamma_from", gamma_from, on_test, "none with --split=val, which chooses gamma"),
    ("top_k", top_k, several, "a run on images with several labels"),
    ("on", on, on_test, "none with --split=val"),
    ("on", on, gamma_from is None, "none with --gamma_from, chosen on other images"),
    ("on", on, pairs is None, "none with --pairs"),
    ("pairs", pairs, protocol == EMBEDDINGS, f"no pairs with --protocol={protocol}"),
  ):
    require(value is None or fits, f"--{flag}", value, expected)


class Scored:
  """Outputs of a run's latest checkpoint for all N images of a split.

  Attributes:
    chosen: what a sweep chose, where the run is of one; else None.
    selection: ``val_selected`` then, else ``last``.
    seen: which classes are, ``[C]`` bool; ``names`` are their names.
  """

  def __init__(
    self,
    evaluator: Evaluator,
    workdir: pathlib.Path,
    run: Experiment,
    split: str,
    elsewhere: Experiment | None = None,
  ):
    """Restores the checkpoint of ``run``, to score its own images or others."""
    self.evaluator, self.split, self.trained = evaluator, split, run
    self.run = elsewhere or run
    checkpoints = Checkpoints(workdir, run.identity())
    self.step = checkpoints.latest_step()
    self.params = checkpoints.restore_params(run.param_shapes(), self.step)
    checkpoints.close()
    self.chosen = read_chosen(workdir, self.step)
    self.selection = "val_selected" if self.chosen else "last"
    classes, self._splits, _ = self.run.images(split)
    self.seen, self.names = np.asarray(classes.seen), classes.names
    if self.chosen:
      self.evaluator = evaluation.with_thresholds(evaluator, self.chosen, classes)

  def _scored(self, evaluator: Evaluator) -> tuple[Any, np.ndarray]:
    """Outputs and labels of all images, of which each process scores a share."""
    classes, _, batches = self.run.images(self.split)
    with computed_in(self.run.config["matmul_precision"]):
      found = evaluation.streamed_outputs(
        evaluator, self.run.system, self.params, classes, batches, self.run.mesh
      )
    return of_all_processes(found)

  @functools.cached_property
  def everything(self) -> tuple[Any, np.ndarray, np.ndarray]:
    """The evaluator's outputs and labels of all images, and their source rows."""
    outputs, labels = self._scored(self.evaluator)
    hosts, dataset = range(jax.process_count()), self.run.dataset
    rows = [dataset.source_rows(self._splits, h, len(hosts)) for h in hosts]
    source = np.concatenate(rows)
    if self.evaluator.protocol == RETRIEVAL:
      order = np.argsort(source)
      outputs, labels, source = outputs[order], labels[order], source[order]
    return outputs, labels, source

  def report(self, calibration: Calibration) -> Report:
    """Metrics of all images."""
    outputs, labels, _ = self.everything
    return self.evaluator.report(outputs, labels, self.seen, calibration)

  def images(self, calibration: Calibration, margin: float) -> ScoredImages:
    """All scores of the images; ``margin`` is ``mean_margin`` of the same kind."""
    scores, labels = self._scored(evaluation.make_evaluator(RETRIEVAL))
    if calibration.kind != "additive":
      margin = self.mean_margin("additive")
    lowered = np.asarray(calibration.lowered(scores, self.seen))
    return ScoredImages(lowered, labels, margin)

  def mean_margin(self, kind: str) -> float:
    """The mean margin of the run's training images, see ``Decisions.mean_margin``."""
    run, size = self.run, self.run.scored_at_once
    splits = run.dataset.training_splits(run.config["data"]["train_split"])
    places = margin_rows(run.dataset.size(*splits))
    labels = run.dataset.labels(splits)

    def batches():
      for some in np.split(places, range(size, len(places), size)):
        features = run.dataset.features_of(splits, some)
        mask = np.ones(len(some), bool)
        yield pad({"features": features, "labels": labels[some], "mask": mask}, size)

    with computed_in(run.config["matmul_precision"]):
      decisions, _ = evaluation.streamed_outputs(
        self.evaluator, run.system, self.params, run.classes, batches(), run.mesh
      )
    return decisions.mean_margin(kind)

  def row(
    self,
    report: Report,
    selection: str | None = None,
    protocol: str | None = None,
    **described,
  ) -> Row:
    """A result row, see ``Experiment.row``."""
    if self.run is not self.trained:
      meta = self.trained.dataset.metadata
      described["trained_on"] = {k: meta[k] for k in ("name", "fingerprint")}
    protocol = rows_protocol(protocol or self.evaluator.protocol, self.split)
    selection = selection or self.selection
    if self.chosen and selection == "val_selected":
      described["chosen"] = kept_choice(self.chosen)
    return self.run.row(
      protocol, report, step=self.step, selection=selection, **described
    )


def _calibrated(
  scored: Scored,
  report: Report,
  given: Calibration,
  shares: tuple[float, float | None, str] | None,
  test_oracle: bool,
) -> tuple[list[Row], Report]:
  """Rows with a calibration, and the last report that is a result.

  Args:
    scored: the images.
    report: of them without a calibration.
    given: the kind, and the user's gamma, if any.
    shares: of ``chosen_share``. Where it is None and ``given`` has no gamma, it is what
      the run's sweep chose, or else the config's gamma is taken, for the config's kind.
    test_oracle: as in ``evaluate``.
  """
  assert report.curve is not None and report.calibrated is not None
  kind, own = given.kind, scored.trained.config["evaluation"]
  on_test, origin, nothing = scored.split == "test", "--gamma", given.gamma is None
  of_config = on_test and nothing and shares is None and kind == own["calibration"]
  if of_config and scored.chosen and scored.run is scored.trained:
    temperature = scored.chosen.get("temperature_share")
    shares = scored.chosen["share"], temperature, "highest H on folds"
  elif of_config:
    given, origin = Calibration(kind, own["gamma"]), "config.evaluation.gamma"
  rows, result = [], report
  if shares is not None or not on_test:
    margin = scored.mean_margin(kind)
    if shares is None:
      share, _ = best_share(report.curve.h_of_shares(margin)[None])
      shares = share, None, "highest H on val"
    share, temperature_share, where = shares
    result = report.calibrated(of_share(share, margin, kind))
    images = scored.images(result.calibration, margin)
    if not on_test:
      temperature_share = best_temperature_share([images])
    of_row: dict[str, Any] = {"share": share, "temperature_share": temperature_share}
    if temperature_share is not None:
      of_row["probabilities"] = probabilities(images, temperature_share)
    of_row["gamma_from"] = f"{share:g} of the mean training margin, {where}"
    rows.append(scored.row(result, "val_selected", **of_row))
  if given.gamma is not None:
    result = report.calibrated(given)
    rows.append(scored.row(result, "last", gamma_from=origin))
  if test_oracle:  # No result.
    best = report.calibrated(report.curve.best())
    rows.append(scored.row(best, "test_oracle", gamma_from="highest H on test"))
  return rows, result


def rows_protocol(name: str, split: str) -> str:
  """A protocol as rows name it: with a suffix where images are not the test images."""
  return name if split == "test" else f"{name}_{split}"


def _pair_row(scored: Scored, path: pathlib.Path) -> Row:
  given = read_pairs(path)
  outputs, labels, rows = scored.everything
  order = np.argsort(rows)
  at = order[np.minimum(np.searchsorted(rows, given, sorter=order), len(rows) - 1)]
  strange = given[rows[at] != given]
  require(
    not strange.size,
    f"{path}: row",
    strange[0] if strange.size else "",
    f"rows of the {len(rows)} {scored.split} images, such as {rows[:3].tolist()}",
  )
  same = labels[at[:, 0]] == labels[at[:, 1]]
  shares, _ = pair_verification(pair_similarities(outputs.embeddings, at), same)
  return scored.row(
    Report({name: 100 * share for name, share in shares.items()}),
    protocol=PAIRS,
    pairs={
      "file": path.name,
      "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
      "positives": int(same.sum()),
      "negatives": int((~same).sum()),
    },
  )


def chosen_share(
  workdir: pathlib.Path, run: Experiment, kind: str
) -> tuple[float, float | None, str]:
  """Shares of a margin that ``--split=val`` has chosen in ``workdir``, and where.

  The first is gamma's, the second the temperature's (None in rows of before).

  Raises:
    ZsljaxError: it has not, or for another system or other data.
  """
  require(
    workdir.is_dir(), f"--gamma_from={workdir}", "no such folder", "that of a run"
  )
  rows = [
    row
    for row in read_rows(workdir)
    if row["protocol"] == rows_protocol(XIAN, "val")
    and (row["selection"], row["calibration"]) == ("val_selected", kind)
  ]
  if not rows:
    raise ZsljaxError(
      f"--gamma_from={workdir}: no {kind} gamma was chosen there, expected a "
      "run with config.data.train_split=train after `eval.py --split=val`"
    )
  row = rows[-1]
  of_row = row["provenance"]
  there, here = (
    {"config": deciding_fields(config), "split": split, "fingerprint": fingerprint}
    for config, split, fingerprint in (
      (of_row["config"], row["split_version"], of_row["data"]["fingerprint"]),
      (run.config, run.dataset.metadata["split_version"], run.dataset.fingerprint),
    )
  )
  for field, found, expected in changes(there, here):
    require(False, f"--gamma_from={workdir}: {field}", found, f"{expected} as here")
  origin = (
    f"highest H on val of seed {row['seed']}, step {row['step']} in {workdir.name}"
  )
  return of_row["share"], of_row.get("temperature_share"), origin


def _described(provenance: dict) -> str:
  """The preset, and fields of the system with other values than the preset's."""
  config, preset = provenance["config"]["system"], provenance["preset"]
  if config.get("members"):
    return f"{system_title(config)}, {config['normalization']}"
  plain = dataclasses.asdict(build_system({"name": config["name"], "preset": preset}))
  changed = [
    f"{field}={config[field]}"
    for field, value in plain.items()
    if config[field] != (list(value) if isinstance(value, tuple) else value)
  ]
  return "; ".join([preset, *changed])


def _densities(row: Row) -> str:
  """Lines that compare a multi-label row's labels with those of published tables."""
  density = "density: labels to an image, K * P / R at every K; -: fewer than K labels"
  counted = row["conditions"].get("population")
  if counted is None:
    return density
  if counted in POPULATIONS[row["dataset"]]:
    return f"{density}\npopulation: {counted}"
  known = "; ".join(
    f"{name}, {', '.join(f'{s} {value:g}' for s, value in densities.items())}"
    for name, densities in POPULATIONS[row["dataset"]].items()
  )
  told = (
    f"population: {counted}; do not compare with tables, whose densities are {known}"
  )
  return f"{density}\n{fitted(told)}"


def described(rows: list[Row], split: str) -> str:
  """The rows of one evaluation as the terminal shows them."""
  row = rows[0]
  trained_on = row["provenance"]["config"]["data"]["train_split"]
  per_class = row["protocol"].startswith(XIAN)
  run = (
    f"{row['system']} ({_described(row['provenance'])}), seed {row['seed']}, step "
    f"{row['step']}, trained on {trained_on}"
  )
  data = (
    f"{row['dataset']}: {data_of(row)}; "
    f"{'mean per-class accuracy ' if per_class else ''}in percent on {split} images"
  )
  lines = f"{fitted(run)}\n{fitted(data)}\n\n{terminal_table(rows)}\n"
  for one in rows:
    if chances := one["provenance"].get("probabilities"):
      before, after = chances["ece_before"], chances["ece"]
      temperature = f"temperature {chances['temperature']:.3g}"
      told = f"{after:.1f} % with {temperature}"
      if after >= before:
        told = f"which {temperature} does not lower ({after:.1f} %)"
      head = f"probabilities ({one['selection']}): expected calibration error"
      lines += f"\n{fitted(f'{head} {before:.1f} %, {told}')}\n"
  for name, kind in (("u", "unseen"), ("s", "seen")):
    if rows[-1]["metrics"].get(name) == 0 and rows[-1]["metrics"]["t1"] > 0:
      text = (
        f"{name.upper()} is 0: no image of {kind} classes is right among all classes. "
        "Gamma moves the border between seen and unseen ones: `zsljax sweep` chooses "
        "it on class folds, `zsljax eval --gamma=G` tries one."
      )
      lines += f"\n{fitted(text)}\n"
  if "conditions" in row:
    lines += f"\n{_densities(row)}\n"
  if row["protocol"].startswith(RETRIEVAL):
    lines += f"\n{fitted(DEFINITION)}\n"
  return lines
