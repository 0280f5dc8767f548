"""Vectors for the names of labels, from the files that word vectors come in."""

from __future__ import annotations

import collections
from collections.abc import Container, Iterable, Iterator, Sequence
import dataclasses
import json
import mmap
import pathlib
import re
import reprlib
from typing import NamedTuple

import numpy as np

from zsljax.errors import ZsljaxError, require
from zsljax.io.progress import task_bar

_COMBINED = {"mean": np.mean, "sum": np.sum}
# What the file must then hold, and what is noted of labels with unknown words.
_UNKNOWN = {
  "refuse": ("every word of every label (or unknown: drop, known_words, zeros)", ""),
  "drop": ("every word of one label at least", "were left out for words not in"),
  "known_words": (
    "a word of one label at least",
    "are made of their known words alone, or left out without one, in",
  ),
  "zeros": ("every word of one label at least", "were given zeros for words not in"),
}
_NUMBER = re.compile(rb"[+-]?\d*\.?\d+(e[+-]?\d+)?", re.IGNORECASE)

# Words, each with its vector as the file has it: text, a list or an array.
_Pairs = Iterator[tuple[str, bytes | Sequence | np.ndarray]]


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
  names: Iterable[str],
  path: pathlib.Path,
  multiword: str = "mean",
  unknown: str = "refuse",
) -> LabelVectors:
  """Looks labels up in a file of word vectors.

  A label is looked up as it stands, with underscores for spaces, and both in lower
  case. Failing that it is split into words, at spaces and at ``_ - / , + & ( )``; each
  is looked up as it stands and in lower case, and their vectors are combined.

  Args:
    names: the labels, distinct.
    path: what ``read_word_vectors`` reads. Rows of an ``.npy`` that nothing names are
      those of the labels, in order.
    multiword: how the vectors of words are combined, ``mean`` or ``sum``.
    unknown: what to do with labels that have words which the file lacks: ``refuse``,
      ``drop`` them, use their ``known_words`` and drop those without one, or give
      ``zeros``.

  Raises:
    ZsljaxError: there are no labels, one occurs twice, words are unknown, or the file
      cannot be used.
  """
  names = [str(name) for name in names]
  require(multiword in _COMBINED, "multiword", repr(multiword), " or ".join(_COMBINED))
  require(unknown in _UNKNOWN, "unknown", repr(unknown), " or ".join(_UNKNOWN))
  require(bool(names), "labels", "an empty list", "one name at least")
  twice = [name for name, count in collections.Counter(names).items() if count > 1]
  require(not twice, "labels", f"{_quoted(twice)} more than once", "distinct names")
  texts = [text for name in names for text in (name, *_words(name))]
  known = read_word_vectors(path, {s for t in texts for s in _spellings(t)}, names)

  labels = [_look_up(name, known) for name in names]
  vectors = {
    label.name: _COMBINED[multiword]([known[word] for word in label.found], axis=0)
    for label in labels
    if label.found and (unknown == "known_words" or not label.missing)
  }
  refused = [str(label) for label in labels if label.name not in vectors]
  require(
    not refused or (bool(vectors) and unknown != "refuse"),
    str(path),
    f"{len(refused)} of {len(names)} labels without a vector, {'; '.join(refused)}",
    _UNKNOWN[unknown][0],
  )
  used = [label for label in labels if label.name in vectors]
  notes = {
    "follow the rows, which have no names, of": ["all"] * _is_unnamed(path),
    "are spelt otherwise in": [
      f"{label.name!r} as {label.found[0]!r}"
      for label in used
      if not label.missing and len(label.found) == 1 and label.name not in label.found
    ],
    f"have the {multiword} of their words in": [
      f"{label.name!r} of {_quoted(label.found)}"
      for label in used
      if len(label.found) > 1
    ],
    _UNKNOWN[unknown][1]: [str(label) for label in labels if label.missing],
    "have nothing but zeros in": [
      repr(name) for name, vector in vectors.items() if not vector.any()
    ],
  }
  if unknown == "zeros":
    nothing = np.zeros_like(next(iter(vectors.values())))
    vectors = {name: vectors.get(name, nothing) for name in names}
  return LabelVectors(
    names=tuple(vectors),
    vectors=np.stack(list(vectors.values())),
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
  * ``.bin``: word2vec's binary format.
  * ``.json``: an object with a list of numbers for each word.
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
  path = path.expanduser()
  kind = path.suffix.lower()
  require(
    kind in _READERS, str(path), f"ending {kind!r}", f"one of {' '.join(_READERS)}"
  )
  require(path.is_file(), str(path), "no such file", "a file of word vectors")
  words = None if words is None else frozenset(words)
  vectors, width, empty = {}, None, True
  try:
    with task_bar(path.stat().st_size, f"reading {path.name}", "B") as bar:
      for word, numbers in _READERS[kind](path, rows, bar):
        empty = False
        if words is None or word in words:
          where = f"{path}: vector of {word!r}"
          vector = _vector(numbers, where)
          width = width or len(vector)
          require(len(vector) == width, where, f"{len(vector)} numbers", f"{width}")
          same = np.array_equal(vectors.setdefault(word, vector), vector)
          require(same, where, "two that differ", "one")
  except ZsljaxError:
    raise
  except Exception as error:  # On damage json, zipfile and NumPy raise all sorts.
    raise ZsljaxError(
      f"{path}: not readable ({error}), expected a complete {kind} file of word vectors"
    ) from error
  require(not empty, str(path), "no words", "word vectors")
  return vectors


def _text(path: pathlib.Path, rows: Sequence[str], bar) -> _Pairs:
  with path.open("rb") as file:
    count, width = _header(file.readline()) or (None, None)
    if width is None:
      file.seek(0)
    found = 0
    for line_number, line in enumerate(file, 1 if width is None else 2):
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
        f"{spaces} numbers",
        f"a word and {width or 'its'} numbers, with spaces between",
      )
      yield _decoded(parts[0]), line[len(parts[0]) + 1 :]
  require(
    count in (None, found),
    str(path),
    f"{found} words",
    f"{count}, as its first line says (was the download cut off?)",
  )


