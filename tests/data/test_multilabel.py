import os
import pathlib

import numpy as np
import pytest
import scipy.sparse

from zsljax.data import (
  StoredDataset,
  evaluation_batches,
  make_multilabel_set,
  prepare,
  read_multilabel,
)
from zsljax.data.describe import describe
from zsljax.data.feature_set import MULTI_LABEL_SPLITS
from zsljax.data.labels import ids_where, padded_ids, sparse_labels
from zsljax.errors import ZsljaxError

CORELS = pathlib.Path(os.environ.get("ZSLJAX_DATA") or "absent") / "corel5k/corel5k.npz"
NAMES = ("sky", "water", "tree", "bear", "car", "boat")
IMAGES = 40


def random_labels(absences=True, seed=0):
  rng = np.random.default_rng(seed)
  low = -1 if absences else 0
  return rng.integers(low, 2, (IMAGES, len(NAMES))).astype(np.int8)


def parts(**changed):
  rng = np.random.default_rng(0)
  return {
    "name": "made_up",
    "features_kind": "random",
    "class_embedding": "words",
    "split_version": "made up",
    "features": rng.standard_normal((IMAGES, 3)).astype(np.float32),
    "labels": scipy.sparse.csr_array(random_labels()),
    "label_names": NAMES,
    "vectors": rng.standard_normal((len(NAMES), 4)),
    "seen": np.array([True, True, True, False, True, False]),
    "trainval": np.arange(30),
    "test": np.arange(30, IMAGES),
    "where": "made up",
    "sources": {},
  } | changed


def test_labels_read_back():
  dense = random_labels()
  sparse = sparse_labels(
    [np.flatnonzero(row == 1) for row in dense],
    len(NAMES),
    [np.flatnonzero(row == -1) for row in dense],
  )
  np.testing.assert_array_equal(sparse.toarray(), dense)
  for value in (1, -1):
    ids = padded_ids(dense, value)
    assert ids.shape[1] == (dense == value).sum(1).max()
    for i, row in enumerate(dense):
      np.testing.assert_array_equal(ids[i][ids[i] >= 0], np.flatnonzero(row == value))
      np.testing.assert_array_equal(
        ids_where(sparse, i, value), np.flatnonzero(row == value)
      )


def test_splits_and_validation():
  made = make_multilabel_set(**parts())
  assert tuple(made.splits) == MULTI_LABEL_SPLITS
  assert [len(made.splits[s]) for s in MULTI_LABEL_SPLITS] == [24, 6, 10]
  assert made.multi_label and len(made.validation_classes) == 1
  assert made.classes.seen[list(made.validation_classes)].all()
  fold = made.classes.validation_fold(made.validation_classes)
  assert len(fold) == 4 and (~fold.seen).sum() == 1
  again = make_multilabel_set(**parts(split_seed=1))
  assert again.fingerprint() != made.fingerprint()
  assert make_multilabel_set(**parts()).fingerprint() == made.fingerprint()


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    (
      {"labels": scipy.sparse.csr_array(random_labels()[:, :5])},
      r"labels of the images: found shape \(40, 5\), expected \(40, 6\)",
    ),
    ({"label_names": ()}, "labels: found an empty list, expected at least one"),
    (
      {"labels": scipy.sparse.csr_array(3 * random_labels())},
      r"labels of the images: found \[-3, 3\], expected 1 \(present\)",
    ),
    ({"vectors": np.ones((5, 4))}, r"found shape \(5, 4\), expected one row for each"),
    ({"seen": np.ones(6, bool)}, "unseen labels: found 0 of 6, expected some"),
    ({"test": np.arange(29, 40)}, "train and test: found 1 image in both"),
    (
      {
        "labels": scipy.sparse.csr_array(np.r_[random_labels()[:30], np.zeros((10, 6))])
      },
      "labels of the test images: found no label present, expected some",
    ),
    (
      {"labels": scipy.sparse.csr_array(-np.abs(random_labels()))},
      "labels of the training images: found no seen label present, expected some",
    ),
    ({"validation_classes": [3]}, r"validation classes: found \['bear'\], unseen"),
    (
      {"validation_classes": [0, 1, 2, 4]},
      "validation classes: found all seen classes",
    ),
  ],
)
def test_bad_parts_are_named(changed, message):
  with pytest.raises(ZsljaxError, match=message):
    make_multilabel_set(**parts(**changed))


