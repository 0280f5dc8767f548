"""ClassSpace, the description of a set of classes.

The validation fold, the unseen classes of conventional evaluation, all classes of the
generalized one and a new class at inference are class spaces, too.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from zsljax.errors import ZsljaxError, require
from zsljax.numerics import LARGEST, l2_normalize

Array = jax.Array | np.ndarray

_WRONG = f"NaN, infinity or a number beyond {LARGEST:g}"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ClassSpace:
  """C classes, in the order of the columns of a score matrix.

  Build one with ``ClassSpace.create``, which checks it; JAX calls the plain constructor
  to rebuild one inside transformations.

  Attributes:
    embeddings: descriptions of the classes, ``[C, A]``.
    seen: whether training images of the class exist, ``[C]`` bool.
    ids: the class's label in the data files, ``[C]`` integer.
    attribute_vectors: word vectors of the attributes, ``[A, V]``, or None.
    names: the classes' names.
    attribute_names: the attributes' names; empty where the source has none.
  """

  embeddings: Array
  seen: Array
  ids: Array
  attribute_vectors: Array | None = None
  names: tuple[str, ...] = dataclasses.field(default=(), metadata={"static": True})
  attribute_names: tuple[str, ...] = dataclasses.field(
    default=(), metadata={"static": True}
  )

  @classmethod
  def create(
    cls,
    names: Sequence[str],
    embeddings: Array,
    seen: Array | None = None,
    ids: Array | None = None,
    attribute_names: Sequence[str] = (),
    attribute_vectors: Array | None = None,
  ) -> ClassSpace:
    """Makes a checked class space on the host.

    Args:
      names: C distinct names.
      embeddings: ``[C, A]``, finite.
      seen: ``[C]`` bool; all seen when absent.
      ids: ``[C]`` distinct labels; 0..C-1 when absent.
      attribute_names: A names, or none.
      attribute_vectors: ``[A, V]``, or None.

    Raises:
      ZsljaxError: a shape disagrees, a name or id occurs twice, or an embedding or
        vector is not of finite numbers.
    """
    names = tuple(str(n) for n in names)
    attribute_names = tuple(str(n) for n in attribute_names)
    embeddings = np.asarray(embeddings)
    count = len(names)
    seen = np.ones(count, bool) if seen is None else np.asarray(seen)
    ids = np.arange(count) if ids is None else np.asarray(ids)
    require(
      embeddings.ndim == 2 and len(embeddings) == count > 0 < embeddings.size,
      "class embeddings",
      f"shape {embeddings.shape}",
      f"one row for each of the {count} class names, [C, A]",
    )
    _require_real("class embeddings", embeddings)
    bad = ~(np.abs(embeddings) <= LARGEST).all(1)
    found = f"{_WRONG} in class {names[np.argmax(bad)]!r} ({bad.sum()} in all)"
    require(not bad.any(), "class embeddings", found, "finite numbers")
    for field, value in (("seen", seen), ("ids", ids)):
      shape = f"shape {value.shape}"
      require(value.shape == (count,), f"class space, {field}", shape, f"({count},)")
    for field, texts in (("class names", names), ("attribute names", attribute_names)):
      bad = [text for text in texts if "\0" in text]
      require(not bad, field, f"{bad[:1]} with NUL", "names that files can hold")
    for field, values in (("class names", names), ("class ids", ids.tolist())):
      (value, times), *_ = collections.Counter(values).most_common(1)
      if times > 1:
        raise ZsljaxError(f"{field}: {value!r} occurs twice, expected distinct")
    width = embeddings.shape[1]
    require(
      len(attribute_names) in (0, width),
      "attribute names",
      len(attribute_names),
      f"{width}, one for each column of the class embeddings",
    )
    if attribute_vectors is not None:
      attribute_vectors = np.asarray(attribute_vectors)
      require(
        attribute_vectors.ndim == 2
        and len(attribute_vectors) == width
        and attribute_vectors.size > 0,
        "attribute vectors",
        f"shape {attribute_vectors.shape}",
        f"[{width}, V], one row for each attribute",
      )
      _require_real("attribute vectors", attribute_vectors)
      bad = ~(np.abs(attribute_vectors) <= LARGEST).all(1)
      found = f"{_WRONG} for attribute {np.argmax(bad)} ({bad.sum()} in all)"
      require(not bad.any(), "attribute vectors", found, "finite numbers")
    return cls(
      embeddings=embeddings,
      seen=seen.astype(bool),
      ids=ids.astype(np.int32),
      attribute_vectors=attribute_vectors,
      names=names,
      attribute_names=attribute_names,
    )

  @classmethod
  def load(cls, path: pathlib.Path) -> ClassSpace:
    """Reads the classes that ``save`` wrote."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
      return cls.create(**arrays)

  def save(self, path: pathlib.Path) -> None:
    """Writes the classes as an ``.npz``."""
    arrays = {
      "names": np.array(self.names),
      "embeddings": self.embeddings,
      "seen": self.seen,
      "ids": self.ids,
      "attribute_names": np.array(self.attribute_names, np.str_),
    }
    if self.attribute_vectors is not None:
      arrays["attribute_vectors"] = self.attribute_vectors
    with path.open("wb") as file:
      np.savez(file, **arrays)

  def __len__(self) -> int:
    return self.embeddings.shape[0]

  @property
  def attributes(self) -> tuple[str, ...]:
    """The attributes' names; by number, from 0, where the source has none."""
    width = self.embeddings.shape[1]
    return self.attribute_names or tuple(f"attribute {i}" for i in range(width))

  def without_names(self) -> ClassSpace:
    """The arrays alone, as each set of names would compile another program."""
    return dataclasses.replace(self, names=(), attribute_names=())

  def subset(self, keep: Iterable[int] | np.ndarray) -> ClassSpace:
    """The classes at positions ``keep`` (or where a bool ``keep`` is true)."""
    keep = np.asarray(keep)
    # No positions at all are an array of floats.
    keep = np.flatnonzero(keep) if keep.dtype == bool else keep.astype(int)
    return dataclasses.replace(
      self,
      embeddings=self.embeddings[keep],
      seen=self.seen[keep],
      ids=self.ids[keep],
      names=tuple(self.names[i] for i in keep) if self.names else (),
    )

  def extended(self, names: Sequence[str], embeddings: Array) -> ClassSpace:
    """Adds unseen classes; their ids follow the largest."""
    count = len(embeddings)
    return dataclasses.replace(
      self,
      embeddings=np.concatenate([self.embeddings, embeddings]),
      seen=np.concatenate([self.seen, np.zeros(count, bool)]),
      ids=np.concatenate([self.ids, np.max(self.ids) + 1 + np.arange(count)]),
      names=(*self.names, *names),
    )

  def validation_fold(self, held_out: Iterable[int]) -> ClassSpace:
    """The seen classes alone, with the ids ``held_out`` in the role of unseen ones.

    The unseen classes do not occur in it: a choice on the fold cannot depend on them.
    """
    fold = self.subset(np.asarray(self.seen))
    held_out = np.asarray(list(held_out))
    return dataclasses.replace(fold, seen=~np.isin(fold.ids, held_out))

  def positions(self, labels: Array) -> jax.Array:
    """Columns of the score matrix for labels (class ids), any shape.

    Labels become columns nowhere else. -1 for a label that is not in the space: losses
    are NaN there.
    """
    ids = jnp.asarray(self.ids)
    order = jnp.argsort(ids)
    at = jnp.searchsorted(ids, labels, sorter=order)
    position = order[jnp.minimum(at, len(self) - 1)]
    return jnp.where(ids[position] == labels, position, -1)

  def columns(self, labels: np.ndarray) -> np.ndarray:
    """``positions`` of labels on the host, all of which must be in the space.

    Raises:
      ZsljaxError: a label is none of the ids.
    """
    found = np.asarray(self.positions(labels))
    strange = np.asarray(labels)[found < 0]
    first = f"{strange[:1]} ({strange.size} such labels)"
    require(not strange.size, "labels", first, f"ids of the {len(self)} classes")
    return found

  def unit_embeddings(self) -> jax.Array:
    """The embeddings with rows of length one, ``[C, A]``."""
    return l2_normalize(jnp.asarray(self.embeddings))


def _require_real(field: str, values: np.ndarray) -> None:
  real = values.dtype.kind in "biuf" or jnp.issubdtype(values.dtype, jnp.floating)
  require(real, field, f"{values.dtype}", "real numbers")
