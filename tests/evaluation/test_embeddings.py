import dataclasses
from fractions import Fraction
import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from zsljax.devices.mesh import make_mesh
from zsljax.errors import ZsljaxError
from zsljax.evaluation.embeddings import (
  cosine_statistics,
  pair_similarities,
  pair_verification,
  retrieval,
  verification,
)

RATES = (0.5, 0.2, 0.1, 0.0)
few_examples = settings(max_examples=10)


def case(seed=0, images=12, size=3, classes=4):
  """Small integers: many ties, equal images and a zero vector."""
  rng = np.random.default_rng(seed)
  embeddings = rng.integers(-2, 3, (images, size)).astype(np.float32)
  embeddings[rng.integers(images)] = 0
  labels = rng.permutation(np.arange(images) % classes) * 3 - 1
  return embeddings, labels


def smooth_case(seed=0, images=37, size=50, classes=5):
  rng = np.random.default_rng(seed)
  labels = np.arange(images) % classes
  centers = rng.standard_normal((classes, size))
  embeddings = centers[labels] + 2 * rng.standard_normal((images, size))
  return embeddings.astype(np.float32), labels


def all_pairs(count):
  return np.array(list(itertools.combinations(range(count), 2)))


def exact_similarity(a, b):
  """The cosine of two rounded directions in steps of 2^-22, in whole numbers."""

  def direction(x):
    x = [float(v) for v in x]
    length = math.sqrt(math.fsum(v * v for v in x)) or 1.0
    return [round(v / length * 2**26) for v in x]

  dot = sum(p * q for p, q in zip(direction(a), direction(b), strict=True))
  return min(max(round(Fraction(dot, 2**30)), -(2**22)), 2**22) / 2**22


def cosine(a, b):
  a, b = a.astype(float), b.astype(float)
  return a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-300)


def same_fields(a, b, **tolerance):
  """Whether two results are equal, or close where a tolerance is given."""
  check = np.testing.assert_allclose if tolerance else np.testing.assert_array_equal
  one, other = (jax.tree.leaves(dataclasses.asdict(x)) for x in (a, b))
  for x, y in zip(one, other, strict=True):
    check(x, y, **tolerance)


def naive_verification(scores, same, rates):
  """TAR and its threshold at each rate, EER, and the curve, by counting."""
  curve = []
  for threshold in [math.inf, *sorted(set(scores), reverse=True)]:
    accepted = [s >= threshold for s in scores]
    far = Fraction(sum(a and not y for a, y in zip(accepted, same, strict=True)))
    tar = Fraction(sum(a and y for a, y in zip(accepted, same, strict=True)))
    curve.append((threshold, far / sum(~same), tar / sum(same)))
  at = {}
  for rate in rates:
    tar = max(tar for _, far, tar in curve if float(far) <= rate)
    at[rate] = tar, max(t for t, _, reached in curve if reached == tar)
  eer = None
  for (_, far, tar), (_, next_far, next_tar) in itertools.pairwise(curve):
    if eer is None and next_far >= 1 - next_tar:
      # FAR and FRR, both linear in the way w from one threshold to the next, meet.
      w = (1 - tar - far) / ((next_far - far) + (next_tar - tar))
      eer = far + w * (next_far - far)
  return at, eer, curve


@given(st.integers(0, 1000))
def test_similarities_are_exact(seed):
  embeddings, _ = case(seed)
  pairs = all_pairs(len(embeddings))
  found = pair_similarities(embeddings, pairs)
  assert found.dtype == np.float32
  expected = [exact_similarity(*embeddings[pair]) for pair in pairs]
  np.testing.assert_array_equal(found, expected)


def test_similarities_are_cosines():
  embeddings, _ = smooth_case()
  pairs = all_pairs(len(embeddings))
  expected = [cosine(*embeddings[pair]) for pair in pairs]
  found = pair_similarities(embeddings, pairs)
  np.testing.assert_allclose(found, expected, rtol=0, atol=2**-22)


