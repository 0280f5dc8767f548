import numpy as np
import pytest
import sklearn.datasets

from zsljax.data.builtin.digits import (
  ATTRIBUTES,
  UNSEEN,
  VALIDATION,
  VARIANTS,
  attributes,
  patches,
  read_digits,
)
from zsljax.data.feature_set import SPLITS


@pytest.fixture(scope="module")
def digits():
  return read_digits()


def both_values_occur(digits, among):
  """True if each attribute of each digit is present and absent elsewhere."""
  table = attributes()
  rest = table[np.setdiff1d(among, digits)]
  return ((rest == 0).any(0) & (rest == 1).any(0))[table[list(digits)].any(0)].all()


def test_features_are_grey_values(digits):
  assert digits.notes == ()
  source = sklearn.datasets.load_digits()
  assert digits.features.shape == (1797, 64)
  assert digits.features.dtype == np.float32
  assert (digits.features.min(), digits.features.max()) == (0, 1)
  np.testing.assert_array_equal(digits.features * 16, source.data)
  np.testing.assert_array_equal(digits.labels, source.target)


def test_seen_and_unseen_digits(digits):
  rows = np.concatenate([digits.splits[split] for split in SPLITS])
  np.testing.assert_array_equal(np.sort(rows), np.arange(1797))
  seen = np.setdiff1d(np.arange(10), UNSEEN)
  labels = {split: np.unique(digits.labels[digits.splits[split]]) for split in SPLITS}
  np.testing.assert_array_equal(labels["train"], np.setdiff1d(seen, VALIDATION))
  for split in ("val", "test_seen"):
    np.testing.assert_array_equal(labels[split], seen)
  np.testing.assert_array_equal(labels["test_unseen"], UNSEEN)
  np.testing.assert_array_equal(np.flatnonzero(digits.classes.seen), seen)
  assert digits.validation_classes == VALIDATION


def test_a_fifth_of_each_seen_digit_is_held_out(digits):
  total = np.bincount(digits.labels)
  held_out = np.bincount(digits.labels[digits.splits["test_seen"]], minlength=10)
  np.testing.assert_array_equal(held_out, np.where(digits.classes.seen, total // 5, 0))


def test_fourteen_attributes(digits):
  assert digits.classes.attribute_names == ATTRIBUTES
  embeddings = digits.classes.embeddings
  assert embeddings.shape == np.unique(embeddings, axis=0).shape == (10, 14)
  assert set(np.unique(embeddings)) == {0, 1}
  zero = np.array(ATTRIBUTES)[embeddings[0] == 1]
  assert list(zero) == [*(f"segment_{s}" for s in "abcdef"), "large_loop"]


def test_attributes_of_held_out_digits_vary_among_the_others():
  assert both_values_occur(UNSEEN, np.arange(10))
  assert both_values_occur(VALIDATION, np.setdiff1d(np.arange(10), UNSEEN))


def test_patches_equal_a_loop():
  images = np.random.default_rng(0).random((3, 8, 8), np.float32)
  found = patches(images.reshape(3, 64))
  assert found.shape == (3, 9, 25)
  for image in range(3):
    for place in range(9):
      for pixel in range(16):
        down, right = 2 * (place // 3), 2 * (place % 3)
        value = images[image, down + pixel // 4, right + pixel % 4]
        assert found[image, place, pixel] == value
      np.testing.assert_array_equal(found[image, place, 16:], np.eye(9)[place])


def test_patches_differ_from_pixels_in_features_alone(digits):
  regions = read_digits("patches")
  np.testing.assert_array_equal(regions.features, patches(digits.features))
  assert regions.features.dtype == np.float32
  for split in SPLITS:
    np.testing.assert_array_equal(regions.splits[split], digits.splits[split])


@pytest.mark.parametrize("variant", VARIANTS)
def test_fingerprint_is_repeatable(digits, variant):
  fingerprint = read_digits(variant).fingerprint()
  assert read_digits(variant).fingerprint() == fingerprint
  assert (digits.fingerprint() == fingerprint) == (variant == "pixels")
