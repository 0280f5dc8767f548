"""Vectors for the names of labels, from the files that word vectors come in."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
import dataclasses
import pathlib
import re

import numpy as np

from zsljax.data.files.class_table import read_class_table
from zsljax.data.files.text import check_distinct, read_names
from zsljax.errors import counted, require
from zsljax.io.arrays import check_array, read_arrays
from zsljax.io.checks import readable, require_file
from zsljax.io.progress import task_bar

UNKNOWN = ("refuse", "known_words")
_ENDINGS = (".npy", ".npz", ".txt", ".vec", ".csv")
_NUMBER = re.compile(rb"[+-]?\d*\.?\d+(e[+-]?\d+)?", re.IGNORECASE)

# Words, each with its vector: a row of a matrix, or the text of its numbers.
_Pairs = Iterator[tuple[str, bytes | np.ndarray]]


@dataclasses.dataclass(frozen=True)
class LabelVectors:
  """Vectors of L labels.

  Attributes:
    names: the labels that have a vector, in the order asked for.
    vectors: ``[L, V]`` float32.
    notes: what was done to get them, one sentence each.
  """

  names: tuple[str, ...]
  vectors: np.ndarray
  notes: tuple[str, ...]


def label_vectors(
  names: Iterable[str], path: pathlib.Path, unknown: str = "refuse"
) -> LabelVectors:
  """Looks labels up in a file of word vectors.

  A label is looked up as it stands, with underscores for spaces, and both in lower
  case. Failing that it is split into words, at spaces and at ``_ - / , + & ( )``; each
  is looked up as it stands and in lower case, and the mean of their vectors is taken.

  Args:
    names: the labels, distinct.
    path: see ``read_word_vectors``. Rows of an ``.npy`` without names are those of the
      labels, in order.
    unknown: what to do with labels that have words which the file lacks: ``refuse``
      them, or use their ``known_words`` and leave out labels without one.

  Raises:
    ZsljaxError: there are no labels, one occurs twice, words are unknown, or the file
      cannot be used.
  """
  names = [str(name) for name in names]
  require(unknown in UNKNOWN, "unknown", repr(unknown), " or ".join(UNKNOWN))
  require(bool(names), "labels", "an empty list", "one name at least")
  check_distinct(names, "labels")
  texts = [text for name in names for text in (name, *_words(name))]
  known = read_word_vectors(path, {s for t in texts for s in _spellings(t)}, names)

  parts = {name: _known_parts(name, known) for name in names}
  lacking = [repr(name) for name, found in parts.items() if None in found]
  used = {name: [w for w in found if w is not None] for name, found in parts.items()}
  bare = [repr(name) for name, found in used.items() if not found]
  require(
    unknown == "known_words" or not lacking,
    str(path),
    f"no vector for words of {len(lacking)} of {len(names)} names: "
    f"{', '.join(lacking)}",
    "every word of every name (or --unknown=known_words)",
  )
  used = {name: found for name, found in used.items() if found}
  require(bool(used), str(path), "no word of any name", "one at least")
  vectors = np.stack([np.mean([known[w] for w in found], 0) for found in used.values()])
  notes = {
    "follow the rows, which have no names, of": ["all"] * _is_unnamed(path),
    "are made of their known words alone, in": [x for x in lacking if x not in bare],
    f"are left out ({len(bare)} of {len(names)}), as no word of them is in": bare,
    "have nothing but zeros in": [
      repr(name) for name, vector in zip(used, vectors, strict=True) if not vector.any()
    ],
  }
  return LabelVectors(
    names=tuple(used),
    vectors=vectors,
    notes=tuple(
      f"Labels that {what} {path.name}: {'; '.join(those)}."
      for what, those in notes.items()
      if those
    ),
  )


def read_word_vectors(
  path: pathlib.Path,
  words: Iterable[str] | None = None,
  rows: Sequence[str] = (),
) -> dict[str, np.ndarray]:
  """The vectors of those ``words`` that the file has, float32 and of one width.

  The file's ending tells what it is:

  * ``.txt``, ``.vec``: lines of a word and its numbers (GloVe), perhaps below a line
    with their count and width (fastText, word2vec).
  * ``.csv``: a class table, as `semantics` writes it.
  * ``.npz``: a row of texts and a matrix with a row for each, by any names.
  * ``.npy``: such a matrix; ``FILE.txt`` beside ``FILE.npy`` has the words, one a line.

  Args:
    path: the file.
    words: the words wanted; all when None.
    rows: words of an ``.npy``'s rows where no file has them.

  Raises:
    ZsljaxError: the file is missing, damaged or of no such kind, or a wanted vector
      is not finite, of another width, or there twice and different.
  """
  kind = path.suffix.lower()
  require(
    kind in _ENDINGS, str(path), f"ending {kind!r}", f"one of {' '.join(_ENDINGS)}"
  )
  require_file(path, "a file of word vectors")
  words = None if words is None else frozenset(words)
  vectors, empty = {}, True
  with readable(path):
    for word, numbers in _text(path) if kind in (".txt", ".vec") else _rows(path, rows):
      empty = False
      if words is None or word in words:
        where = f"{path}: vector of {word!r}"
        vector = _vector(numbers, where)
        same = np.array_equal(vectors.setdefault(word, vector), vector)
        require(same, where, "two that differ", "one")
  require(not empty, str(path), "no words", "word vectors")
  return vectors


def _text(path: pathlib.Path) -> _Pairs:
  """Words and numbers of a text file."""
  with (
    path.open("rb") as file,
    task_bar(path.stat().st_size, f"reading {path.name}", "B") as bar,
  ):
    header = re.fullmatch(rb"(\d{1,12}) ([1-9]\d{0,8})\s*", file.readline())
    width = int(header[2]) if header else None
    if not header:
      file.seek(0)
    found = 0
    for line_number, line in enumerate(file, 2 if header else 1):
      bar.update(len(line))
      line = line.rstrip(b" \r\n")
      if not line:
        continue
      found += 1
      spaces = line.count(b" ")
      width = width or spaces
      # A GloVe word may hold spaces: the numbers are what stands on the right.
      parts = line.split(b" ", 1) if spaces == width else line.rsplit(b" ", width)
      beyond = spaces > width and _NUMBER.fullmatch(parts[0].split(b" ")[-1])
      require(
        0 < width <= spaces and not beyond,
        f"{path}: line {line_number}",
        counted(spaces, "number"),
        f"a word and {width or 'its'} numbers, with spaces between",
      )
      yield parts[0].decode("utf-8", errors="replace"), line[len(parts[0]) + 1 :]
  count = int(header[1]) if header else found
  require(
    count == found,
    str(path),
    counted(found, "word"),
    f"{count}, as its first line says (was the download cut off?)",
  )


def _rows(path: pathlib.Path, rows: Sequence[str]) -> _Pairs:
  """Names and rows of the matrix in an array file or a class table."""
  if path.suffix.lower() == ".csv":
    table = read_class_table(path)
    return zip(table.names, table.values, strict=True)
  arrays = read_arrays(path, endings=(".npy", ".npz"))
  texts = [a for a in arrays.values() if a.ndim == 1 and a.dtype.kind == "U"]
  names = [np.asarray(a).tolist() for a in texts]
  matrices = [a for a in arrays.values() if a.ndim == 2 and a.dtype.kind in "fiu"]
  if path.suffix.lower() == ".npy":
    beside = path.with_suffix(".txt")
    names = [rows if _is_unnamed(path) else read_names(beside)]
  require(
    len(names) == len(matrices) == 1,
    str(path),
    ", ".join(f"{k} {a.shape} of {a.dtype}" for k, a in arrays.items()) or "nothing",
    "one matrix of numbers, and in .npz one row of texts",
  )
  where = f"{path}: rows for names (of the .npz, of FILE.txt beside FILE.npy, or given)"
  check_array(where, matrices[0], f"{len(names[0])} V")
  return zip(names[0], matrices[0], strict=True)


def _is_unnamed(path: pathlib.Path) -> bool:
  return path.suffix.lower() == ".npy" and not path.with_suffix(".txt").is_file()


def _vector(numbers: bytes | np.ndarray, where: str) -> np.ndarray:
  """Numbers as a finite float32 vector."""
  if isinstance(numbers, bytes):
    found = repr(numbers[:60])
    require(b"_" not in numbers, where, found, "a row of numbers")  # 1_0 is Python's.
    try:
      numbers = [float(number) for number in numbers.split(b" ")]
    except ValueError:
      require(False, where, found, "a row of numbers")
  with np.errstate(over="ignore"):
    vector = np.asarray(numbers).astype(np.float32)
  return check_array(where, vector, "V", finite=True, hint=" in float32")


def _words(name: str) -> list[str]:
  return [word for word in re.split(r"[\s_/,+()&-]+", name) if word] or [name]


def _spellings(text: str) -> tuple[str, ...]:
  """Spellings to look for, best first."""
  forms = text, text.replace(" ", "_")
  return *forms, *(form.lower() for form in forms)


def _known_parts(name: str, known: Container[str]) -> list[str | None]:
  """The label found whole, or else its words as they are found; None for others."""
  for texts in ([name], _words(name)):
    hits = [next((s for s in _spellings(t) if s in known), None) for t in texts]
    if None not in hits:
      break
  return hits
