import numpy as np
import pytest

from zsljax.classes import ClassSpace
from zsljax.data.files.class_table import read_class_table, write_class_table
from zsljax.errors import ZsljaxError

HEADER = "class,striped,wings,size"
GOOD = [HEADER, "zebra,1,0,0.7", "bee,1,1,0.1"]


@pytest.fixture
def write(tmp_path):
  def write(lines, encoding="utf-8"):
    path = tmp_path / "classes.csv"
    path.write_text("\n".join(lines) + "\n", encoding)
    return path

  return write


def known(attributes=("striped", "wings", "size")):
  embeddings = [[1, 0, 0.5], [0, 1, 0.2]]
  return ClassSpace.create(["cat", "bird"], embeddings, attribute_names=attributes)


def test_reads_names_attributes_and_numbers(write):
  table = read_class_table(write([*GOOD, "", " crow , 0, 1,0.2 "], "utf-8-sig"))
  assert table.names == ("zebra", "bee", "crow")
  assert table.attributes == ("striped", "wings", "size")
  np.testing.assert_array_equal(table.values, [[1, 0, 0.7], [1, 1, 0.1], [0, 1, 0.2]])


def test_written_numbers_keep_all_digits(tmp_path):
  values = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
  path = tmp_path / "t.csv"
  write_class_table(path, ["a", "b, c"], ["x", "y", "z"], values)
  table = read_class_table(path)
  assert table.names == ("a", "b, c")
  np.testing.assert_array_equal(table.values.astype(np.float32), values)


@pytest.mark.parametrize(
  ("lines", "message"),
  [
    ([HEADER], "no class, expected at least one"),
    (["name,striped", "a,1"], "line 1: found 'name,striped', expected a header class"),
    (["class;striped;wings", "a;1;0"], "with commas"),
    (["class,x,x", "a,1,2"], "found columns 'x', 'x', expected distinct"),
    (["class,x,", "a,1,2"], "found columns '', expected distinct"),
    ([*GOOD, "bee,0,0,0"], "class 'bee' .line 4.: the name occurs twice"),
    ([*GOOD, "fly,1,0"], "class 'fly' .line 4.: found 2 numbers"),
    ([*GOOD, "fly,1,yes,0"], "found 'yes' for 'wings'"),
    ([*GOOD, "fly,1,nan,0"], "found 'nan' for 'wings'"),
    ([*GOOD, "fly,1,,0"], "found '' for 'wings'"),
    ([*GOOD, "fly,1_0,1,0"], "found '1_0' for 'striped'"),
    ([*GOOD, ",1,0,0"], "it has no name"),
  ],
)
def test_bad_tables_are_refused(lines, message, write):
  with pytest.raises(ZsljaxError, match=message):
    read_class_table(write(lines))


def test_bad_lines_can_be_left_out(write):
  table = read_class_table(write([*GOOD, "fly,1,x,0", "bee,0,0,0"]), skip_bad=True)
  assert table.names == ("zebra", "bee")
  assert len(table.left_out) == 2 and "found 'x'" in table.left_out[0]


def test_columns_are_put_in_the_dataset_s_order(write):
  path = write(["class,size,striped,wings", "zebra,0.7,1,0"])
  values = read_class_table(path).fitted(known()).values
  np.testing.assert_array_equal(values, [[1, 0, 0.7]])


@pytest.mark.parametrize(
  ("lines", "message"),
  [
    (["class,striped,size", "a,1,0.5"], "no 'wings' .1 of 3 are missing."),
    (
      ["class,striped,wings,size,hat", "a,1,0,1,1"],
      "'hat', which the dataset does not",
    ),
    (["class,striped,wing,size", "a,1,0,1"], "Did you mean 'wings'"),
    (
      [HEADER, "a,100,0,70"],
      "class 'a': found a description of length 122, expected 1.02 to .*same units",
    ),
    ([HEADER, "a,0,0,0"], "class 'a': found a description of length 0"),
  ],
)
def test_tables_that_do_not_fit_a_dataset_are_refused(lines, message, write):
  with pytest.raises(ZsljaxError, match=message):
    read_class_table(write(lines)).fitted(known())


def test_a_class_may_be_the_first_that_has_an_attribute(write):
  attributes = ("striped", "wings", "size", "horns")
  embeddings = [[1, 0, 0.5, 0.01], [0, 1, 0.2, 0]]
  classes = ClassSpace.create(["cat", "bird"], embeddings, attribute_names=attributes)
  table = read_class_table(write([f"{HEADER},horns", "ram,0,0,0.6,1"]))
  assert table.fitted(classes).names == ("ram",)


def test_what_does_not_fit_can_be_left_out(write):
  lines = ["class,striped,wings,size,hat", "a,1,0,0.5,1", "b,100,0,70,0", "c,0,1,0.2,0"]
  table = read_class_table(write(lines)).fitted(known(), skip_bad=True)
  assert table.names == ("a", "c") and table.attributes == ("striped", "wings", "size")
  heads = [line.split(":")[0] for line in table.left_out]
  assert heads == ["column 'hat'", "class 'b'"]
  with pytest.raises(ZsljaxError, match="no 'wings'"):
    bad = write(["class,striped,size", "a,1,0.5"])
    read_class_table(bad).fitted(known(), skip_bad=True)


def test_without_attribute_names_columns_are_counted(write):
  table = read_class_table(write(GOOD))
  np.testing.assert_array_equal(table.fitted(known(())).values, table.values)
  narrow = ClassSpace.create(["cat"], [[1.0, 1.0]])
  with pytest.raises(ZsljaxError, match="found 3 attributes, expected 2"):
    table.fitted(narrow)
