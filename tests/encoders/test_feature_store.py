import json

import h5py
import numpy as np
import PIL.Image
import pytest

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
  return load_encoder("tiny", tiny, 32, "regions")


@pytest.fixture
def encode(encoder, folder, tmp_path):
  """Encodes the folder into the named file."""

  def run(name="f.h5", encoder=encoder, **options):
    path = tmp_path / name
    return path, encode_folder(encoder, folder, path, BATCH, **options)

  return run


@pytest.mark.parametrize("output", ["pooled", "regions"])
@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_the_file_has_features_names_and_description(
  encode, tiny, folder, output, storage
):
  encoder = load_encoder("tiny", tiny, 32, output)
  path, written = encode(encoder=encoder, storage=storage)
  expected, names, _ = encode_images(encoder, folder, batch_size=BATCH)
  found = read_features([path])
  assert found.shape == written.shape == expected.shape and found.dtype == storage
  assert found.image_files.tolist() == names
  np.testing.assert_array_equal(found[:], expected.astype(storage))
  with h5py.File(path) as file:
    assert json.loads(file.attrs["encoder"]) == encoder.description
  assert written.encoded == COUNT and not written.left_out
  names = {"images", path.name, tiny.name}
  assert {p.name for p in path.parent.iterdir()} == names  # No draft, no partial.


@pytest.fixture
def interrupted(encode, monkeypatch, tmp_path):
  """Content of the partial file before the last step."""

  def interrupt(*_):
    raise KeyboardInterrupt

  def run(**options):
    with monkeypatch.context() as patch:
      patch.setattr(feature_store, "_finish", interrupt)
      with pytest.raises(KeyboardInterrupt):
        encode("cut.h5", **options)
    assert not (tmp_path / "cut.h5").exists()
    return tmp_path / "cut.h5.partial"

  return run


def test_resumes_wherever_it_was_cut_off(encode, interrupted):
  whole, _ = encode()
  expected = read_features([whole])[:]
  partial = interrupted()
  content = partial.read_bytes()
  header = content.index(b"\n") + 1
  record = (len(content) - header) // COUNT
  assert len(content) == header + COUNT * record
  for cut, left in (
    (0, 11), (1, 11), (header - 1, 11), (header, 11), (header + 1, 11),
    (header + 3 * record - 1, 11), (header + 3 * record, 8), (header + 7 * record, 5),
    (header + 10 * record + 9, 2), (len(content) - 1, 2), (len(content), 2),
  ):  # fmt: skip
    partial.write_bytes(content[:cut])
    path, written = encode("cut.h5")
    assert written.encoded == left
    np.testing.assert_array_equal(read_features([path])[:], expected)
    assert not partial.exists()
    path.unlink()


def test_other_batches_continue_too(encode, interrupted, encoder, folder):
  partial = interrupted()
  content = partial.read_bytes()
  path = partial.with_suffix("")
  expected = encode_images(encoder, folder)[0]
  for cut, batch_size, left in ((5, 4, 3), (0, COUNT, 0)):
    partial.write_bytes(content[: len(content) - cut])
    written = encode_folder(encoder, folder, path, batch_size)
    assert written.encoded == left
    np.testing.assert_allclose(read_features([path])[:], expected, rtol=1e-5)
    path.unlink()


def test_another_request_is_refused_by_name(encode, interrupted, tiny, folder):
  content = interrupted().read_bytes()
  other = load_encoder("tiny", tiny, 64, "regions")
  with pytest.raises(ZsljaxError, match=r"h5.partial: .*\(size 32 there, 64 here\)"):
    encode("cut.h5", encoder=other)
  tiny.write_bytes(tiny.read_bytes()[:-4] + b"\0\0\0\0")
  changed = load_encoder("tiny", tiny, 32, "regions")
  with pytest.raises(ZsljaxError, match=r"\(weights_sha256 \w+ there, \w+ here\)"):
    encode("cut.h5", encoder=changed)
  with pytest.raises(ZsljaxError, match=r"\(storage float32 there, float16 here\)"):
    encode("cut.h5", storage="float16")
  (folder / "03.png").rename(folder / "3.png")
  with pytest.raises(ZsljaxError, match=r"\(images 11 with names of SHA-256 \w+ there"):
    encode("cut.h5")
  partial = tiny.with_name("cut.h5.partial")
  assert partial.read_bytes() == content
  partial.write_text("notes of mine")
  with pytest.raises(ZsljaxError, match="another kind of file"):
    encode("cut.h5")
  assert partial.read_text() == "notes of mine"


