from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zsljax.classes import ClassSpace
from zsljax.errors import ZsljaxError


@given(st.permutations(range(12)), st.integers(1, 12))
def test_positions_invert_ids_in_any_order(ids, count):
  ids = np.array(ids[:count])
  space = ClassSpace.create([str(i) for i in ids], np.eye(count), ids=ids)
  np.testing.assert_array_equal(space.positions(ids), np.arange(count))
  strangers = np.setdiff1d(np.arange(-1, 14), ids)
  np.testing.assert_array_equal(space.positions(strangers), np.full(len(strangers), -1))


def test_columns_refuse_a_label_that_is_no_class(class_space):
  space = class_space()
  np.testing.assert_array_equal(space.columns(space.ids), np.arange(6))
  message = r"labels: found \[99\] \(2 such labels\), expected ids of the 6 classes"
  with pytest.raises(ZsljaxError, match=message):
    space.columns(np.array([space.ids[0], 99, -1]))


def test_positions_inside_jit_and_of_any_shape(class_space):
  space = class_space()
  labels = jnp.asarray(space.ids).reshape(2, 3)
  found = jax.jit(lambda s, x: s.positions(x))(space, labels)
  np.testing.assert_array_equal(found, np.arange(6).reshape(2, 3))


def test_subset_takes_positions_or_a_mask(class_space):
  space = class_space()
  assert len(space.subset([])) == 0
  by_mask, by_position = space.subset(~space.seen), space.subset([4, 5])
  assert by_mask.names == by_position.names == ("class 4", "class 5")
  np.testing.assert_array_equal(by_mask.embeddings, space.embeddings[4:])
  assert not by_mask.seen.any()


def test_validation_fold_has_no_unseen_class_and_swaps_the_held_out(class_space):
  space = class_space()
  held_out = space.ids[1]
  fold = space.validation_fold([held_out])
  assert set(fold.ids) == set(space.ids[space.seen])
  np.testing.assert_array_equal(fold.seen, fold.ids != held_out)


def test_unit_embeddings_have_length_one_and_zero_rows_stay_zero():
  space = ClassSpace.create("ab", np.array([[3.0, 4.0], [0.0, 0.0]]))
  np.testing.assert_allclose(space.unit_embeddings(), [[0.6, 0.8], [0, 0]], atol=1e-6)


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ({"embeddings": np.ones((3, 2))}, "one row for each of the 2"),
    ({"embeddings": np.ones(2)}, r"\[C, A\]"),
    ({"embeddings": np.array([[1.0, np.nan], [1, 1]])}, "1e.15 in class .a."),
    ({"embeddings": np.full((2, 3), 1e300)}, "a number beyond 1e.15 in class"),
    ({"attribute_vectors": np.full((2, 3), 1e300)}, "beyond 1e.15 for attribute 0"),
    ({"names": ("a", "b\0")}, r"class names: found \['b.x00'\] with NUL"),
    ({"attribute_names": ("a", "b\0")}, "attribute names: found .* with NUL"),
    ({"names": ("a", "a")}, "'a' occurs twice"),
    ({"ids": [3, 3]}, "3 occurs twice"),
    ({"seen": [True]}, "seen: found shape"),
    ({"attribute_names": ["x"]}, "found 1, expected 2"),
    ({"attribute_vectors": np.ones((3, 5))}, r"expected \[2, V\]"),
    ({"embeddings": np.zeros((2, 0))}, r"class embeddings: found shape \(2, 0\)"),
    ({"embeddings": np.ones((2, 3)) * 1j}, "found complex128, expected real numbers"),
    ({"embeddings": np.full((2, 3), "1_0")}, "found <U3, expected real numbers"),
    ({"attribute_vectors": np.zeros((3, 0))}, r"attribute vectors: found shape \(3, 0"),
    ({"attribute_vectors": np.float32([[0], [np.inf]])}, "for attribute 1 .1 in"),
  ],
)
def test_create_says_what_is_wrong(wrong, message):
  fields = {"names": ("a", "b"), "embeddings": np.eye(2)} | wrong
  with pytest.raises(ZsljaxError, match=message):
    ClassSpace.create(**fields)
