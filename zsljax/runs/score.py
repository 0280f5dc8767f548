"""Result rows of scores that were made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
import hashlib
import pathlib
import re

import numpy as np

from zsljax.encoders import tensor_files
from zsljax.errors import require
from zsljax.evaluation.calibration import UNCALIBRATED, Calibration
from zsljax.evaluation.given import report_of
from zsljax.io.arrays import check_array, read_arrays
from zsljax.io.checks import require_fields
from zsljax.io.versions import library_versions
from zsljax.reporting.class_accuracy import write_class_accuracy
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
  dest: pathlib.Path | None = None,
) -> list[Row]:
  """Evaluates a file of scores; rows without and, where given, with a gamma.

  Args:
    path: of a kind in ``ENDINGS``, with ``scores``, ``labels`` and ``seen``, see
      ``report_of``, and perhaps ``names`` of the classes.
    protocol: see ``report_of``, as ``top_k``.
    gamma: taken from seen classes' scores.
    calibration: ``additive`` or ``multiplicative``.
    system: name in the rows, as ``dataset`` and ``seed``.
    dest: a folder for the accuracy of each class, of images with one label.

  Raises:
    ZsljaxError: the file or its arrays cannot be used.
  """
  arrays = _read(path)
  scores, labels, seen = (arrays[field][()] for field in _NEEDED)
  digest = hashlib.sha256(b"".join(map(np.ascontiguousarray, (labels, seen))))
  data = {"name": dataset, **dict.fromkeys(_UNKNOWN, "given")}
  rows, reports = [], []
  kinds = [UNCALIBRATED]
  if gamma is not None:
    kinds.append(Calibration(calibration, gamma))
  for kind in kinds:
    report = report_of(scores, labels, seen, protocol, kind, top_k)
    reports.append(report)
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
          "gamma_from": "no calibration" if kind.gamma is None else "given",
          "config": _CONFIG | {"system": {"name": system}},
          "data": {"fingerprint": digest.hexdigest(), "sources": {}},
          "versions": library_versions(),
        },
      )
    )
  if dest is not None and reports[0].hits is not None:
    names = arrays.get("names", np.arange(len(seen)))
    names = check_array(f"{path}: names", names, str(len(seen)), "text")
    split = re.sub(r"\W+", "_", f"{dataset}_{system}_{seed}")
    write_class_accuracy(dest, split, reports, names, rows[0])
  return rows


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
  ending = path.suffix.lower()
  require(ending in ENDINGS, str(path), f"ending {ending!r}", " ".join(ENDINGS))
  if ending not in tensor_files.ENDINGS:
    return read_arrays(path, _NEEDED, ("names",))
  tensors = tensor_files.read_tensors(path)
  require_fields(path, tensors, _NEEDED)
  return tensors


_NEEDED = ("scores", "labels", "seen")
ENDINGS = (".npz", ".h5", ".hdf5", *tensor_files.ENDINGS)
_UNKNOWN = ("features", "class_embedding", "split_version")
# Fields of a config that tell methods apart, of which nothing is known.
_CONFIG = {
  "optimizer": {},
  "data": {"sampling": None, "train_split": None},
  **dict.fromkeys(("epochs", "batch_size", "matmul_precision")),
}
