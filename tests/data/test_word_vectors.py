from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from zsljax.data.files.class_table import write_class_table
from zsljax.data.files.word_vectors import label_vectors, read_word_vectors
from zsljax.errors import ZsljaxError

WORDS = ("polar", "bear", "Turkey", "grizzly_bear", "Flügel", "void")
VECTORS = np.float32(
  [[1, 0.5, -2], [3, 1e-4, 0.25], [-1, 7, 8], [0.1, 0.2, 0.3], [4, 5, 6], [0, 0, 0]]
)
FILES = ("glove.txt", "head.txt", "fast.vec", "words.npz", "rows.npy", "table.csv")


def lines(words, vectors, end="\n"):
  rows = (" ".join(map(str, vector)) for vector in vectors)
  return "".join(
    f"{word} {row}{end}" for word, row in zip(words, rows, strict=True)
  ).encode()


def write(path, words=WORDS, vectors=VECTORS):
  """Writes the kind of file that its name says, and returns the path."""
  head = f"{len(words)} {vectors.shape[1]}\n".encode()
  if path.suffix == ".npy":
    np.save(path, vectors)
    path.with_suffix(".txt").write_text("\n".join(words) + "\n", "utf-8")
  elif path.suffix == ".npz":
    np.savez(path, embedding=vectors.astype(np.float64), vocabulary=np.array(words))
  elif path.suffix == ".csv":
    write_class_table(path, words, ["x", "y", "z"], vectors)
  else:
    text = lines(words, vectors, " \r\n" if path.suffix == ".vec" else "\n")
    path.write_bytes(text if path.name == "glove.txt" else head + text)
  return path


@pytest.fixture(params=FILES)
def file(request, tmp_path):
  return write(tmp_path / request.param)


@pytest.fixture
def glove(tmp_path):
  return write(tmp_path / "glove.txt")


def test_every_format_gives_the_same(file):
  found = read_word_vectors(file)
  assert tuple(found) == WORDS
  for word, vector in zip(WORDS, VECTORS, strict=True):
    np.testing.assert_array_equal(found[word], vector)
    assert found[word].dtype == np.float32


def test_labels_in_every_format(file):
  found = label_vectors(["polar bear", "Flügel"], file)
  assert found.names == ("polar bear", "Flügel")
  np.testing.assert_array_equal(found.vectors, [VECTORS[:2].mean(0), VECTORS[4]])
  assert found.vectors.dtype == np.float32


def test_glove_words_with_spaces_and_odd_characters(tmp_path):
  path = tmp_path / "glove.txt"
  words = ["the", ". . .", "at name@domain.com", "a\u00a0b", "c\x85d", "7", "\u2028"]
  vectors = np.arange(14.0).reshape(7, 2)
  path.write_bytes(lines(words, vectors) + b"\xff\xfe 1 2\n\n")
  found = read_word_vectors(path)
  assert list(found)[:-1] == words
  np.testing.assert_array_equal(np.stack(list(found.values()))[:-1], vectors)


def test_npy_in_the_order_of_the_labels(tmp_path):
  path = write(tmp_path / "rows.npy")
  path.with_suffix(".txt").unlink()
  labels = [f"has {word}" for word in WORDS]
  found = label_vectors(labels, path)
  assert found.names == tuple(labels)
  np.testing.assert_array_equal(found.vectors, VECTORS)
  assert found.notes == (
    "Labels that follow the rows, which have no names, of rows.npy: all.",
    "Labels that have nothing but zeros in rows.npy: 'has void'.",
  )
  with pytest.raises(ZsljaxError, match=r"rows for names .*\(6, 3\), .*\[2, V\]"):
    label_vectors(["polar", "bear"], path)


@pytest.mark.parametrize(
  ("label", "spelling"),
  [
    ("polar", "polar"),
    ("Turkey", "Turkey"),
    ("POLAR", "polar"),
    ("grizzly bear", "grizzly_bear"),
    ("Grizzly Bear", "grizzly_bear"),
    (" bear,", "bear"),
  ],
)
def test_label_found_whole(glove, label, spelling):
  found = label_vectors([label], glove)
  np.testing.assert_array_equal(found.vectors[0], VECTORS[WORDS.index(spelling)])


@pytest.mark.parametrize("separator", [" ", "_", "-", "/", ",", "+", ", "])
def test_label_split_into_words(glove, separator):
  label = separator.join(["Polar", "bear", "Turkey", "bear"])
  found = label_vectors([label], glove)
  np.testing.assert_allclose(found.vectors[0], VECTORS[[0, 1, 2, 1]].mean(0))


@given(
  st.lists(
    st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3),
    min_size=1,
    max_size=5,
  ),
  st.sampled_from(FILES),
  st.data(),
)
def test_combined_as_numpy_does(tmp_path_factory, vectors, file, data):
  vectors = np.float32(vectors)
  path = tmp_path_factory.mktemp("words") / file
  write(path, list("abcde")[: len(vectors)], vectors)
  rows = st.lists(st.integers(0, len(vectors) - 1), min_size=1, max_size=4)
  labels = data.draw(st.lists(rows, min_size=1, max_size=4, unique_by=tuple))
  names = [" ".join("abcde"[row] for row in label) for label in labels]
  found = label_vectors(names, path)
  expected = [np.mean(vectors[label], axis=0) for label in labels]
  assert found.names == tuple(names)
  np.testing.assert_array_equal(found.vectors, expected)


LABELS = ["bear", "Polar yak", "gnu", "void"]