def _word2vec_binary(path: pathlib.Path, rows: Sequence[str], bar) -> _Pairs:
  with (
    path.open("rb") as file,
    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
  ):
    at = content.find(b"\n", 0, 40) + 1
    header = _header(content[:at])
    require(
      header is not None,
      str(path),
      "no first line with the count of words and the width",
      "word2vec's binary format (of a fastText model take the .vec file)",
    )
    count, width = header
    for number in range(1, count + 1):
      space = content.find(b" ", at)
      end = space + 1 + 4 * width
      require(
        space >= 0 and end <= len(content),
        str(path),
        f"its end within word {number}",
        f"{count} words with {width} numbers each (was the download cut off?)",
      )
      bar.update(end - at)
      word = content[at:space].lstrip(b"\n")
      yield _decoded(word), np.frombuffer(content[space + 1 : end], "<f4")
      at = end
    rest = content[at:].strip()
    require(
      not rest,
      str(path),
      f"{len(rest)} bytes after the last word",
      f"{count} words with {width} numbers each",
    )


def _json(path: pathlib.Path, rows: Sequence[str], bar) -> _Pairs:
  # Objects become tuples of pairs, which keep words that occur twice.
  content = json.loads(path.read_bytes(), object_pairs_hook=tuple)
  require(
    isinstance(content, tuple),
    str(path),
    reprlib.repr(content),
    "an object with a list of numbers for each word",
  )
  yield from content


