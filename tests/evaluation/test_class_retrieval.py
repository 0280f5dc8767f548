from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from zsljax.errors import ZsljaxError
from zsljax.evaluation.class_retrieval import class_retrieval


def case(seed, images=40, classes=4):
  rng = np.random.default_rng(seed)
  labels = np.sort(rng.integers(0, classes, images))
  scores = rng.standard_normal((images, classes))
  scores[np.arange(images), labels] += 1
  return scores.astype(np.float32), labels


@given(st.integers(0, 1000))
def test_retrieval_is_its_definition(seed):
  scores, labels = case(seed)
  found = class_retrieval(scores, labels)
  expected = {"map": [], 25: [], 50: [], 100: []}
  for c in np.unique(labels):
    own = labels == c
    expected["map"].append(average_precision_score(own, scores[:, c]))
    ranked = own[np.argsort(-scores[:, c])]
    for share in (25, 50, 100):
      first = -(-own.sum() * share // 100)
      expected[share].append(ranked[:first].mean())
  assert found["map"] == pytest.approx(np.mean(expected["map"]))
  for share in (25, 50, 100):
    assert found[f"p@{share}"] == pytest.approx(np.mean(expected[share]))


def released(scores, labels):
  """The released code's loop, by its description, images sorted by class."""
  scores = scores / np.linalg.norm(scores, axis=1, keepdims=True)
  precisions, begin = [], 1
  for c in np.unique(labels):
    count = int((labels == c).sum())
    end = begin + count - 1
    kept = []
    for rank, image in enumerate(np.argsort(-scores[:, c], kind="stable") + 1, 1):
      if begin - 1 <= image <= end and len(kept) < count:
        kept.append((len(kept) + 1) / rank)
    precisions.append(np.mean(kept))
    begin = end + 1
  return np.mean(precisions)


@given(st.integers(0, 1000))
def test_released_variant_takes_one_image_more(seed):
  scores, labels = case(seed)
  found = class_retrieval(scores, labels)
  assert found["map_released"] == pytest.approx(released(scores, labels))


@given(st.integers(0, 100), st.integers(0, 2**31))
def test_order_of_images_does_not_matter_to_the_definition(seed, shuffle):
  scores, labels = case(seed)
  order = np.random.default_rng(shuffle).permutation(len(labels))
  one = class_retrieval(scores, labels)
  other = class_retrieval(scores[order], labels[order])
  for name in ("map", "p@25", "p@50", "p@100"):
    assert one[name] == pytest.approx(other[name])


def test_spoilt_input_is_refused():
  with pytest.raises(ZsljaxError, match="outside the columns, expected 0 to 1"):
    class_retrieval(np.zeros((3, 2)), np.array([0, 1, 2]))
