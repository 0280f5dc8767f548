from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from zsljax.data.feature_set import hold_out_validation
from zsljax.errors import ZsljaxError


@given(
  counts=st.lists(st.integers(1, 17), min_size=2, max_size=6),
  held_out=st.integers(0, 5),
  seed=st.integers(0, 2**31),
)
def test_hold_out_validation(counts, held_out, seed):
  held_out %= len(counts)
  rng = np.random.default_rng(seed)
  labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
  trainval = rng.permutation(len(labels))
  train, val = hold_out_validation(labels, trainval, [held_out], seed)
  np.testing.assert_array_equal(np.union1d(train, val), np.arange(len(labels)))
  assert len(train) + len(val) == len(labels)
  expected = [n if c == held_out else n // 5 for c, n in enumerate(counts)]
  found = np.bincount(labels[val], minlength=len(counts))
  np.testing.assert_array_equal(found, expected)


def test_hold_out_validation_depends_on_seed_and_trainval_alone():
  labels = np.repeat(np.arange(4), 20)
  rows = np.arange(80)

  def val(seed, order=rows):
    return hold_out_validation(labels, order, [3], seed)[1].tolist()

  assert val(1) == val(1, rows[::-1]) != val(2)
  parts = hold_out_validation(labels, rows[1::2], [3], 0)
  np.testing.assert_array_equal(np.union1d(*parts), rows[1::2])


@pytest.mark.parametrize(
  "change",
  [
    {"seed": 1},
    {"dtype": np.float64},
    {"embeddings": np.eye(6, 3)},
    {"attribute_vectors": np.ones((3, 2))},
    {"split_seed": 1},
    {"validation_classes": (3,)},
  ],
  ids=lambda change: next(iter(change)),
)
def test_fingerprint_tells_sets_apart(feature_set, change):
  assert feature_set(**change).fingerprint() != feature_set().fingerprint()


def test_names_do_not_enter_the_fingerprint(feature_set):
  renamed = feature_set(name="other", class_names="uvwxyz", notes=["odd"])
  assert renamed.fingerprint() == feature_set().fingerprint()


def test_validation_classes_are_drawn_from_the_seen(feature_set):
  drawn = [feature_set(validation_classes=None, split_seed=s) for s in range(8)]
  classes = {found.validation_classes for found in drawn}
  assert len(classes) > 1
  assert set().union(*classes) <= {0, 1, 3, 4}
  assert all("No validation classes follow" in found.notes[-1] for found in drawn)


def test_classes_without_test_image_are_named(feature_set):
  whole = feature_set()
  assert not any("no test image" in note for note in whole.notes)
  rows = whole.splits["test_seen"]
  found = feature_set(test_seen=rows[whole.labels[rows] != 1])
  (note,) = [note for note in found.notes if "no test image" in note]
  assert note.startswith("1 seen class has no test image")
  assert note.endswith(": bat.")


LABELS = np.repeat([0, 1], 10)
ONE_SEEN = {
  "features": np.random.default_rng(0).random((20, 5), np.float32),
  "labels": LABELS,
  "class_names": ("ape", "bat"),
  "embeddings": np.eye(2, 3),
  "trainval": np.arange(8),
  "test_seen": np.arange(8, 10),
  "test_unseen": np.arange(10, 20),
  "validation_classes": None,
}


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"validation_classes": (2,)}, "validation classes: found .*'cow'.*unseen"),
    ({"features": np.zeros((66, 5), int)}, "features: found dtype int64"),
    ({"features": np.zeros((66, 0))}, r"features: found shape \(66, 0\)"),
    ({"features": np.zeros((66, 2, 2, 2))}, r"features: found shape \(66, 2, 2, 2\)"),
    *(
      ({part: np.array([0, row])}, f"{part}: found 1 row outside the 66 images .{row}")
      for part in ("trainval", "test_seen", "test_unseen")
      for row in (-1, 66)
    ),
    (
      {"labels": np.full(66, -1)},
      "labels: found 66 outside .* 6 classes .at image 0, ",
    ),
    (ONE_SEEN, "validation classes: found all seen classes"),
    (
      ONE_SEEN | {"class_names": "abc", "embeddings": np.eye(3)},
      "found 1 of 3 classes .'c'. that have no image in trainval or test_unseen",
    ),
    (
      ONE_SEEN | {"labels": np.repeat(0, 20)},
      "1 class .'ape'. with images in both trainval and test_unseen",
    ),
  ],
)
def test_refused(feature_set, options, message):
  with pytest.raises(ZsljaxError, match=f"^small files:? ?.*{message}"):
    feature_set(**options)


def test_constant_images_are_counted_across_blocks(feature_set):
  rng = np.random.default_rng(0)
  features = rng.random((6 * 1000, 2), np.float32)
  features[[4095, 4096, 5999]] = 1
  found = feature_set(per_class=1000, features=features)
  assert "3 images have constant features (first at image 4095," in found.notes[0]