@given(st.integers(0, 1000), st.booleans())
@few_examples
def test_verification_equals_its_definition(seed, smooth):
  embeddings, labels = smooth_case(seed, 12, 3, 4) if smooth else case(seed)
  found = verification(embeddings, labels, RATES)
  pairs = all_pairs(len(labels))
  scores = np.array([exact_similarity(*embeddings[pair]) for pair in pairs])
  same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
  at, eer, curve = naive_verification(scores, same, RATES)
  assert found.tar == {rate: float(tar) for rate, (tar, _) in at.items()}
  assert found.threshold == {rate: threshold for rate, (_, threshold) in at.items()}
  np.testing.assert_allclose(found.eer, float(eer), atol=1e-12)
  np.testing.assert_allclose(found.auc, roc_auc_score(same, scores), atol=1e-12)
  assert (found.positives, found.negatives) == (sum(same), sum(~same))
  rows = zip(found.roc.thresholds, found.roc.far, found.roc.tar, strict=True)
  assert list(rows) == [(t, float(far), float(tar)) for t, far, tar in curve]


@given(st.integers(0, 1000))
@few_examples
def test_all_pairs_are_the_list_of_all_pairs(seed):
  embeddings, labels = case(seed)
  pairs = all_pairs(len(labels))
  same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
  listed = pair_verification(pair_similarities(embeddings, pairs), same, RATES)
  same_fields(verification(embeddings, labels, RATES), listed)


def test_verification_by_hand():
  scores = np.array([0.9, 0.8, 0.8, 0.7, 0.6, 0.5, 0.4])
  same = np.array([1, 1, 0, 1, 0, 0, 0], bool)
  found = pair_verification(scores, same, (0.0, 0.24, 0.25, 0.5, 1.0))
  assert found.tar == {0.0: 1 / 3, 0.24: 1 / 3, 0.25: 1.0, 0.5: 1.0, 1.0: 1.0}
  assert found.threshold == {0.0: 0.9, 0.24: 0.9, 0.25: 0.7, 0.5: 0.7, 1.0: 0.7}
  assert found.eer == 0.25
  np.testing.assert_allclose(found.auc, 10.5 / 12)


def test_perfect_useless_and_inverted_scores():
  same = np.array([True, True, False, False, False])
  for scores, eer, auc in ((same * 1.0, 0, 1), (same * 0.0, 0.5, 0.5), (~same, 1, 0)):
    found = pair_verification(scores.astype(np.float32), same, (0.1,))
    assert (found.eer, found.auc) == (eer, auc)
    assert found.tar == {0.1: float(auc == 1)}
    assert (found.threshold[0.1] == math.inf) == (auc < 1)


def test_thinned_curve_lies_on_the_whole_and_changes_no_number():
  rng = np.random.default_rng(0)
  same = rng.random(5000) < 0.1
  scores = rng.standard_normal(5000) + same
  whole = pair_verification(scores, same, roc_points=10**6)
  thin = pair_verification(scores, same, roc_points=100)
  same_fields(dataclasses.replace(whole, roc=thin.roc), thin)
  assert len(whole.roc.far) == 5001 and 60 <= len(thin.roc.far) <= 101
  points = set(zip(*dataclasses.astuple(whole.roc), strict=True))
  assert points > set(zip(*dataclasses.astuple(thin.roc), strict=True))
  assert thin.roc.thresholds[0] == math.inf
  for rate in (thin.roc.far, thin.roc.tar):
    assert (rate[0], rate[-1]) == (0, 1)
  assert np.diff(thin.roc.tar).max() < 0.05


def naive_retrieval(embeddings, labels, ranked, ranked_labels, top_k, leave_out):
  hits, precisions = {k: 0 for k in top_k}, []
  for i, (query, label) in enumerate(zip(embeddings, labels, strict=True)):
    others = [j for j in range(len(ranked)) if not (leave_out and j == i)]
    scores = np.array([exact_similarity(query, ranked[j]) for j in others])
    same = np.array([ranked_labels[j] == label for j in others])
    order = sorted(range(len(others)), key=lambda j, s=scores: (-s[j], j))
    for k in top_k:
      hits[k] += same[order[:k]].any()
    if same.any():
      precisions.append(average_precision_score(same, scores))
  return {k: n / len(labels) for k, n in hits.items()}, precisions


