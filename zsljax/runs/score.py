"""Result rows of scores that were made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
import hashlib
import pathlib

import numpy as np

from zsljax.evaluation.calibration import UNCALIBRATED, Calibration
from zsljax.evaluation.given import report_of
from zsljax.io.arrays import read_arrays
from zsljax.io.versions import library_versions
from zsljax.reporting.rows import Row, make_row


def score(
  path: pathlib.Path,
  protocol: str,
  gamma: float | None = None,
  calibration: str = "additive",
  top_k: Sequence[int] = (),
  *,
  system: str = "given",
  dataset: str = "given",
  seed: int = 0,
) -> list[Row]:
  """Evaluates a file of scores; rows without and, where given, with a gamma.

  Args:
    path: ``.npz`` with ``scores``, ``labels`` and ``seen``, see ``report_of``.
    protocol: see ``report_of``, as ``top_k``.
    gamma: taken from seen classes' scores.
    calibration: ``additive`` or ``multiplicative``.
    system: name in the rows, as ``dataset`` and ``seed``.

  Raises:
    ZsljaxError: the file or its arrays cannot be used.
  """
  arrays = read_arrays(path, ("scores", "labels", "seen"), (), (".npz",))
  scores, labels, seen = (np.asarray(arrays[x]) for x in ("scores", "labels", "seen"))
  digest = hashlib.sha256(b"".join(map(np.ascontiguousarray, (labels, seen))))
  data = {"name": dataset, **dict.fromkeys(_UNKNOWN, "given")}
  rows = []
  kinds = [UNCALIBRATED]
  if gamma is not None:
    kinds.append(Calibration(calibration, gamma))
  for kind in kinds:
    report = report_of(scores, labels, seen, protocol, kind, top_k)
    rows.append(
      make_row(
        data,
        report.on(dataset, "given"),
        system=system,
        protocol=protocol,
        selection="last",
        seed=seed,
        step=0,
        provenance={
          "gamma_from": "no calibration" if kind is UNCALIBRATED else "given",
          "config": _CONFIG | {"system": {"name": system}},
          "data": {"fingerprint": digest.hexdigest(), "sources": {}},
          "versions": library_versions(),
        },
      )
    )
  return rows


_UNKNOWN = ("features", "class_embedding", "split_version")
# Fields of a config that tell methods apart, of which nothing is known.
_CONFIG = {
  "optimizer": {},
  "data": {"sampling": None, "train_split": None},
  **dict.fromkeys(("epochs", "batch_size", "matmul_precision")),
}
