"""Sizes of published training sets, and random data of them."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from zsljax.classes import ClassSpace
from zsljax.errors import require, require_known
from zsljax.models import MULTI_LABEL, Spec, System, build_system
from zsljax.training.inputs import HostBatch

# N, by which terms that a paper sums over the training set are scaled.
NUM_EXAMPLES = 10_000
# Mean number of labels of an image with several.
_LABELS = 5


@dataclasses.dataclass(frozen=True)
class Shapes:
  """Sizes of a published training set (as in ``Spec``), and its usual batch.

  Attributes:
    num_seen: classes with training images.
    system_fields: fields that a system needs to be of these sizes.
  """

  feature_shape: tuple[int, ...]
  num_attributes: int
  num_classes: int
  num_seen: int
  batch_size: int
  system_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def spec(self) -> Spec:
    """Builds the shapes that a system takes, with random word vectors of length 300."""
    vectors = np.random.default_rng(0).standard_normal((self.num_attributes, 300))
    return Spec(
      self.feature_shape,
      self.num_attributes,
      self.num_classes,
      vectors.astype(np.float32),
    )

  def system(self, name: str) -> System:
    """Builds a system as its authors' code, its shipped config or the paper has it.

    Raises:
      ZsljaxError: there is no such system, or it is not trained in steps.
    """
    own = {
      "cosine": {"preset": "class_norm_official_code"},
      "attended_autoencoder": {"preset": "dot_product"},
    }
    fields = self.system_fields or own.get(name, {})
    system = build_system({"name": name, **fields})
    if not fields and "official_code" in system.presets:
      system = build_system({"name": name, "preset": "official_code"})
    check_has_steps(system, "--system")
    return system


# CUB and AWA2 pooled; CUB with regions on a grid of 7 x 7 and of 14 x 14, SUN on one of
# 14 x 14; NUS-WIDE and Open Images, whose images have several labels; a million learned
# prototypes, as in face recognition.
PRESETS = {
  "cub": Shapes((2048,), 312, 200, 150, 256),
  "cub7": Shapes((49, 2048), 312, 200, 150, 50),
  "cub14": Shapes((196, 2048), 312, 200, 150, 50),
  "sun14": Shapes((196, 2048), 102, 717, 645, 50),
  "awa2": Shapes((2048,), 85, 50, 40, 256),
  "nus": Shapes((2048,), 300, 1006, 925, 128),
  "openimages": Shapes((2048,), 300, 7586, 7186, 64),
  "classes1m": Shapes(
    (512,), 1, 10**6, 10**6, 256, {"preset": "embedding", "encoder": "none"}
  ),
}


def shapes_of(preset: str, batch_size: int | None) -> Shapes:
  """Finds shapes by their name in ``PRESETS``, perhaps with another batch."""
  require_known(preset, PRESETS, "--preset", "unknown shapes")
  shapes = PRESETS[preset]
  if batch_size is None:
    return shapes
  require(batch_size > 0, "--batch_size", batch_size, "1 or more")
  return dataclasses.replace(shapes, batch_size=batch_size)


def check_has_steps(system: System, field: str) -> None:
  """Raises if a system is solved at once, so that there is no step to look at."""
  require(
    not system.full_batch,
    field,
    f"{system.name!r}, which is solved at once",
    "a system that is trained in steps",
  )


def random_classes(spec: Spec, num_seen: int | None = None) -> ClassSpace:
  """Makes classes with random descriptions; three quarters are seen when None."""
  rng = np.random.default_rng(0)
  num_seen = num_seen or max(1, 3 * spec.num_classes // 4)
  return ClassSpace.create(
    [f"class {i}" for i in range(spec.num_classes)],
    rng.standard_normal((spec.num_classes, spec.num_attributes)),
    seen=np.arange(spec.num_classes) < num_seen,
  )


def random_labels(
  batch_size: int, num_seen: int, width: int | None = None
) -> np.ndarray:
  """Draws several labels for each image, 1 and a Poisson number.

  Returns:
    ``[batch_size, width]``, padded with -1; the width is the largest number of labels
    when None.
  """
  rng = np.random.default_rng(0)
  most = min(num_seen, width or num_seen)
  counts = np.minimum(1 + rng.poisson(_LABELS - 1, batch_size), most)
  labels = np.full((batch_size, width or counts.max()), -1)
  for row, count in zip(labels, counts, strict=True):
    row[:count] = rng.choice(num_seen, count, replace=False)
  return labels


def random_table(
  system: System,
  spec: Spec,
  rows: int,
  num_seen: int,
  dtype: np.dtype,
  label_widths: Mapping[str, int] | None = None,
) -> HostBatch:
  """Makes the columns of a random training set for ``zsljax.training.inputs``.

  The system's task decides whether an image has several labels; ``label_widths`` are
  widths of a stored multi-label set's columns.
  """
  rng = np.random.default_rng(0)
  features = rng.standard_normal((rows, *spec.feature_shape), np.float32)
  widths = label_widths or {}
  table = {"features": features.astype(dtype, copy=False)}
  if system.task == MULTI_LABEL:
    table["labels"] = random_labels(rows, num_seen, widths.get("labels"))
  else:
    table["labels"] = rng.integers(num_seen, size=rows)
  if "absent" in widths:
    table["absent"] = random_labels(rows, num_seen, widths["absent"])
  return table


def rows_of(table: HostBatch, rows: np.ndarray) -> HostBatch:
  """Gathers rows of a table as a host batch."""
  batch = {name: column[rows] for name, column in table.items()}
  return batch | {"mask": np.ones(rows.shape, bool)}
