"""Descriptions of classes in a CSV file: a class a line, an attribute a column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import dataclasses
import pathlib
import re

import numpy as np

from zsljax.classes import ClassSpace
from zsljax.data.files.text import quoted, read_csv
from zsljax.errors import ZsljaxError, counted, did_you_mean, require
from zsljax.io.files import write_csv

_FIRST = "class"
# New descriptions may be this much longer or shorter than those of the dataset.
_OTHER_UNITS = 10.0


@dataclasses.dataclass(frozen=True)
class ClassTable:
  """Descriptions of C classes by A attributes.

  Attributes:
    path: of the file.
    names: of the classes, distinct.
    attributes: names of the columns, distinct.
    values: ``[C, A]`` float64, finite.
    left_out: classes with unusable lines that were skipped, each with the reason.
  """

  path: pathlib.Path
  names: tuple[str, ...]
  attributes: tuple[str, ...]
  values: np.ndarray
  left_out: tuple[str, ...] = ()

  @property
  def named_attributes(self) -> tuple[str, ...]:
    """The attributes; none where they are a vector's dimensions, of `semantics`."""
    dimensions = all(re.fullmatch(r"dimension_\d+", name) for name in self.attributes)
    return () if dimensions else self.attributes

  def fitted(self, classes: ClassSpace, skip_bad: bool = False) -> ClassTable:
    """Selects the attributes of ``classes``, in their order.

    Columns are found by their names. Where the dataset has no attribute names the
    columns are taken as they stand.

    Args:
      classes: of the dataset.
      skip_bad: leave out attributes that the dataset does not have, and classes in
        other units; else they are an error.

    Raises:
      ZsljaxError: attributes are missing or unknown, or numbers cannot have the units
        of the dataset's.
    """
    where, known = f"{self.path}: columns", classes.attribute_names
    values, left_out = self.values, list(self.left_out)
    if known:
      missing = [a for a in known if a not in set(self.attributes)]
      extra = [a for a in self.attributes if a not in set(known)]
      if extra and (missing or not skip_bad) and len(extra) >= len(missing):
        raise ZsljaxError(
          f"{where}: found {quoted(extra)}, which the dataset does not have, expected "
          f"its {len(known)} attributes. {did_you_mean(extra[0], missing or known)}"
        )
      require(
        not missing,
        where,
        f"no {quoted(missing)} ({len(missing)} of {len(known)} are missing)",
        "all attributes of the dataset, in any order",
      )
      left_out += [f"column {name!r}: the dataset does not have it" for name in extra]
      values = values[:, [self.attributes.index(name) for name in known]]
    embeddings = np.asarray(classes.embeddings)
    count, width = values.shape[1], embeddings.shape[1]
    require(
      count == width,
      where,
      counted(count, "attribute"),
      f"{width}, as the dataset has",
    )
    problems = _other_units(values, embeddings)
    for i, problem in problems.items():
      if not skip_bad:
        raise ZsljaxError(
          f"{self.path}: class {self.names[i]!r}: {problem}: the same units (shares or "
          "per cent, scaled or as annotated)"
        )
      left_out.append(f"class {self.names[i]!r}: {problem}")
    good = [i for i in range(len(values)) if i not in problems]
    require(len(good) > 0, str(self.path), "no class in the dataset's units", "some")
    return dataclasses.replace(
      self,
      names=tuple(self.names[i] for i in good),
      attributes=known or self.attributes,
      values=values[good],
      left_out=tuple(left_out),
    )


def _other_units(values: np.ndarray, known: np.ndarray) -> dict[int, str]:
  """Rows of a length far from those that are known, and why.

  A single attribute tells nothing: a new class may be the first that has it.
  """
  sizes, usual = np.linalg.norm(values, axis=1), np.linalg.norm(known, axis=1)
  low, high = usual.min() / _OTHER_UNITS, usual.max() * _OTHER_UNITS
  return {
    i: f"found a description of length {sizes[i]:.3g}, expected {usual.min():.3g} to "
    f"{usual.max():.3g} as in the dataset"
    for i in np.flatnonzero((sizes < low) | (sizes > high))
  }


def read_class_table(path: pathlib.Path, skip_bad: bool = False) -> ClassTable:
  """Reads a CSV file with the header ``class,<attribute>,<attribute>,...``.

  Args:
    path: the file, UTF-8, with commas.
    skip_bad: leave classes out whose line is unusable; else they are an error.

  Raises:
    ZsljaxError: it is not such a file; a name occurs twice; a cell is no number.
  """
  header, *lines = [*read_csv(path)] or [[""]]
  first, *attributes = (cell.strip() for cell in header or [""])
  require(
    first.lower() == _FIRST and len(attributes) > 0,
    f"{path}: line 1",
    repr(",".join(header)[:60]),
    f"a header {_FIRST},<attribute>,<attribute>,... with commas",
  )
  twice = [name for name in attributes if not name or attributes.count(name) > 1]
  require(
    not twice, f"{path}: line 1", f"columns {quoted(twice)}", "distinct names, none ''"
  )
  values: dict[str, list[float]] = {}
  bad: list[str] = []
  for number, line in enumerate(lines, 2):
    if not any(cell.strip() for cell in line):
      continue
    name = line[0].strip()
    problem = "the name occurs twice" if name in values else _problem(line, attributes)
    if problem:
      bad.append(f"class {name!r} (line {number}): {problem}")
    else:
      values[name] = [float(cell) for cell in line[1:]]
  if bad and not skip_bad:
    raise ZsljaxError(
      f"{path}: {bad[0]} ({counted(len(bad), 'such line')}; --skip_bad "
      "leaves such out), expected "
      f"a distinct name and {len(attributes)} numbers"
    )
  require(len(values) > 0, str(path), "no class", "at least one")
  return ClassTable(
    path, tuple(values), tuple(attributes), np.array([*values.values()]), tuple(bad)
  )


def write_class_table(
  path: str | pathlib.Path, names: Iterable[str], attributes: Iterable[str], values
) -> None:
  """Writes a file for ``read_class_table``; numbers keep all their digits."""
  rows = zip(names, np.asarray(values).tolist(), strict=True)
  rows = [[name, *map(repr, numbers)] for name, numbers in rows]
  write_csv(pathlib.Path(path).expanduser(), [[_FIRST, *attributes], *rows])


def _problem(line: Sequence[str], attributes: Sequence[str]) -> str:
  """The fault in the line of a class; empty where there is none."""
  if not line[0].strip():
    return "it has no name"
  if len(line) != len(attributes) + 1:
    return f"found {counted(len(line) - 1, 'number')}"
  for attribute, cell in zip(attributes, line[1:], strict=True):
    try:
      finite = np.isfinite(float(cell))
    except ValueError:
      finite = False
    if not finite or "_" in cell:  # Python would read 1_0 as 10.
      return f"found {cell.strip()!r} for {attribute!r}"
  return ""
