import h5py
import numpy as np
import pytest
import scipy.io

from zsljax.data.files.matfile import read_mat
from zsljax.errors import ZsljaxError


def texts(*values):
  array = np.empty((len(values), 1), object)
  array[:, 0] = values
  return array


def test_numbers_keep_shape_and_type(tmp_path, save):
  path = tmp_path / "numbers.mat"
  content = {
    "wide": np.arange(6.0).reshape(2, 3),
    "single": np.float32([[1.5], [2.5]]),
    "small": np.uint16([[1, 65535]]),
  }
  save(path, content)
  found = read_mat(path, list(content))
  for field, value in content.items():
    np.testing.assert_array_equal(found[field], value)
    assert found[field].dtype == value.dtype


def test_text_cells_become_strings(tmp_path, save):
  path = tmp_path / "names.mat"
  save(path, {"names": texts("antelope", "grizzly+bear", "Flügel")})
  assert read_mat(path, ["names"]) == {"names": ["antelope", "grizzly+bear", "Flügel"]}


def test_text_cells_in_a_row(tmp_path, save):
  path = tmp_path / "names.mat"
  save(path, {"names": texts("ape", "bat").T})
  assert read_mat(path, ["names"])["names"] == ["ape", "bat"]


def test_empty_text_cell_in_version_5(tmp_path):
  path = tmp_path / "names.mat"
  scipy.io.savemat(path, {"names": texts("ape", "")})
  assert read_mat(path, ["names"])["names"] == ["ape", ""]


def test_text_matrix_in_version_5(tmp_path):
  path = tmp_path / "names.mat"
  scipy.io.savemat(path, {"names": np.array(["ape", "antelope"])})
  assert read_mat(path, ["names"])["names"] == ["ape", "antelope"]


def test_fields_asked_for_alone(tmp_path, save):
  path = tmp_path / "numbers.mat"
  save(path, {"wanted": np.ones((1, 2)), "other": np.ones((1, 2))})
  assert list(read_mat(path, ["wanted", "absent"])) == ["wanted"]


def test_missing_file_lists_others(tmp_path):
  (tmp_path / "resnet.mat").touch()
  (tmp_path / "notes.txt").touch()
  with pytest.raises(ZsljaxError) as error:
    read_mat(tmp_path / "res101.mat", ["features"])
  message = str(error.value)
  assert message.startswith(f"{tmp_path / 'res101.mat'}: no such file; expected")
  assert message.endswith("The folder holds resnet.mat.")


def test_missing_folder(tmp_path):
  with pytest.raises(ZsljaxError, match="The folder holds no .mat file"):
    read_mat(tmp_path / "nowhere" / "res101.mat", ["features"])


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"<html><body>404 Not Found</body></html>",
    b"<html>" + b"a download that needs a login " * 20,
    b"\x00" * 4096,
    bytes(range(256)) * 8,
    b"PK\x03\x04" + b"\x00" * 300,
  ],
  ids=["empty", "short", "html", "zeros", "bytes", "zip"],
)
def test_garbage(tmp_path, content):
  path = tmp_path / "garbage.mat"
  path.write_bytes(content)
  with pytest.raises(ZsljaxError) as error:
    read_mat(path, ["features"])
  message = str(error.value)
  assert message.startswith(f"{path}: not a readable MATLAB file ({len(content)} bytes")
  assert "Expected a complete version 5 or 7.3 file" in message


def test_group_where_numbers_belong(tmp_path):
  path = tmp_path / "sparse.mat"
  with h5py.File(path, "w") as file:
    file.create_group("features")["data"] = np.ones(3)
  with pytest.raises(ZsljaxError, match="not a readable MATLAB file"):
    read_mat(path, ["features"])