def _npz(path: pathlib.Path, rows: Sequence[str], bar) -> _Pairs:
  with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as npz:
    arrays = {key: np.asarray(value) for key, value in npz.items()}
  names = [a for a in arrays.values() if a.ndim == 1 and a.dtype.kind in "SU"]
  matrices = [a for a in arrays.values() if _is_matrix(a)]
  require(
    len(names) == len(matrices) == 1,
    str(path),
    ", ".join(f"{k} {a.shape} of {a.dtype}" for k, a in arrays.items()) or "nothing",
    "one row of texts and one matrix of numbers",
  )
  texts = names[0].tolist()
  words = [_decoded(text) if isinstance(text, bytes) else text for text in texts]
  yield from _named_rows(words, matrices[0], path)


def _npy(path: pathlib.Path, rows: Sequence[str], bar) -> _Pairs:
  matrix = np.lib.format.open_memmap(path, mode="r")  # Refuses pickles.
  shape = f"shape {matrix.shape} of {matrix.dtype}"
  require(_is_matrix(matrix), str(path), shape, "a matrix of numbers")
  if not _is_unnamed(path):
    lines = path.with_suffix(".txt").read_text("utf-8-sig").split("\n")
    rows = [line.strip() for line in lines if line.strip()]
  yield from _named_rows(rows, np.asarray(matrix), path)


_READERS = {
  ".bin": _word2vec_binary,
  ".json": _json,
  ".npy": _npy,
  ".npz": _npz,
  ".txt": _text,
  ".vec": _text,
}


def _named_rows(names, matrix, path) -> _Pairs:
  require(
    len(names) == len(matrix),
    str(path),
    f"{len(matrix)} rows for {len(names)} names",
    "a row for each name, given or in FILE.txt beside FILE.npy",
  )
  return zip(names, matrix, strict=True)


def _is_unnamed(path: pathlib.Path) -> bool:
  return path.suffix.lower() == ".npy" and not path.with_suffix(".txt").is_file()


def _is_matrix(array) -> bool:
  return array.ndim == 2 and array.dtype.kind in "fiu"


def _header(line: bytes) -> tuple[int, int] | None:
  """Count and width where the line is just these."""
  found = re.fullmatch(rb"(\d{1,12}) ([1-9]\d{0,8})\s*", line)
  return found and (int(found[1]), int(found[2]))


def _decoded(word: bytes) -> str:
  return word.decode("utf-8", errors="replace")


def _vector(numbers: bytes | Sequence | np.ndarray, where: str) -> np.ndarray:
  try:
    if isinstance(numbers, bytes):
      numbers = [float(number) for number in numbers.split(b" ")]
    vector = np.asarray(numbers)
    ok = vector.ndim == 1 and vector.size > 0 and vector.dtype.kind in "fiu"
  except ValueError:
    ok = False
  require(ok, where, reprlib.repr(numbers), "a row of numbers")
  with np.errstate(over="ignore"):
    vector = vector.astype(np.float32)
  require(np.isfinite(vector).all(), where, "NaN or infinity", "finite float32 numbers")
  return vector


def _words(name: str) -> list[str]:
  return [word for word in re.split(r"[\s_/,+()&-]+", name) if word] or [name]


def _spellings(text: str) -> tuple[str, ...]:
  """What to look for, best first."""
  forms = text, text.replace(" ", "_")
  return *forms, *(form.lower() for form in forms)


class _Label(NamedTuple):
  """A label, the known words that make it up, and its words that are unknown."""

  name: str
  found: list[str]
  missing: list[str]

  def __str__(self) -> str:
    return f"{self.name!r} (lacks {_quoted(self.missing)})"


def _look_up(name: str, known: Container[str]) -> _Label:
  for texts in ([name], _words(name)):
    hits = [next((s for s in _spellings(t) if s in known), None) for t in texts]
    if None not in hits:
      break
  missing = [text for text, hit in zip(texts, hits, strict=True) if hit is None]
  return _Label(name, [hit for hit in hits if hit is not None], missing)


def _quoted(texts: Iterable[str]) -> str:
  return ", ".join(map(repr, texts))
