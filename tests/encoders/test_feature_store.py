import json
import shutil

import h5py
import numpy as np
import PIL.Image
import pytest

from zsljax.cli.main import main
from zsljax.data.files.features import read_features
from zsljax.encoders import encode_folder, encode_images, feature_store, load_encoder
from zsljax.errors import ZsljaxError

COUNT, BATCH = 11, 3


@pytest.fixture
def folder(tmp_path):
  folder = tmp_path / "images"
  folder.mkdir()
  rng = np.random.default_rng(0)
  for i in range(COUNT):
    pixels = rng.integers(0, 256, (32 + i, 40, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(folder / f"{i:02d}.png")
  return folder


@pytest.fixture
def encoder(tiny):
  return load_encoder(tiny, 32, "regions")


@pytest.fixture
def encode(encoder, folder, tmp_path):
  """Encodes the folder into the named file."""

  def run(name="f.h5", encoder=encoder, **options):
    path = tmp_path / name
    return path, encode_folder(encoder, folder, path, BATCH, **options)

  return run


@pytest.mark.parametrize("output", ["pooled", "regions"])
def test_the_file_has_features_names_and_description(encode, tiny, folder, output):
  encoder = load_encoder(tiny, 32, output)
  path, written = encode(encoder=encoder)
  expected, names, _ = encode_images(encoder, folder, batch_size=BATCH)
  found = read_features([path])
  assert found.shape == written.shape == expected.shape and found.dtype == "float32"
  assert found.image_files.tolist() == names
  np.testing.assert_array_equal(found[:], expected)
  with h5py.File(path) as file:
    assert json.loads(file.attrs["encoder"]) == encoder.description
  assert written.encoded == COUNT and not written.left_out
  names = {"images", path.name, tiny.name}
  assert {p.name for p in path.parent.iterdir()} == names  # No draft, no partial.


@pytest.fixture
def interrupted(encode, monkeypatch, tmp_path):
  """Parts of three images, written before an interrupt; returns their folder."""
  monkeypatch.setattr(feature_store, "_PART", BATCH)

  def run(after, **options):
    write, calls = feature_store._write_part, iter(range(after))

    def interrupt(path, *arguments):
      if next(calls, None) is None:
        path.with_name(f"{path.name}.1.draft").write_bytes(b"half")
        raise KeyboardInterrupt
      write(path, *arguments)

    with monkeypatch.context() as patch:
      patch.setattr(feature_store, "_write_part", interrupt)
      with pytest.raises(KeyboardInterrupt):
        encode("cut.h5", **options)
    assert not (tmp_path / "cut.h5").exists()
    return tmp_path / "cut.h5.parts"

  return run


@pytest.mark.parametrize(("after", "left"), [(0, 11), (1, 8), (3, 2)])
def test_resumes_where_it_was_interrupted(encode, interrupted, after, left):
  parts = interrupted(after)
  if not after:  # Nothing is there that could be of another kind.
    (parts / "request.json").write_text('{"size": 9}')
  path, written = encode("cut.h5")
  assert written.encoded == left and not parts.exists()
  whole, _ = encode()
  assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("complete", [False, True])
def test_another_request_is_refused_by_name(
  encode, interrupted, tiny, folder, complete
):
  kept = encode("cut.h5")[0] if complete else interrupted(1) / "part-00000.npz"
  before = kept.read_bytes()
  with pytest.raises(ZsljaxError, match=r"cut.h5.*, size: found 32, expected 64"):
    encode("cut.h5", encoder=load_encoder(tiny, 64, "regions"))
  (folder / "03.png").rename(folder / "3.png")
  with pytest.raises(ZsljaxError, match=r"images: found 11 with names of SHA-256 \w+,"):
    encode("cut.h5")
  assert kept.read_bytes() == before


def test_a_complete_file_is_left_alone(encode, encoder):
  path, written = encode()
  told = feature_store.described(encoder, path, written)
  assert told == f"{path}: regions features of resnet1_2 for 11 images, 16 x 16"
  before = path.stat().st_mtime_ns
  assert encode()[1] == feature_store.Written((COUNT, 16, 16), [], 0)
  assert path.stat().st_mtime_ns == before
  path.write_text("no HDF5")
  with pytest.raises(ZsljaxError, match="another kind of file"):
    encode()


def test_bad_images(encode, interrupted, folder, encoder):
  whole = (folder / "07.png").read_bytes()
  for name in ("04.png", "07.png", "10.png"):
    (folder / name).write_bytes(whole[:50])
  with pytest.raises(ZsljaxError, match="04.png: found no image that can be decoded"):
    encode("cut.h5")
  interrupted(2, skip_bad=True)
  (folder / "04.png").write_bytes(whole)
  with pytest.raises(ZsljaxError, match="07.png: found no image that can be decoded"):
    encode("cut.h5")  # Tried again, as 04.png was.
  path, written = encode("cut.h5", skip_bad=True)
  assert written.left_out == ["07.png", "10.png"]
  assert written.encoded == 2
  found = read_features([path])
  assert written.shape == found.shape == (COUNT - 2, 16, 16)
  expected, names, _ = encode_images(encoder, folder, None, True, BATCH)
  np.testing.assert_array_equal(found[:], expected)
  assert found.image_files.tolist() == names
  assert encode("cut.h5", skip_bad=True)[1].left_out == written.left_out
  with pytest.raises(ZsljaxError, match="2 images left out"):
    encode("cut.h5")


def test_a_folder_without_any_good_image(encode, folder):
  for path in folder.iterdir():
    path.write_text("no image")
  with pytest.raises(ZsljaxError, match="images: found none that can be decoded"):
    encode(skip_bad=True)


def test_another_ending_is_refused(encode):
  with pytest.raises(ZsljaxError, match="ending '.npz', expected .h5 or .hdf5"):
    encode("f.npz")


# NumPy 2.0 leaves the zip of a refused write open.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*ZipFile")
def test_a_full_disk_is_named_and_loses_nothing(encode, full_disk, tiny, monkeypatch):
  larger = load_encoder(tiny, 96, "regions")  # 9 kB an image.
  with full_disk(), pytest.raises(ZsljaxError, match="00000.npz: could not be written"):
    encode(encoder=larger)
  free = shutil.disk_usage("/")._replace(free=100_000)
  with monkeypatch.context() as patch:
    patch.setattr(feature_store.shutil, "disk_usage", lambda _: free)
    with pytest.raises(ZsljaxError, match="f.h5: found room for 100 kB, expected 102"):
      encode(encoder=larger)
  path, written = encode(encoder=larger)
  assert written.encoded == 0
  assert read_features([path]).shape == (COUNT, 144, 16)


def test_two_processes_do_not_write_one_file(encode, tmp_path):
  with (
    feature_store.locked(tmp_path / "f.h5.parts" / "lock"),
    pytest.raises(ZsljaxError, match="another process is writing there"),
  ):
    encode()


def test_command(folder, tiny, tmp_path, capsys):
  (folder / "10.png").write_bytes((folder / "10.png").read_bytes()[:50])
  typed = ["encode", f"--images={folder}", f"--weights={tiny}", "--size=32"]
  main([*typed, "--skip-bad", f"--dest={tmp_path / 'f.h5'}"])
  said = capsys.readouterr().out
  assert "f.h5: pooled features of resnet1_2 for 10 images, 16" in said
  assert "\nleft out, as it cannot be decoded: 10.png" in said
