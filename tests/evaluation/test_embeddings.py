from fractions import Fraction
import itertools
import math
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from zsljax.errors import ZsljaxError
from zsljax.evaluation import embeddings as evaluated
from zsljax.evaluation.embeddings import (
  mean_cosines,
  pair_similarities,
  pair_verification,
  retrieval,
  verification,
)

RATES = (0.1, 0.01, 0.001)
STEPS = 2**19
few_examples = settings(max_examples=10)


def axes_case(seed=0, images=12, size=3, classes=4):
  """Axes, their opposites and a zero vector: many ties, and cosines without error."""
  rng = np.random.default_rng(seed)
  lengths = rng.choice([-4, -1, 1, 2], (images, 1))
  embeddings = lengths * np.eye(size, dtype=np.float32)[rng.integers(0, size, images)]
  embeddings[rng.integers(images)] = 0
  labels = rng.permutation(np.arange(images) % classes) * 3 - 1
  return embeddings, labels


def smooth_case(seed=0, images=37, size=50, classes=5):
  rng = np.random.default_rng(seed)
  labels = np.arange(images) % classes
  centers = rng.standard_normal((classes, size))
  embeddings = centers[labels] + 2 * rng.standard_normal((images, size))
  return embeddings.astype(np.float32), labels


def all_pairs(labels):
  pairs = np.array(list(itertools.combinations(range(len(labels)), 2)))
  return pairs, labels[pairs[:, 0]] == labels[pairs[:, 1]]


def cosine(a, b):
  a, b = a.astype(float), b.astype(float)
  return a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-300)


def assert_same(a, b, atol=0.0):
  """Numbers are equal up to ``atol``."""
  a, b = (x[0] if isinstance(x, tuple) else x for x in (a, b))
  assert a == pytest.approx(b, rel=0, abs=atol)


def naive_verification(scores, same, rates):
  """TAR at each rate, EER, and the curve, by counting."""
  curve = []
  for threshold in [math.inf, *sorted(set(scores), reverse=True)]:
    accepted = scores >= threshold
    far = Fraction(int(np.sum(accepted & ~same)), int(sum(~same)))
    tar = Fraction(int(np.sum(accepted & same)), int(sum(same)))
    curve.append((threshold, far, tar))
  at = {}
  for rate in rates:
    at[f"tar@{rate:g}"] = float(max(t for _, far, t in curve if float(far) <= rate))
  eer = None
  for (_, far, tar), (_, next_far, next_tar) in itertools.pairwise(curve):
    if eer is None and next_far >= 1 - next_tar:
      # FAR and FRR, both linear in the way w from one threshold to the next, meet.
      w = (1 - tar - far) / ((next_far - far) + (next_tar - tar))
      eer = far + w * (next_far - far)
  return at, eer, curve


@given(st.integers(0, 1000), st.booleans())
@few_examples
def test_verification_equals_its_definition(seed, smooth):
  embeddings, labels = smooth_case(seed, 12, 3, 4) if smooth else axes_case(seed)
  found, roc = verification(embeddings, labels)
  pairs, same = all_pairs(labels)
  scores = np.array([cosine(*embeddings[pair]) for pair in pairs])
  scores = np.rint(scores * STEPS) / STEPS
  at, eer, curve = naive_verification(scores, same, RATES)
  expected = at | {"eer": float(eer), "auc": roc_auc_score(same, scores)}
  assert found == pytest.approx(expected, abs=1e-12)
  rows = np.stack([roc["threshold"], roc["far"], roc["tar"]], 1)
  np.testing.assert_allclose(rows, np.array(curve, float), atol=2e-6)


@given(st.integers(0, 1000))
@few_examples
def test_all_pairs_are_the_list_of_all_pairs(seed):
  for embeddings, labels in (axes_case(seed), smooth_case(seed)):
    pairs, same = all_pairs(labels)
    similarities = pair_similarities(embeddings, pairs)
    assert similarities.dtype == np.float32
    expected = [cosine(*embeddings[pair]) for pair in pairs]
    np.testing.assert_allclose(similarities, expected, rtol=0, atol=2e-7)
    listed = pair_verification(similarities, same)
    assert_same(verification(embeddings, labels), listed, atol=2e-3)


def test_verification_by_hand():
  scores = np.array([0.9, 0.8, 0.8, 0.7, 0.6, 0.5, 0.4])
  same = np.array([1, 1, 0, 1, 0, 0, 0], bool)
  found, roc = pair_verification(scores, same)
  assert [found[f"tar@{rate:g}"] for rate in RATES] == [1 / 3] * 3
  assert found["eer"] == 0.25 and found["auc"] == pytest.approx(10.5 / 12)
  assert roc["tar"][roc["far"] <= 0.25][-1] == 1


def test_perfect_useless_and_inverted_scores():
  same = np.array([True, True, False, False, False])
  for scores, eer, auc in ((same * 1.0, 0, 1), (same * 0.0, 0.5, 0.5), (~same, 1, 0)):
    found, _ = pair_verification(scores.astype(np.float32), same)
    assert (found["eer"], found["auc"]) == (eer, auc)
    assert found["tar@0.1"] == float(auc == 1)


