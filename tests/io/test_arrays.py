import zipfile

import h5py
import numpy as np
import pytest
import scipy.io

from zsljax.errors import ZsljaxError
from zsljax.io import apart, checks
from zsljax.io.arrays import LargeArray, as_floats, check_array, read_arrays

NUMBERS = {
  "wide": np.arange(6.0).reshape(2, 3),
  "single": np.float32([[1.5], [2.5]]),
  "small": np.uint16([[1, 65535]]),
}
NAMES = ["antelope", "grizzly+bear", "Flügel"]


def save_hdf5(path, content):
  with h5py.File(path, "w") as file:
    file.create_group("group")
    for field, value in content.items():
      texts = value.dtype.kind == "U"
      file[field] = value.astype("O").ravel() if texts else value


def save_mat(path, content, version=5):
  """Writes texts as cells; of version 7.3 HDF5 with the columns first."""
  if version == 5:
    cells = {k: v.astype("O") if v.dtype.kind == "U" else v for k, v in content.items()}
    scipy.io.savemat(path, cells)
    return
  with h5py.File(path, "w", userblock_size=512) as file:
    for field, value in content.items():
      if value.dtype.kind != "U":
        file[field] = value.T
        continue
      references = np.empty(value.T.shape, h5py.ref_dtype)
      for at, text in np.ndenumerate(value.T):
        letters = np.array([list(map(ord, text))], np.uint16).T
        references[at] = file.create_dataset(f"#refs#/{field}{at}", data=letters).ref
      file.create_dataset(field, data=references, dtype=h5py.ref_dtype)


SAVED = {
  "a.npz": lambda path, content: np.savez(path, **content),
  "a.h5": save_hdf5,
  "a.hdf5": save_hdf5,
  "a.mat": save_mat,
  "73.mat": lambda path, content: save_mat(path, content, 7.3),
}


@pytest.fixture(params=SAVED)
def saved(request, tmp_path):
  """Writes arrays into a file of each kind."""

  def save(content):
    SAVED[request.param](tmp_path / request.param, content)
    return tmp_path / request.param

  return save


@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 3)])
def test_every_kind_reads_alike(saved, shape):
  content = NUMBERS | {"names": np.array(NAMES).reshape(shape)}
  found = read_arrays(saved(content))
  assert found.keys() == content.keys() | ({"#refs#"} & found.keys())
  for field, value in NUMBERS.items():
    np.testing.assert_array_equal(found[field][()], value)
    assert found[field].dtype == value.dtype
  assert check_array("names", found["names"], "3", "text").tolist() == NAMES


def test_fields_asked_for_alone(saved):
  path = saved(NUMBERS)
  assert list(read_arrays(path, ["wide"], ["absent", "small"])) == ["wide", "small"]
  with pytest.raises(ZsljaxError, match=r"no field huge \(it has .*wide.* cut off"):
    read_arrays(path, ["wide", "huge"], ["small"])


@pytest.mark.parametrize("fraction", [0, 0.1, 0.5, 0.9])
def test_cut_off_files_are_refused(saved, fraction):
  path = saved({"x": np.random.default_rng(0).random((200, 50))})
  content = path.read_bytes()
  path.write_bytes(content[: int(len(content) * fraction)])
  with pytest.raises(ZsljaxError, match=f"{path.name}: .*expected.*cut off"):
    np.asarray(read_arrays(path, ["x"])["x"])


@pytest.mark.parametrize(
  "content",
  [
    b"<html>" + b"a download that needs a login " * 20,
    b"\x00" * 4096,
    bytes(range(256)) * 8,
    b"PK\x03\x04" + b"\x00" * 300,
  ],
  ids=["html", "zeros", "bytes", "zip"],
)
@pytest.mark.parametrize("name", ["a.npy", *SAVED])
def test_garbage_is_refused(tmp_path, name, content):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ZsljaxError, match=rf"{name}: not readable \({len(content)} byt"):
    read_arrays(tmp_path / name)


def test_an_npy_has_one_field_that_is_not_read_at_once(tmp_path):
  np.save(tmp_path / "x.npy", NUMBERS["wide"])
  found = read_arrays(tmp_path / "x.npy", ["features"], ["names"])
  assert list(found) == ["features"] and isinstance(found["features"], np.memmap)
  assert list(read_arrays(tmp_path / "x.npy")) == ["array"]


@pytest.mark.parametrize("name", ["p.npy", "p.npz"])
def test_python_objects_are_never_read(tmp_path, name):
  save = np.save if name.endswith("npy") else np.savez
  save(tmp_path / name, np.array([{}]), allow_pickle=True)
  with pytest.raises(ZsljaxError, match=f"{name}: not readable .*it holds Python obj"):
    read_arrays(tmp_path / name)