def test_unknown_refused_by_name(glove):
  with pytest.raises(ZsljaxError) as error:
    label_vectors(LABELS, glove)
  assert str(error.value) == (
    f"{glove}: found no vector for words of 2 of 4 names: 'Polar yak', 'gnu', "
    "expected every word of every name (or --unknown=known_words)"
  )


def test_known_words(glove):
  labels = ["bear", "Polar yak"]
  found = label_vectors(labels, glove, unknown="known_words")
  assert found.names == tuple(labels)
  np.testing.assert_array_equal(found.vectors, VECTORS[[1, 0]])
  assert found.notes == (
    "Labels that are made of their known words alone, in glove.txt: 'Polar yak'.",
  )
  found = label_vectors(LABELS, glove, unknown="known_words")
  assert found.names == ("bear", "Polar yak", "void")
  assert found.notes[:2] == (
    "Labels that are made of their known words alone, in glove.txt: 'Polar yak'.",
    "Labels that are left out (1 of 4), as no word of them is in glove.txt: 'gnu'.",
  )


@pytest.mark.parametrize(
  ("labels", "options", "message"),
  [
    ([], {}, "labels: found an empty list"),
    (["bear", "void", "bear"], {}, "labels: found .'bear'. more than once"),
    (
      ["gnu", "gnat yak"],
      {"unknown": "known_words"},
      "no word of any name, expected",
    ),
    ([""], {}, "of 1 of 1 names: '', "),
    (["-"], {}, "of 1 of 1 names: '-', "),
    (["bear"], {"unknown": "drop"}, "unknown: found 'drop', expected refuse or known"),
  ],
)
def test_wrong_labels_and_options(glove, labels, options, message):
  with pytest.raises(ZsljaxError, match=message):
    label_vectors(labels, glove, **options)


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("a.gz", b"", r"a.gz: found ending '.gz', expected one of .npy .npz .txt"),
    ("a.txt", b"", "a.txt: found no words"),
    ("a.txt", b"3 2\na 1 2\n", "found 1 word, expected 3, as its first line says"),
    ("a.txt", b"a 1 2\nb 1\n", "line 2: found 1 number, expected a word and 2"),
    ("a.txt", b"a 1 2\nb 1 2 3\n", "line 2: found 3 numbers, expected a word and 2"),
    (
      "a.txt",
      b"1 2\na 1 2\nb 1e-3 .5 3\n",
      "line 3: found 3 numbers, expected a word and 2",
    ),
    ("a.txt", b"<html>\n", "line 1: found 0 numbers, expected a word and its numbers"),
    ("a.txt", b"a 1 two\n", "vector of 'a': found .*, expected a row of numbers"),
    ("a.txt", b"a 1 nan\n", "vector of 'a': found (nan|inf)"),
    ("a.txt", b"a 1 1e39\n", "vector of 'a': found (nan|inf)"),
    ("a.txt", b"a 1 2\na 1 3\n", "vector of 'a': found two that differ"),
  ],
  ids=lambda value: str(value)[:30],
)
def test_unusable_file(tmp_path, name, content, message):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ZsljaxError, match=message) as error:
    read_word_vectors(tmp_path / name)
  assert str(error.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    ({}, "found nothing, expected one matrix of numbers, and in .npz one row of texts"),
    ({"w": np.array(WORDS)}, r"found w \(6,\) of <U12, expected one matrix"),
    ({"w": np.array(WORDS), "v": VECTORS, "u": VECTORS}, r"u \(6, 3\) of float32"),
    ({"w": np.array(WORDS), "c": np.array(WORDS), "v": VECTORS}, r"c \(6,\) of <U12"),
    ({"w": np.array(WORDS), "v": VECTORS[:5]}, r"rows for names .*\(5, 3\), .*\[6, V"),
    ({"w": np.array(WORDS), "v": VECTORS / [1, 1, np.nan]}, "'polar': found nan"),
    (VECTORS[0], r"found array \(3,\) of float32, expected one matrix of numbers"),
    (VECTORS > 0, r"found array \(6, 3\) of bool, expected one matrix"),
    (VECTORS[:4], r"rows for names .*\(4, 3\), expected numbers \[2, V\]"),
  ],
)
def test_unusable_arrays(tmp_path, arrays, message):
  path = tmp_path / ("a.npz" if isinstance(arrays, dict) else "a.npy")
  if isinstance(arrays, dict):
    np.savez(path, **arrays)
  else:
    np.save(path, arrays)
    path.with_suffix(".txt").write_text("polar\nbear\n")
  with pytest.raises(ZsljaxError, match=message):
    read_word_vectors(path)


@pytest.mark.filterwarnings("ignore")
@given(st.data())
def test_damage_is_an_error_or_harmless(tmp_path_factory, data):
  file = data.draw(st.sampled_from(FILES))
  path = write(tmp_path_factory.mktemp("words") / file)
  content = bytearray(path.read_bytes())
  at = st.integers(0, len(content) - 1)
  for place, value in data.draw(st.dictionaries(at, st.integers(0, 255))).items():
    content[place] = value
  path.write_bytes(content[: data.draw(at)])
  try:
    found = read_word_vectors(path)
  except ZsljaxError:
    return
  assert all(np.isfinite(vector).all() for vector in found.values())


def test_real_files(real_data):
  folder = real_data / "word_vectors"
  npz = folder / "nus_glove300_1081.npz"
  if not npz.is_file():
    pytest.skip("ZSLJAX_DATA has no word_vectors")
  with np.load(npz) as arrays:
    found = label_vectors(arrays["words"], npz)
    np.testing.assert_array_equal(found.vectors, arrays["vectors"])
