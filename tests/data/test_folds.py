"""Class folds: disjoint, deterministic, every class as often as the others."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from zsljax.classes import ClassSpace
from zsljax.data.folds import class_folds, official_fold
from zsljax.data.store import find
from zsljax.errors import ZsljaxError


def space(seen, unseen):
  count = seen + unseen
  return ClassSpace.create(
    [f"c{i}" for i in range(count)], np.eye(count), np.arange(count) < seen
  )


@given(st.integers(6, 30), st.integers(1, 12), st.integers(0, 99))
def test_folds_share_out_the_seen_classes(seen, unseen, seed):
  labels = np.repeat(np.arange(seen), 7)
  folds = class_folds(labels, space(seen, unseen), 4, seed)
  held_out = [tuple(fold.held_out.tolist()) for fold in folds]
  number = max(1, round(seen * unseen / (seen + unseen)))
  assert len(set(held_out)) == 4 and {len(set(one)) for one in held_out} == {number}
  times = np.bincount(np.concatenate(held_out), minlength=seen)
  assert len(times) == seen and times.max() - times.min() <= 1
  for fold in folds:
    np.testing.assert_array_equal(
      np.sort(np.concatenate([fold.train, fold.val])), np.arange(len(labels))
    )
    assert not np.isin(labels[fold.train], fold.held_out).any()
    of_val = np.bincount(labels[fold.val], minlength=seen)
    assert set(of_val[fold.held_out]) == {7}
    assert set(np.delete(of_val, fold.held_out)) == {1}
  again = class_folds(labels, space(seen, unseen), 4, seed)
  for one, same in zip(folds, again, strict=True):
    np.testing.assert_array_equal(one.val, same.val)


@pytest.mark.parametrize(("seen", "unseen"), [(300, 200), (600, 400), (239, 159)])
def test_folds_of_many_classes_are_found(seen, unseen):
  folds = class_folds(np.repeat(np.arange(seen), 2), space(seen, unseen), 5)
  times = np.bincount(np.concatenate([fold.held_out for fold in folds]))
  assert times.max() - times.min() <= 1


def test_images_with_several_labels_are_held_out_by_a_fifth():
  labels = np.full((50, 3), -1)
  labels[:, 0] = np.arange(50) % 10
  for fold in class_folds(labels, space(10, 3), 3):
    assert len(fold.val) == 10 and len(fold.train) == 40


@pytest.mark.parametrize("drawn", ["epochs", "independent", "class_balanced"])
def test_batches_are_of_the_fold_alone(drawn):
  labels = np.repeat(np.arange(8), 10)
  fold = class_folds(labels, space(8, 3), 2)[0]

  def some(seed):
    batches = fold.batches(labels, drawn, 6, seed)
    return np.stack([next(batches) for _ in range(12)])

  rows = some(0)
  assert np.isin(rows, fold.train).all()
  np.testing.assert_array_equal(rows, some(0))
  assert (rows != some(1)).any()
  assert all(len(set(batch)) == 6 for batch in rows.tolist())
  if drawn == "class_balanced":
    assert all(len(set(batch)) == 6 for batch in labels[rows].tolist())
  if drawn == "epochs":
    epoch = rows[: len(fold.train) // 6].ravel()
    assert len(set(epoch.tolist())) == len(epoch)


def test_whole_epochs_of_a_fold_keep_its_last_batch():
  labels = np.repeat(np.arange(8), 10)
  fold = class_folds(labels, space(8, 3), 2)[0]
  size = len(fold.train) // 2 + 1
  batches = fold.batches(labels, "whole_epochs", size, 0)
  rows = np.concatenate([next(batches), next(batches)])
  assert sorted(rows[rows >= 0]) == fold.train.tolist()
  assert (rows < 0).sum() == 2 * size - len(fold.train)


def test_official_folds_need_published_classes(stand_in, tmp_path):
  stand_in("cub", tmp_path / "published")
  fold = official_fold(find(tmp_path / "published", "cub", None))
  assert fold.held_out.tolist() == [0, 1]
  assert len(np.intersect1d(fold.train, fold.val)) == 0
  stand_in("cub", tmp_path / "drawn", validation_classes=None)
  with pytest.raises(ZsljaxError, match="--folds: found official, but cub has valid"):
    official_fold(find(tmp_path / "drawn", "cub", None))


@pytest.mark.parametrize(
  ("seen", "unseen", "images", "count", "message"),
  [
    (3, 2, 5, 5, "--folds: found 5 with 3 seen classes, of which each holds out 1"),
    (3, 9, 5, 2, "two classes or more left to train on"),
    (6, 2, 1, 3, "--folds: training images of class 0: found 1, expected 2 or more"),
  ],
)
def test_too_little_for_folds_is_refused(seen, unseen, images, count, message):
  labels = np.repeat(np.arange(seen), images)
  with pytest.raises(ZsljaxError, match=message):
    class_folds(labels, space(seen, unseen), count)