def _linked(path, file):
  file["features"] = h5py.ExternalLink(path.parent / "other.h5", "features")


def _passed_on(path, file):
  file["link"] = h5py.ExternalLink(path.parent / "other.h5", "/")
  file["features"] = h5py.SoftLink("/link/features")


def _raw(path, file):
  (path.parent / "secret").write_bytes(bytes(160))
  file.create_dataset(
    "features", (20, 2), "f4", external=[(path.parent / "secret", 0, 160)]
  )


def _virtual(path, file):
  layout = h5py.VirtualLayout((20, 2), "f4")
  layout[:] = h5py.VirtualSource(path.parent / "other.h5", "features", (20, 2))
  file.create_virtual_dataset("features", layout)


@pytest.mark.parametrize("write", [_linked, _passed_on, _raw, _virtual])
def test_numbers_of_other_files_are_not_read(tmp_path, write):
  with h5py.File(tmp_path / "other.h5", "w") as other:
    other["features"] = np.ones((20, 2), np.float32)
  with h5py.File(tmp_path / "f.h5", "w") as file:
    write(tmp_path / "f.h5", file)
  with pytest.raises(
    ZsljaxError, match=r"f.h5: (features|link): found a link to another"
  ):
    read_arrays(tmp_path / "f.h5")


def _bomb_npz(folder):
  np.savez_compressed(folder / "b.npz", x=np.zeros(10**7))
  return folder / "b.npz"


def _bomb_mat(folder):
  path = folder / "b.mat"
  scipy.io.savemat(path, {"x": np.zeros((10**7, 1))}, do_compression=True)
  return path


def _bomb_hdf5(folder):
  with h5py.File(folder / "b.h5", "w") as file:
    file.create_dataset("x", (10**9, 10), "f8", chunks=(100, 10))
  return folder / "b.h5"


def _claim_npz(folder):
  """The header of an array says that it has 8 TB."""
  header = np.lib.format.magic(1, 0)
  text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }\n"
  with zipfile.ZipFile(folder / "c.npz", "w") as file:
    file.writestr("x.npy", header + len(text).to_bytes(2, "little") + text)
  return folder / "c.npz"


def _crash(folder):
  """The reader of MATLAB files follows a pointer that is none."""
  scipy.io.savemat(folder / "c.mat", {"x": np.arange(12.0).reshape(3, 4)})
  content = bytearray((folder / "c.mat").read_bytes())
  content[176] = 0
  (folder / "c.mat").write_bytes(content)
  return folder / "c.mat"


@pytest.mark.parametrize(
  ("write", "message"),
  [
    (_bomb_npz, "found 80 MB of numbers, expected at most 100 times"),
    (_bomb_mat, "not readable .*it asks for far more memory than it has bytes"),
    (_bomb_hdf5, "x: found 80000000000 bytes of numbers, expected at most 100 times"),
    (_claim_npz, "not readable"),
    (_crash, r"not readable \(280 bytes; its reader crashed with SIG(SEGV|BUS)\), exp"),
  ],
)
def test_files_that_would_harm_the_process_are_refused(
  tmp_path, monkeypatch, write, message
):
  monkeypatch.setattr(checks, "LEAST_BYTES", 2**24)
  path = write(tmp_path)
  with pytest.raises(ZsljaxError, match=f"{path.name}: {message}"):
    np.asarray(read_arrays(path)["x"])


def _many_names(folder):
  """A file whose one array, which is small, has 20,000 names."""
  with h5py.File(folder / "m.h5", "w") as file:
    numbers = np.random.default_rng(0).random(1000)
    file.create_dataset("x", data=numbers, chunks=True, compression="gzip")
    for i in range(20_000):
      file[f"x{i}"] = file["x"]
  return folder / "m.h5"


def test_a_reader_that_is_busy_too_long_is_ended(tmp_path, monkeypatch):
  monkeypatch.setattr(apart, "_SECONDS", 0)
  with pytest.raises(ZsljaxError, match="its reader was busy for more than 1 s"):
    read_arrays(_many_names(tmp_path))


def test_a_reader_process_that_is_gone_is_replaced(saved):
  path = saved(NUMBERS)
  read_arrays(path)
  if apart._server:
    apart._server[1].kill()
    apart._server[1].wait()
  np.testing.assert_array_equal(read_arrays(path)["wide"], NUMBERS["wide"])