def test_oddities_are_noted():
  labels = random_labels()
  labels[:, [0, 3]] = 0
  labels[1] = 0
  made = make_multilabel_set(**parts(labels=scipy.sparse.csr_array(labels)))
  notes = " ".join(made.notes)
  assert "1 seen label has no training image: sky." in notes
  assert "1 unseen label has no test image (their AP is 0): bear." in notes
  assert "training images have no seen label" in notes


@pytest.mark.parametrize("absences", [True, False])
def test_stored_set_reads_back(absences, tmp_path):
  dense = random_labels(absences)
  made = make_multilabel_set(**parts(labels=scipy.sparse.csr_array(dense)))
  stored = prepare(made, tmp_path)
  assert stored.multi_label and stored.splits == MULTI_LABEL_SPLITS
  assert stored.test_splits == ("test",)
  widths = stored.metadata["label_widths"]
  assert widths.get("absent") == ((dense == -1).sum(1).max() if absences else None)
  found = list(evaluation_batches(stored, stored.splits, 16))
  assert [batch["mask"].sum() for batch in found] == [16, 16, 8]
  table = {
    name: np.concatenate([batch[name][batch["mask"]] for batch in found])
    for name in found[0]
  }
  assert ("absent" in table) == absences
  row_of = {tuple(row): i for i, row in enumerate(made.features)}
  rows = [row_of[tuple(features)] for features in table["features"]]
  assert sorted(rows) == list(range(IMAGES))
  for name, value in [("labels", 1)] + [("absent", -1)] * absences:
    assert table[name].dtype == np.int32
    for ids, row in zip(table[name], rows, strict=True):
      np.testing.assert_array_equal(ids[ids >= 0], np.flatnonzero(dense[row] == value))
  opened = StoredDataset.open(stored.folder)
  assert opened.classes.names == NAMES
  assert "absent: annotated" in describe(opened) or not absences
  assert "several an image" in describe(opened)


def write_npz(path, **changed):
  dense = random_labels()
  rng = np.random.default_rng(1)
  arrays = {
    "X_train": rng.integers(0, 2, (30, 5)).astype(np.uint8),
    "Y_train": dense[:30],
    "X_test": rng.integers(0, 2, (10, 5)).astype(np.uint8),
    "Y_test": dense[30:],
    "labels": np.array(NAMES),
    "vectors": rng.standard_normal((len(NAMES), 4)).astype(np.float32),
  } | changed
  np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
  return path


def test_npz_is_imported(tmp_path):
  source = write_npz(tmp_path / "made_up.npz")
  made = read_multilabel(source)
  assert (made.name, made.class_embedding) == ("made_up", "vectors")
  np.testing.assert_array_equal(made.labels.toarray(), random_labels())
  np.testing.assert_array_equal(made.splits["test"], np.arange(30, 40))
  assert made.features.dtype == np.float32
  # The fifth of the sorted names.
  assert np.array(made.classes.names)[~made.classes.seen].tolist() == ["tree"]
  assert made.split_version == "every_fifth"
  assert list(made.sources) == ["made_up.npz"]


def test_npz_with_a_list_of_the_labels_that_have_vectors(tmp_path):
  vectors = np.random.default_rng(2).standard_normal((5, 7))
  source = write_npz(
    tmp_path / "a.npz",
    vectors=None,
    labels_with_glove=np.array(["boat", "sky", "bear", "tree", "water"]),
    glove7=vectors,
  )
  made = read_multilabel(source, name="other")
  assert (made.name, made.class_embedding) == ("other", "glove7")
  assert made.classes.names == ("boat", "sky", "bear", "tree", "water")
  np.testing.assert_array_equal(made.classes.embeddings, vectors)
  columns = [NAMES.index(name) for name in made.classes.names]
  np.testing.assert_array_equal(made.labels.toarray(), random_labels()[:, columns])
  assert "1 of 6 labels have no vector and are left out: car." in made.notes


