"""The rule by which a sweep chooses among the points of a grid.

The same for every system:

* The value of a point at a number of steps is the mean over folds and seeds of a metric
  without a calibration (AUSUC; mAP of unseen labels; recall@1).
* Among those within one standard error over folds of the best, the one that is trained
  longest is taken; of these the one with the highest value.
* Gamma is a share of the mean training margin (``calibration.of_share``): the share
  with the highest mean of H over folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import copy
import itertools
import json
import math
from typing import Any

import numpy as np

from zsljax.errors import ZsljaxError, did_you_mean, require
from zsljax.evaluation.calibration import best_share
from zsljax.runs.config import flat

Point = dict[str, Any]


def grid_points(config: Mapping[str, Any]) -> list[Point]:
  """All combinations of the grid's values, each by its dotted fields.

  Raises:
    ZsljaxError: a field is not the stage's, system's or optimizer's, or has no values.
  """
  grid, fields = flat(config["grid"]), flat(config)
  known = [x for x in fields if x.startswith(("stage.", "system.", "optimizer."))]
  for field, values in grid.items():
    if field not in known:
      raise ZsljaxError(
        f"config.grid.{field}: no field of the stage, the system or the optimizer. "
        f"{did_you_mean(field, known)}"
      )
    require(
      isinstance(values, tuple | list) and len(values) > 0,
      f"config.grid.{field}",
      repr(values),
      "values to try, as in (1e-4, 1e-3)",
    )
  return [
    dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
  ]


def with_values(config: Mapping[str, Any], point: Point) -> dict[str, Any]:
  """The config with some of its fields, named by their dots, set."""
  config = copy.deepcopy(dict(config))
  for field, value in point.items():
    *parts, name = field.split(".")
    part = config
    for key in parts:
      part = part[key]
    part[name] = value
  return config


def point_key(point: Point) -> str:
  """A point as text, equal for equal points."""
  return json.dumps(point, sort_keys=True)


def choose(lines: Sequence[Mapping[str, Any]], drawn: Sequence[int]) -> dict[str, Any]:
  """The point, the number of steps and the share of a margin, by the rule above.

  Args:
    lines: of ``search.jsonl``, one for each point, fold, seed and number of steps; of
      several the last counts.
    drawn: numbers of the folds that count, each as often as it is there.

  Raises:
    ZsljaxError: the loss of every setting is not finite.
  """
  settings: dict[tuple, dict[int, dict[int, Mapping]]] = {}
  for line in lines:
    of_folds = settings.setdefault((point_key(line["point"]), line["step"]), {})
    of_folds.setdefault(line["fold"], {})[line["seed"]] = line
  values = {
    setting: np.array(
      [[line["value"] for line in of_folds[f].values()] for f in drawn], float
    )
    for setting, of_folds in settings.items()
  }
  means = {s: v.mean(1) for s, v in values.items() if np.isfinite(v).all()}
  if not means:
    raise ZsljaxError(
      f"the loss of all {len({key for key, _ in settings})} settings is not finite: "
      "lower the learning rates of config.grid"
    )
  best = max(means, key=lambda s: means[s].mean())
  error = 0.0
  if len(drawn) > 1:
    error = float(means[best].std(ddof=1) / math.sqrt(len(drawn)))
  near = [s for s in means if means[s].mean() >= means[best].mean() - error]
  setting = max(near, key=lambda s: (s[1], means[s].mean()))
  chosen = [line for fold in drawn for line in settings[setting][fold].values()]
  share = h = None
  if "h" in chosen[0]:
    share, h = best_share(np.array([line["h"] for line in chosen]))
  return {
    "point": chosen[0]["point"],
    "step": setting[1],
    "value": float(means[setting].mean()),
    "standard_error": error,
    "share": share,
    "h": h,
  }