def test_a_complete_file_is_left_alone(encode, tiny, folder):
  path, _ = encode()
  before = path.stat().st_mtime_ns
  assert encode()[1] == feature_store.Written((COUNT, 16, 16), [], 0)
  with pytest.raises(ZsljaxError, match="f.h5: found features with other size"):
    encode(encoder=load_encoder("tiny", tiny, 64, "regions"))
  with pytest.raises(ZsljaxError, match="with other storage"):
    encode(storage="float16")
  (folder / "00.png").unlink()
  with pytest.raises(ZsljaxError, match="with other images"):
    encode()
  assert path.stat().st_mtime_ns == before
  path.write_text("no HDF5")
  with pytest.raises(ZsljaxError, match="another kind of file"):
    encode()


def test_bad_images(encode, folder, tmp_path, encoder):
  good = (folder / "07.png").read_bytes()
  for name in ("04.png", "07.png", "10.png"):
    (folder / name).write_bytes(good[:50])
  with pytest.raises(ZsljaxError, match="be decoded: 3, the first is 04.png"):
    encode()
  assert not (tmp_path / "f.h5").exists()
  path, written = encode(skip_bad=True)
  assert written.left_out == ["04.png", "07.png", "10.png"]
  assert written.encoded == COUNT - BATCH  # The first batch was there.
  found = read_features([path])
  assert written.shape == found.shape == (COUNT - 3, 16, 16)
  expected, names, _ = encode_images(encoder, folder, None, True, BATCH)
  np.testing.assert_array_equal(found[:], expected)
  assert found.image_files.tolist() == names
  assert encode(skip_bad=True)[1].left_out == written.left_out
  with pytest.raises(ZsljaxError, match="3 images left out"):
    encode()


def test_bad_images_are_tried_again(interrupted, encode, folder):
  good = (folder / "07.png").read_bytes()
  (folder / "07.png").write_bytes(good[:50])
  interrupted(skip_bad=True)
  with pytest.raises(ZsljaxError, match="be decoded: 1, the first is 07.png"):
    encode("cut.h5")
  (folder / "07.png").write_bytes(good)
  path, written = encode("cut.h5")
  assert written.encoded == COUNT - 2 * BATCH and not written.left_out
  expected, _ = encode()
  np.testing.assert_array_equal(read_features([path])[:], read_features([expected])[:])


def test_a_folder_without_any_good_image(encode, folder):
  for path in folder.iterdir():
    path.write_text("no image")
  with pytest.raises(ZsljaxError, match="images: found none that can be decoded"):
    encode(skip_bad=True)


def test_features_too_large_for_the_precision(encode, tiny, state_dict, save_pth):
  state = state_dict()
  state["layer2.1.bn3.bias"] += 1e5
  big = load_encoder("tiny", save_pth(tiny.with_suffix(".pth"), state), 32)
  with pytest.raises(ZsljaxError, match=r"float16, which ends before 1e\+05, a"):
    encode(encoder=big, storage="float16")


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"storage": "bfloat16"}, "storage: found 'bfloat16', expected float32 or float16"),
    ({"name": "f.npz"}, "ending '.npz', expected .h5 or .hdf5"),
  ],
)
def test_wrong_options_are_named(encode, options, message):
  with pytest.raises(ZsljaxError, match=message):
    encode(**options)


def test_wrong_batch_size_is_named(encoder, folder, tmp_path):
  for run in (
    lambda: encode_folder(encoder, folder, tmp_path / "f.h5", batch_size=0),
    lambda: encode_images(encoder, folder, batch_size=0),
  ):
    with pytest.raises(ZsljaxError, match="batch_size: found 0, expected 1 or more"):
      run()


def test_a_full_disk_is_named_and_loses_nothing(encode, full_disk, tiny):
  larger = load_encoder("tiny", tiny, 96, "regions")  # 9 kB an image.
  with full_disk(), pytest.raises(ZsljaxError, match="f.h5.partial: could not be writ"):
    encode(encoder=larger)
  path, written = encode(encoder=larger)
  assert 0 < written.encoded < COUNT
  assert read_features([path]).shape == (COUNT, 144, 16)


def test_two_processes_do_not_write_one_file(encode, tmp_path):
  with (
    feature_store.locked(tmp_path / "f.h5.partial"),
    pytest.raises(ZsljaxError, match="another process is writing there"),
  ):
    encode()