def test_unseen_labels_from_the_file_or_a_list(tmp_path):
  source = write_npz(tmp_path / "a.npz", unseen=np.array(["sky", "car"]))
  made = read_multilabel(source)
  np.testing.assert_array_equal(np.flatnonzero(~made.classes.seen), [0, 4])
  listed = tmp_path / "unseen.txt"
  listed.write_text("boat\n\nwater\n")
  made = read_multilabel(source, unseen=listed)
  np.testing.assert_array_equal(np.flatnonzero(~made.classes.seen), [1, 5])
  assert made.split_version == "as_given"
  assert set(made.sources) == {"a.npz", "unseen.txt"}


def test_word_vectors_from_a_file(tmp_path):
  source = write_npz(tmp_path / "a.npz", vectors=None)
  words = tmp_path / "tiny.txt"
  lines = [f"{name} {i} {i + 1} 0.5" for i, name in enumerate(NAMES)]
  words.write_text("\n".join(lines[:-1]) + "\n")
  with pytest.raises(ZsljaxError, match="boat"):
    read_multilabel(source, word_vectors=words)
  made = read_multilabel(source, word_vectors=words, unknown="known_words")
  assert made.class_embedding == "tiny"
  assert made.classes.names == NAMES[:-1]
  left_out = [note for note in made.notes if "left out" in note]
  assert left_out == [
    "Labels that are left out (1 of 6), as no word of them is in tiny.txt: 'boat'."
  ]
  np.testing.assert_allclose(made.classes.embeddings[1], [1, 2, 0.5])


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"Y_test": None}, "no field Y_test"),
    ({"Y_train": random_labels()[:30, :4]}, r"shape \(30, 4\), .* \[30, 6\]: a row"),
    ({"labels": np.array([*NAMES[:5], "sky"])}, r"labels: found \['sky'\] more than"),
    ({"Y_train": np.full((30, 6), 0.5)}, r"Y_train: found 0.5 \(180 such\)"),
    ({"X_test": np.ones((10, 4))}, r"X_test: .*shape \(10, 4\).* \[N, 5\] as in X_t"),
    ({"vectors": np.ones((3, 4))}, r"vectors: found .* expected numbers \[6, V\]"),
    ({"vectors": None}, "found no vectors of the labels, expected a field `vectors`"),
    ({"unseen": np.array(["sun"])}, "unseen: found 'sun', expected labels of the set"),
    ({"unseen": np.ones(2)}, "unseen: found float64 of shape"),
    (
      {"vectors": None, "labels_with_w": np.array(["sun"]), "w2": np.ones((1, 2))},
      "labels_with_w: found 'sun', expected names that are in `labels`",
    ),
  ],
)
def test_bad_npz_is_named(changed, message, tmp_path):
  with pytest.raises(ZsljaxError, match=message) as error:
    read_multilabel(write_npz(tmp_path / "a.npz", **changed))
  assert "a.npz" in str(error.value)


@pytest.mark.skipif(not CORELS.is_file(), reason="ZSLJAX_DATA names no folder with it")
def test_corel5k():
  made = read_multilabel(CORELS)
  assert made.labels.shape == (5000, 304)
  assert (made.classes.seen.sum(), (~made.classes.seen).sum()) == (244, 60)
  names = sorted(made.classes.names)
  hidden = {names[i] for i in range(4, 304, 5)}
  unseen = {
    n for n, s in zip(made.classes.names, made.classes.seen, strict=True) if not s
  }
  assert unseen == hidden
  assert [len(made.splits[s]) for s in MULTI_LABEL_SPLITS] == [3600, 900, 500]