@given(st.integers(0, 1000), st.integers(4, 8))
@few_examples
def test_retrieval_equals_its_definition(seed, classes):
  embeddings, labels = case(seed, classes=classes)
  found = retrieval(embeddings, labels, (1, 2, 5, 50))
  recall, precisions = naive_retrieval(
    embeddings, labels, embeddings, labels, (1, 2, 5, 50), leave_out=True
  )
  assert found.recall == recall
  np.testing.assert_allclose(found.mean_average_precision, np.mean(precisions))
  assert found.queries == 12
  assert found.without_match == 12 - len(precisions)


@given(st.integers(0, 1000))
@few_examples
def test_retrieval_from_a_gallery_equals_its_definition(seed):
  embeddings, labels = case(seed, classes=5)
  gallery = case(seed + 1, images=9, classes=4)
  found = retrieval(embeddings, labels, (1, 3), gallery=gallery)
  recall, precisions = naive_retrieval(
    embeddings, labels, *gallery, (1, 3), leave_out=False
  )
  assert found.recall == recall
  np.testing.assert_allclose(found.mean_average_precision, np.mean(precisions))
  assert found.without_match == np.sum(labels == 11) == 2


def test_ties_in_recall_go_to_the_lower_index():
  embeddings = np.ones((12, 3), np.float32)
  labels = np.array([0, 1, 0, 1] + [2] * 8)
  # The first other image is 0, for image 0 it is 1.
  found = retrieval(embeddings, labels, (1, 2, 3))
  np.testing.assert_allclose(
    [found.recall[k] for k in (1, 2, 3)], np.array([1, 3, 4]) / 12
  )
  share = (4 * 1 + 8 * 7) / 11 / 12
  np.testing.assert_allclose(found.mean_average_precision, share)


@given(st.integers(0, 1000), st.booleans())
def test_statistics_equal_their_definition(seed, wide):
  # Classes of more images than dimensions, and of fewer.
  embeddings, labels = smooth_case(seed, 12, 50 if wide else 3, 3)
  embeddings[4] = 0
  labels[0] = 7
  intra, inter = {}, []
  for i, j in all_pairs(12):
    value = cosine(embeddings[i], embeddings[j])
    if labels[i] == labels[j]:
      intra.setdefault(labels[i], []).append(value)
    else:
      inter.append(value)
  together = sum(intra.values(), [])
  np.testing.assert_allclose(
    dataclasses.astuple(cosine_statistics(embeddings, labels)),
    [
      np.mean(together),
      np.std(together),
      np.mean([np.mean(values) for values in intra.values()]),
      np.mean(inter),
      np.std(inter),
    ],
    atol=1e-7,
  )


def test_statistics_of_equal_images_do_not_vary():
  found = cosine_statistics(np.repeat(np.eye(2), 3, 0), np.repeat([0, 1], 3))
  np.testing.assert_allclose(dataclasses.astuple(found), [1, 0, 1, 0, 0], atol=1e-7)


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_blocks_and_devices_change_nothing(devices):
  embeddings, labels = smooth_case()
  embeddings[5] = embeddings[20]
  gallery = embeddings[::-1], labels[::-1]
  expected = [
    verification(embeddings, labels),
    retrieval(embeddings, labels),
    retrieval(embeddings[:30], labels[:30], gallery=gallery),
  ]
  mesh = make_mesh(devices)
  for block in (1, 3, 37):
    options = {"block": block, "mesh": mesh}
    for found, value in zip(
      [
        verification(embeddings, labels, **options),
        retrieval(embeddings, labels, **options),
        retrieval(embeddings[:30], labels[:30], gallery=gallery, **options),
      ],
      expected,
      strict=True,
    ):
      same_fields(found, value)


@given(st.integers(0, 1000))
@few_examples
def test_order_and_powers_of_two_change_nothing(seed):
  embeddings, labels = smooth_case(seed)
  rng = np.random.default_rng(seed)
  rows = rng.permutation(len(labels))
  scale = 2.0 ** rng.integers(-30, 30, (len(labels), 1)).astype(np.float32)
  changed = (embeddings * scale)[rows]
  same_fields(
    verification(embeddings, labels, RATES), verification(changed, labels[rows], RATES)
  )
  for measure in (retrieval, cosine_statistics):
    before, after = measure(embeddings, labels), measure(changed, labels[rows])
    same_fields(before, after, atol=1e-12)


