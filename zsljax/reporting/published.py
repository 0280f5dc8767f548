"""Published results, a file each: ``zsljax/published/<system>/<dataset>.json``.

Tables show them beside results, and ``zsljax reproduce --paper=NAME`` trains again what
they describe.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import pathlib
import typing
from typing import Any

from zsljax.errors import ZsljaxError, did_you_mean, require

_FOLDER = pathlib.Path(__file__).parents[1] / "published"
STATUSES = ("re-read", "recalled")


@dataclasses.dataclass(frozen=True)
class Training:
  """A training that some numbers of a result are from.

  Attributes:
    metrics: published values in percent, by names of the protocol.
    fields: of the config, by their dots, with other values than the config's.
    not_replayed: reason why the numbers cannot be had again, or None.
  """

  metrics: dict
  fields: dict
  not_replayed: str | None


@dataclasses.dataclass(frozen=True)
class Published:
  """A published result: numbers, their origin, and the settings that they are of.

  Attributes:
    name: ``<system>/<dataset>``, of the file.
    method: as tables name it.
    paper: authors, title, place and year.
    source: where the numbers stand.
    status: ``re-read`` in the named public source, or ``recalled``.
    selection: the images or the rule by which settings and steps were chosen.
    dataset: its name here.
    features: in words.
    stored_as: name of the features where they are imported; None where no import has
      them.
    class_embedding: as stored sets name it.
    split: as stored sets name it, without the version.
    imported_by: the command that imports the data, and the files that it reads.
    protocol: of ``zsljax.evaluation.PROTOCOLS``.
    population: several labels an image: a ``name`` for the images, and the ``density``
      (labels an image) of ``zsl`` and ``gzsl`` that its numbers imply; else None.
    config: ``NAME:ARGUMENT``; None of systems that are not here.
    trainings: often one; T1 and H may be of two.
    tolerance: difference, in points, up to which a mean over seeds counts as equal.
    note: for the reader, or None.
  """

  name: str
  method: str
  paper: str
  source: str
  status: str
  selection: str
  dataset: str
  features: str
  stored_as: str | None
  class_embedding: str
  split: str
  imported_by: str
  protocol: str
  population: dict | None
  config: str | None
  trainings: list
  tolerance: float
  note: str | None

  def __post_init__(self):
    where = f"{self.name}.json"
    expected = f"one of {', '.join(STATUSES)}"
    require(self.status in STATUSES, f"{where}: status", self.status, expected)
    for metric, value in self.metrics.items():
      percent = isinstance(value, int | float) and 0 <= value <= 100
      require(percent, f"{where}: {metric}", repr(value), "a number from 0 to 100")

  @property
  def metrics(self) -> dict[str, float]:
    """The published values of all trainings."""
    return {k: v for training in self.trainings for k, v in training.metrics.items()}

  def of_same_data(self, row: Mapping[str, Any]) -> bool:
    """True for a row, or a stored set's metadata, with these features and split."""
    described = row["features"], row["class_embedding"]
    return described == (self.stored_as, self.class_embedding) and (
      row["split_version"].startswith(self.split)
    )

  def of_same_images(self, row: Mapping[str, Any]) -> bool:
    """False for a row of several labels with other densities than the population's."""
    density = self.population["density"] if self.population else {}
    return all(
      abs(row["conditions"][setting]["density"] / published - 1) < 0.005
      for setting, published in density.items()
    )


def names() -> list[str]:
  """Names of all published results."""
  files = sorted(_FOLDER.glob("*/*.json"))
  return [path.relative_to(_FOLDER).with_suffix("").as_posix() for path in files]


def read_published(name: str) -> Published:
  """Reads the published result ``name``.

  Raises:
    ZsljaxError: there is none; or its file lacks a field or has one that is not known.
  """
  known = names()
  if name not in known:
    raise ZsljaxError(f"--paper: unknown {name!r}. {did_you_mean(name, known)}")
  return made_of(json.loads((_FOLDER / f"{name}.json").read_text()), name)


def made_of(content: dict[str, Any], name: str) -> Published:
  """The published result that a file's content describes; see ``read_published``."""
  where = f"{name}.json"
  fields = _checked(Published, {"name": name} | content, where)
  trainings = [
    Training(**_checked(Training, training, f"{where}: trainings"))
    for training in fields["trainings"]
  ]
  return Published(**fields | {"trainings": trainings})


def _checked(kind: type, content: Any, where: str) -> dict[str, Any]:
  """Raises unless ``content`` has the fields and the types of a dataclass."""
  require(isinstance(content, dict), where, repr(content), "an object")
  types = typing.get_type_hints(kind)
  for field in types.keys() ^ content.keys():
    found = "no such field" if field in types else "a field that is not known"
    require(False, f"{where}: {field}", found, f"the fields {', '.join(types)}")
  for field, of in types.items():
    of = int | float if of is float else of
    expected = getattr(of, "__name__", str(of))
    value = content[field]
    require(isinstance(value, of), f"{where}: {field}", repr(value), expected)
  return content
