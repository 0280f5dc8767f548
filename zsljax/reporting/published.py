"""Published results, a file each: ``zsljax/published/<system>/<dataset>.json``.

Tables show them beside results, and ``zsljax reproduce --paper=NAME`` trains again what
they describe.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

from zsljax.errors import require_known

_FOLDER = pathlib.Path(__file__).parents[1] / "published"


@dataclasses.dataclass(frozen=True)
class Training:
  """A training that some numbers of a result are from.

  Attributes:
    metrics: published values in percent, by names of the protocol.
    fields: of the config, by their dots, with other values than the config's.
    not_replayed: reason why the numbers cannot be had again, or None.
  """

  metrics: dict[str, float]
  fields: dict[str, Any]
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
    population: several labels an image: of ``evaluation.multilabel.POPULATIONS``, or
      None where it is not known.
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
  population: str | None
  config: str | None
  trainings: list[Training]
  tolerance: float
  note: str | None

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
    """False for a row that has counted another population."""
    counted = row.get("conditions", {}).get("population")
    return self.population in (None, counted)


def names() -> list[str]:
  """Names of all published results."""
  files = sorted(_FOLDER.glob("*/*.json"))
  return [path.relative_to(_FOLDER).with_suffix("").as_posix() for path in files]


def read_published(name: str) -> Published:
  """Reads the published result ``name``.

  Raises:
    ZsljaxError: there is none.
  """
  require_known(name, names(), "--paper")
  content = json.loads((_FOLDER / f"{name}.json").read_text("utf-8"))
  trainings = [Training(**training) for training in content["trainings"]]
  return Published(name, **content | {"trainings": trainings})