@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
@few_examples
def test_lengths_do_not_matter(seed, scale):
  embeddings, labels = smooth_case(seed)
  scaled = embeddings * np.float32(scale)
  found, expected = (verification(x, labels) for x in (scaled, embeddings))
  np.testing.assert_allclose(found.auc, expected.auc, atol=1e-3)
  same_fields(
    cosine_statistics(scaled, labels), cosine_statistics(embeddings, labels), atol=1e-6
  )


def test_jax_arrays_and_short_floats_are_taken():
  embeddings, labels = case()
  half = jnp.asarray(embeddings, jnp.bfloat16)  # Small integers: exact.
  labels_there = jnp.asarray(labels)
  same_fields(verification(half, labels_there), verification(embeddings, labels))
  same_fields(retrieval(half, labels_there), retrieval(embeddings, labels))
  assert not jax.config.jax_enable_x64


@pytest.mark.parametrize("measure", [verification, retrieval, cosine_statistics])
def test_what_cannot_be_used_is_refused(measure):
  embeddings, labels = case()
  broken = embeddings.copy()
  broken[3, 1], broken[5] = np.nan, np.inf
  with pytest.raises(ZsljaxError, match="embeddings: .* in 2 of 12 rows"):
    measure(broken, labels)
  with pytest.raises(ZsljaxError, match=r"labels: .*\(11,\).* shape \(12,\)"):
    measure(embeddings, labels[1:])
  with pytest.raises(ZsljaxError, match="labels: found float"):
    measure(embeddings, labels / 2)
  with pytest.raises(ZsljaxError, match=r"embeddings: found shape \(12,\)"):
    measure(embeddings[:, 0], labels)
  missing = "no other image" if measure is retrieval else "no positive pair"
  for some in (slice(None), slice(0, 1), slice(0, 0)):
    with pytest.raises(ZsljaxError, match=f"labels: found {missing}"):
      measure(embeddings[some], np.arange(12)[some])


@pytest.mark.parametrize("measure", [verification, cosine_statistics])
def test_one_class_has_no_negative_pair(measure):
  with pytest.raises(ZsljaxError, match="labels: found no negative pair"):
    measure(case()[0], np.zeros(12, int))


def test_one_class_can_be_retrieved():
  found = retrieval(case()[0], np.zeros(12, int), (1,))
  assert (found.recall, found.mean_average_precision) == ({1: 1.0}, 1.0)


def test_pairs_and_options_that_cannot_be_used_are_refused():
  embeddings, labels = case()
  scores, same = np.arange(3.0), np.array([True, False, True])
  for found, message in (
    (lambda: pair_verification(scores, ~np.zeros(3, bool)), "same: .*no negative"),
    (lambda: pair_verification(scores, np.zeros(3, bool)), "same: .*no positive"),
    (lambda: pair_verification(scores, same[1:]), r"same: .*\(2,\)"),
    (lambda: pair_verification(scores, same * 1), "same: found int64"),
    (lambda: pair_verification(scores / 0 * 0, same), "scores: .* 3 of 3 pairs"),
    (lambda: pair_verification(scores[None], same), r"scores: .*\(1, 3\)"),
    (lambda: pair_verification(scores, same, (1.5,)), "false_accept_rates: .*1.5"),
    (lambda: verification(embeddings, labels, (-1,)), "false_accept_rates"),
    (lambda: pair_similarities(embeddings, [[0, 12]]), "pairs: .* 0 to 11"),
    (lambda: pair_similarities(embeddings, [[-1, 2]]), "pairs: .* out of range"),
    (lambda: pair_similarities(embeddings, [0, 1]), r"pairs: .*\(2,\)"),
    (lambda: verification(embeddings, labels, block=0), "block: found 0"),
    (lambda: retrieval(embeddings, labels, (0, 1)), "top_k"),
    (
      lambda: retrieval(embeddings, labels, gallery=(embeddings, labels[1:])),
      "gallery labels",
    ),
    (
      lambda: retrieval(embeddings, labels, gallery=(embeddings[:, 1:], labels)),
      r"gallery embeddings: .*\(12, 2\)",
    ),
    (
      lambda: retrieval(embeddings, labels, gallery=(embeddings, labels + 100)),
      "no gallery image",
    ),
  ):
    with pytest.raises(ZsljaxError, match=message), np.errstate(all="ignore"):
      found()