def test_large_arrays_are_copied_when_they_are_asked_for(tmp_path):
  numbers = np.random.default_rng(0).random((300, 1000), np.float32)
  with h5py.File(tmp_path / "l.h5", "w") as file:
    file.create_dataset("x", data=numbers, chunks=(64, 100), compression="lzf")
  found = read_arrays(tmp_path / "l.h5", ["x"])["x"]
  assert isinstance(found, LargeArray) and found.shape == numbers.shape
  np.testing.assert_array_equal(found[7:9], numbers[7:9])
  np.testing.assert_array_equal(found[()], numbers)


@pytest.mark.parametrize("number", [2**24 + 1, 2**62 + 1])
def test_whole_numbers_that_float32_lacks_are_refused(number):
  assert as_floats("x", np.array([1, 2**24])).dtype == np.float32
  with pytest.raises(ZsljaxError, match="x: found larger whole numbers, expected"):
    as_floats("x", np.array([number]))
  with pytest.raises(ZsljaxError, match="expected whole numbers"):
    check_array("x", np.array([1e300]), "N", "whole", lowest=1)


def test_other_and_missing_files_are_refused(tmp_path):
  for name in ("resnet.mat", "notes.txt"):
    (tmp_path / name).touch()
  with pytest.raises(ZsljaxError, match=r"ending '.txt', expected one of .npy .npz"):
    read_arrays(tmp_path / "notes.txt")
  message = r"res101.mat: found no such file, expected .*; the folder holds resnet.mat$"
  with pytest.raises(ZsljaxError, match=message):
    read_arrays(tmp_path / "res101.mat")
  with pytest.raises(ZsljaxError, match="no such file, expected a .h5 file$"):
    read_arrays(tmp_path / "nowhere" / "x.h5")


def test_texts_of_other_storages(tmp_path):
  np.savez(tmp_path / "a.npz", names=np.array([n.encode() for n in NAMES]))
  assert read_arrays(tmp_path / "a.npz")["names"].tolist() == NAMES
  with h5py.File(tmp_path / "a.h5", "w") as file:
    file["names"] = np.array(["ape", "bat"], "S")
  assert read_arrays(tmp_path / "a.h5")["names"].tolist() == ["ape", "bat"]
  cells = np.empty((2, 1), object)
  cells[:, 0] = "ape", ""
  scipy.io.savemat(tmp_path / "a.mat", {"x": cells, "y": np.array(["bat", "ape  "])})
  found = read_arrays(tmp_path / "a.mat")
  assert [found[f].tolist() for f in "xy"] == [["ape", ""], ["bat", "ape"]]


@pytest.mark.parametrize(
  ("array", "check", "message"),
  [
    (np.ones(3), {"shape": "N D or N R D"}, "float64 of shape (3,), expected numbers"),
    (np.ones((0, 2)), {"shape": "N D"}, "of shape (0, 2), expected numbers [N, D]"),
    (np.ones((3, 2)), {"shape": "4 D"}, "of shape (3, 2), expected numbers [4, D]"),
    (np.ones((3, 2), "U1"), {"shape": "N D"}, "found <U1 of shape (3, 2)"),
    (np.ones(3, int), {"shape": "N", "kind": "float"}, "expected floating point num"),
    (np.ones(3), {"shape": "N", "kind": "text"}, "found float64 of shape (3,), expect"),
    (np.ones(3, bool), {"shape": "N", "kind": "whole"}, "found bool of shape"),
    (np.float32([1, 1.5]), {"shape": "N", "kind": "whole"}, "1.5 (1 such), expected w"),
    (np.array([1, np.nan]), {"shape": "N", "kind": "whole"}, "found nan (1 such)"),
    (np.array([[0], [1]]), {"lowest": 1, "hint": ": x"}, "numbers from 1 on [N]:"),
    (np.array([2, 3]), {"lowest": 0, "highest": 2}, "3 (1 such), expected whole numbe"),
    (np.array([1, np.inf]), {"shape": "N", "finite": True}, "inf (1 such), expected f"),
  ],
)  # fmt: skip
def test_fields_that_are_something_else(array, check, message, tmp_path):
  check = {"shape": "N", "kind": "whole"} | check if "lowest" in check else check
  with h5py.File(tmp_path / "x.h5", "w") as file:
    stored = [array]
    if array.dtype.kind != "U":
      stored.append(file.create_dataset("x", data=array))
    for value in stored:
      with pytest.raises(ZsljaxError) as error:
        check_array("x.h5: x", value, **check)
      assert str(error.value).startswith("x.h5: x: found") and message in str(
        error.value
      )


def test_good_fields_are_returned():
  column = np.array([[1.0], [3.0]])
  assert check_array("x", column, "N 1", finite=True) is column
  whole = check_array("x", column, "2", "whole", lowest=1, highest=3)
  assert whole.dtype == np.int64 and whole.tolist() == [1, 3]
  assert check_array("x", np.array([7, 8]), "N", "text").tolist() == ["7", "8"]
