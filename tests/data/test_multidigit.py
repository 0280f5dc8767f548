import numpy as np
import pytest

from zsljax.data.builtin.digits import UNSEEN, read_digits
from zsljax.data.builtin.multidigit import SIZES, read_multidigit


@pytest.fixture(scope="module")
def canvases():
  return read_multidigit()


def quarters(canvas):
  return canvas.reshape(2, 8, 2, 8).transpose(0, 2, 1, 3).reshape(4, 64)


def test_each_canvas_shows_the_digits_that_it_is_labelled_with(canvases):
  digits = read_digits()
  label_of = {
    image.tobytes(): label
    for image, label in zip(digits.features, digits.labels, strict=True)
  }
  labels = canvases.labels.toarray()
  for canvas, row in zip(canvases.features, labels, strict=True):
    shown = [label_of[q.tobytes()] for q in quarters(canvas) if q.any()]
    assert len(set(shown)) == len(shown)
    np.testing.assert_array_equal(np.sort(shown), np.flatnonzero(row))
  counts = np.bincount(labels.sum(1))
  assert counts[0] == 0 and np.all(counts[1:] > 1000) and len(counts) == 5


def test_unseen_digits_are_on_test_canvases_alone(canvases):
  labels = canvases.labels.toarray()
  shown = {
    name: labels[rows][:, UNSEEN].sum() for name, rows in canvases.splits.items()
  }
  assert shown["train"] == shown["val"] == 0 < shown["test"]
  np.testing.assert_array_equal(np.flatnonzero(~canvases.classes.seen), UNSEEN)
  assert {name: len(rows) for name, rows in canvases.splits.items()} == SIZES


def test_no_digit_image_is_in_two_splits(canvases):
  images = {
    name: {q.tobytes() for i in rows for q in quarters(canvases.features[i]) if q.any()}
    for name, rows in canvases.splits.items()
  }
  assert not images["train"] & images["val"]
  assert not images["train"] & images["test"]
  assert not images["val"] & images["test"]


def test_it_is_the_same_every_time(canvases):
  assert read_multidigit().fingerprint() == canvases.fingerprint()
