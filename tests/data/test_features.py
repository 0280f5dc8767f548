import h5py
import numpy as np
import pytest

from zsljax.data.files.features import read_features
from zsljax.errors import ZsljaxError

ENDINGS = ("npy", "npz", "h5")


def write(path, features, names=None):
  """Writes the kind of file that the path's ending says."""
  content = {"features": features}
  if names is not None:
    content["image_files"] = np.array(names)
  if path.suffix == ".npy":
    np.save(path, features)
    if names is not None:
      path.with_suffix(".txt").write_text("\n".join(map(str, names)) + "\n")
  elif path.suffix == ".npz":
    np.savez(path, **content)
  else:
    with h5py.File(path, "w") as file:
      file.create_dataset("features", data=features, chunks=True, compression="gzip")
      if names is not None:
        texts = content["image_files"].dtype.kind == "U"
        file["image_files"] = content["image_files"].astype("O" if texts else int)
  return path


@pytest.mark.parametrize("kinds", [*([x] * 3 for x in ENDINGS), ["h5", "npy", "npz"]])
def test_rows_of_several_files(tmp_path, kinds):
  rng = np.random.default_rng(0)
  arrays = [rng.standard_normal((n, 4, 5)).astype(np.float32) for n in (6, 1, 8)]
  paths = [
    write(tmp_path / f"{i}.{kind}", array)
    for i, (kind, array) in enumerate(zip(kinds, arrays, strict=True))
  ]
  features, whole = read_features(paths), np.concatenate(arrays)
  assert features.shape == whole.shape and features.dtype == np.float32
  assert len(features) == 15 and features.image_files is None
  for rows in (slice(None), slice(2, 9), slice(6, 7), slice(14, 99), slice(3, 3)):
    np.testing.assert_array_equal(features[rows], whole[rows])
  for row in (0, 5, 6, 7, 14):
    np.testing.assert_array_equal(features[row], whole[row])
  some = np.array([1, 2, 5, 6, 7, 12, 3])
  taken = features.take(some)
  np.testing.assert_array_equal(taken[:], whole[some])
  np.testing.assert_array_equal(taken[4], whole[7])
  np.testing.assert_array_equal(taken.take(np.array([6, 0]))[:], whole[[3, 1]])


@pytest.mark.parametrize(
  ("dtypes", "expected"),
  [
    (("u1",), "f4"),
    (("i8",), "f4"),
    (("f2",), "f2"),
    (("f8",), "f8"),
    ((">f4",), "f4"),
    (("f2", "f4"), "f4"),
    (("u1", "f2"), "f2"),
  ],
)
def test_precision(tmp_path, dtypes, expected):
  paths = [
    write(tmp_path / f"{i}.npy", np.arange(6).reshape(2, 3).astype(dtype))
    for i, dtype in enumerate(dtypes)
  ]
  features = read_features(paths)
  assert features.dtype == np.dtype(expected) and features[:].dtype == expected
  assert features[1].tolist() == [3, 4, 5]


def test_a_row_is_read_without_the_rest(tmp_path):
  """The file is far larger than memory, holes for the most part."""
  path = tmp_path / "x.npy"
  shape = (2**20, 2**15)
  with path.open("wb") as file:
    np.lib.format.write_array_header_1_0(
      file, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    file.truncate(file.tell() + 4 * shape[0] * shape[1])
  features = read_features([path])
  assert features.shape == shape and not features[2**20 - 1].any()


def refused(*paths):
  with pytest.raises(ZsljaxError) as error:
    read_features(paths)[:]
  return str(error.value)


@pytest.mark.parametrize("ending", ENDINGS)
def test_damage_beyond_the_names_is_refused(tmp_path, ending):
  path = write(tmp_path / f"x.{ending}", np.random.default_rng(0).random((200, 50)))
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])
  assert "was the download cut off?" in refused(path)