def test_thinned_curve_lies_on_the_whole_and_changes_no_number():
  rng = np.random.default_rng(0)
  same = rng.random(20_000) < 0.1
  scores = rng.standard_normal(20_000) + same
  found, roc = pair_verification(scores, same)
  np.testing.assert_allclose(found["auc"], roc_auc_score(same, scores), atol=1e-12)
  far, tar = roc["far"], roc["tar"]
  assert 600 <= len(far) <= 1001 and roc["threshold"][0] == math.inf
  for i in range(1, len(far), 50):
    accepted = scores >= roc["threshold"][i]
    assert far[i] == np.mean(accepted[~same]) and tar[i] == np.mean(accepted[same])
  for rate in (far, tar):
    assert (rate[0], rate[-1]) == (0, 1)
  assert np.diff(tar).max() < 0.05


@given(st.integers(0, 1000), st.integers(4, 8), st.booleans())
@few_examples
def test_retrieval_equals_its_definition(seed, classes, smooth):
  make = smooth_case if smooth else axes_case
  embeddings, labels = make(seed, images=12, classes=classes)
  top_k = (1, 5, 10)
  hits, precisions = dict.fromkeys(top_k, 0), []
  for i in range(12):
    others = [j for j in range(12) if j != i]
    scores = np.array([cosine(embeddings[i], embeddings[j]) for j in others])
    same = labels[others] == labels[i]
    order = np.argsort(-scores, kind="stable")
    for k in top_k:
      hits[k] += same[order[:k]].any()
    if same.any():
      precisions.append(average_precision_score(same, scores))
  found, _ = retrieval(embeddings, labels)
  expected = {f"recall@{k}": n / 12 for k, n in hits.items()}
  assert found == pytest.approx(expected | {"map": np.mean(precisions)})


def test_ties_in_recall_go_to_the_lower_index():
  embeddings = np.eye(3)[np.zeros(12, int)]
  labels = np.array([0, 1, 0, 1] + [2] * 8)
  # The first other image is 0, for image 0 it is 1; five are 0, 1, 2, 3 and 4 (or 5).
  found, _ = retrieval(embeddings, labels)
  share = (4 * 1 + 8 * 7) / 11 / 12
  expected = {"recall@1": 1 / 12, "recall@5": 1, "recall@10": 1, "map": share}
  assert found == pytest.approx(expected)


@given(st.integers(0, 1000), st.booleans())
def test_mean_cosines_equal_their_definition(seed, wide):
  embeddings, labels = smooth_case(seed, 12, 50 if wide else 3, 3)
  embeddings[4] = 0
  labels[0] = 7
  pairs, same = all_pairs(labels)
  cosines = np.array([cosine(*embeddings[pair]) for pair in pairs])
  expected = cosines[same].mean(), cosines[~same].mean()
  np.testing.assert_allclose(mean_cosines(embeddings, labels), expected, atol=1e-6)


@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
@few_examples
def test_blocks_order_and_lengths_do_not_matter(seed, scale):
  embeddings, labels = smooth_case(seed)
  rng = np.random.default_rng(seed)
  rows = rng.permutation(len(labels))
  scales = np.float32(scale) * 2.0 ** rng.integers(-20, 20, (len(labels), 1))
  changed = (embeddings * scales.astype(np.float32))[rows], labels[rows]
  for measure in (verification, retrieval):
    expected = measure(embeddings, labels)
    for block in (1, 3, 37):
      with mock.patch.object(evaluated, "_BLOCK", block):
        assert_same(measure(*changed), expected, atol=2e-3)
  expected = mean_cosines(embeddings, labels)
  np.testing.assert_allclose(mean_cosines(*changed), expected, atol=1e-6)


def test_jax_arrays_and_short_floats_are_taken():
  embeddings, labels = axes_case()
  half = jnp.asarray(embeddings, jnp.bfloat16)  # Small integers: exact.
  for measure in (verification, retrieval):
    assert_same(measure(half, jnp.asarray(labels)), measure(embeddings, labels))


X, Y = axes_case()
BROKEN = X.copy()
BROKEN[3, 1], BROKEN[5] = np.nan, np.inf
SCORES = np.arange(3.0)
SPOILT = [
  *(
    (measure, inputs, message)
    for measure in (verification, retrieval, mean_cosines)
    for inputs, message in (
      ((BROKEN, Y), "embeddings: .* in 2 of 12 rows"),
      ((X, np.arange(12)), "labels: found no (other image|positive pair)"),
      ((X[:0], Y[:0]), "labels: found no (other image|positive pair)"),
    )
  ),
  (verification, (X, np.zeros(12, int)), "labels: found no negative pair"),
  (mean_cosines, (X, np.zeros(12, int)), "labels: found no negative pair"),
  (pair_verification, (SCORES, np.ones(3, bool)), "same: .*no negative"),
  (pair_verification, (SCORES, np.zeros(3, bool)), "same: .*no positive"),
]


@pytest.mark.parametrize(("measure", "inputs", "message"), SPOILT)
def test_spoilt_input_is_refused(measure, inputs, message):
  with pytest.raises(ZsljaxError, match=message):
    measure(*inputs)