@pytest.mark.parametrize(
  ("features", "names", "message"),
  [
    (
      np.ones(3),
      None,
      "features: found float64 of shape (3,), expected numbers",
    ),
    (np.ones((3, 2, 2, 2)), None, "shape (3, 2, 2, 2)"),
    (np.ones((3, 2)), ["a", "b"], "found <U1 of shape (2,), expected texts [3]"),
  ],
)
@pytest.mark.parametrize("ending", ENDINGS)
def test_content_that_does_not_fit(tmp_path, features, names, message, ending):
  path = write(tmp_path / f"x.{ending}", features, names)
  assert message in refused(path) and str(tmp_path / "x.") in refused(path)


@pytest.mark.parametrize(
  ("said", "message"),
  [
    ("{", "encoder: not readable as JSON"),
    ('{"network": 3}', "encoder: "),
  ],
)
def test_descriptions_of_encoders_are_checked(tmp_path, said, message):
  path = write(tmp_path / "x.h5", np.ones((3, 2)))
  with h5py.File(path, "r+") as file:
    file.attrs["encoder"] = said
  assert message in refused(path)
  with h5py.File(path, "r+") as file:
    file.attrs["encoder"] = np.zeros(3)
  assert read_features([path]).encoder is None


def test_whole_numbers_that_float32_lacks_are_refused(tmp_path):
  path = write(tmp_path / "x.npz", np.full((3, 2), 2**24 + 1))
  with pytest.raises(ZsljaxError, match="found larger whole numbers"):
    read_features([path])[:]


def test_files_that_do_not_fit_together(tmp_path):
  assert "features: found no file" in refused()
  assert "ending '.mat', expected one of .npy .npz" in refused(tmp_path / "x.mat")
  one = write(tmp_path / "1.npz", np.ones((3, 2)), ["a", "b", "c"])
  two = write(tmp_path / "2.npz", np.ones((3, 4)), ["d", "e", "f"])
  assert "2.npz: features: found shape (3, 4), expected rows like" in refused(one, two)
  two = write(tmp_path / "2.npz", np.ones((3, 2)))
  for pair in ((one, two), (two, one)):
    assert "image_files: found names in 1.npz alone, expected names" in refused(*pair)


@pytest.mark.parametrize("ending", ENDINGS)
def test_names_may_be_ids(tmp_path, ending):
  files = read_features([write(tmp_path / f"x.{ending}", np.eye(3), [30, 10, 20])])
  assert files.rows_of(["a", "b"], ["10", "30"]).tolist() == [1, 0]


@pytest.fixture
def named(tmp_path):
  names = ["a/1.jpg", "b/1.jpg", "a/2.x.png", "a/2.y.png", "3"]
  return read_features([write(tmp_path / "x.npz", np.eye(5), names)])


def test_names_are_compared_from_the_whole_to_the_last_part(named):
  assert named.rows_of(["b\\1.jpg", "./a/1.jpg"]).tolist() == [1, 0]
  assert named.rows_of(["b/1", "a/2.y"]).tolist() == [1, 3]
  assert named.rows_of(["z/2.x.gif", "3.jpeg"]).tolist() == [2, 4]
  assert named.rows_of(["none"], ["3"]).tolist() == [4]
  assert named.rows_of(["4", "3", "a/1.jpg"], partial=True).tolist() == [-1, 4, 0]


@pytest.mark.parametrize(
  ("asked", "message"),
  [
    (["1"], "found '1' 2 times, for 1 images"),
    (["3", "3"], "found '3' 1 times, for 2 images"),
    (["a/3.jpg", "b/3.jpg"], "found '3' 1 times, for 2 images"),
    (
      ["3", "4", "5"],
      "found no features of 2 of the 3 images (the first is '4'",
    ),
    (
      ["a/1.jpg", "z/1.jpg"],
      "no features of 1 of the 2 images (the first is 'z/",
    ),
  ],
)
def test_missing_and_ambiguous_names_are_refused(named, asked, message):
  with pytest.raises(ZsljaxError) as error:
    named.rows_of(asked)
  assert message in str(error.value)
