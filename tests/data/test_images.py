import os

import numpy as np
import pytest

from zsljax.data.files.images import (
  Preprocessing,
  image_batches,
  list_images,
)
from zsljax.errors import ZsljaxError

PIL = pytest.importorskip("PIL.Image")


def read_one(path, size):
  square = Preprocessing(size, 224 / 256)
  ((images, good),) = image_batches(path.parent, [path.name], square, 1)
  assert good.all() and images.dtype == np.uint8
  return images[0]


def by_pillow(image, size):
  """torchvision's Resize and CenterCrop, as it applies them to Pillow's images."""
  sides = np.array(image.size)
  width, height = (sides * (size * 256 // 224) / sides.min()).astype(int).tolist()
  image = image.resize((width, height), PIL.Resampling.BILINEAR)
  left, top = round((width - size) / 2), round((height - size) / 2)
  return np.asarray(image.crop((left, top, left + size, top + size)))


@pytest.fixture
def picture():
  """Makes a random picture, smooth or as rough as can be."""

  def make(width, height, smooth=False, seed=0):
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 256, (height, width, 3), np.uint8)
    if not smooth:
      return PIL.fromarray(rough)
    return PIL.fromarray(rough[::9, ::9]).resize(
      (width, height), PIL.Resampling.BICUBIC
    )

  return make


@pytest.mark.parametrize(
  ("sides", "size", "ending"),
  [
    ((500, 375), 224, "jpg"),
    ((333, 500), 64, "png"),
    ((80, 100), 224, "png"),
    ((257, 256), 224, "jpg"),
    ((64, 300), 224, "bmp"),
    ((301, 199), 96, "jpg"),
  ],
)
@pytest.mark.parametrize("smooth", [False, True])
def test_pixels_are_those_of_torchvision(
  tmp_path, picture, sides, size, ending, smooth
):
  path = tmp_path / f"a.{ending}"
  picture(*sides, smooth).save(path)
  with PIL.open(path) as image:
    np.testing.assert_array_equal(read_one(path, size), by_pillow(image, size))


@pytest.mark.parametrize(
  ("mode", "ending"),
  [("L", "png"), ("LA", "png"), ("RGBA", "png"), ("P", "png"), ("1", "png"),
   ("L", "jpg"), ("L", "bmp"), ("P", "bmp"), ("P", "gif"), ("RGB", "tif"),
   ("CMYK", "tif")],
)  # fmt: skip
def test_all_kinds_become_rgb(tmp_path, picture, mode, ending):
  image = picture(36, 36, smooth=True).convert(mode)
  if mode in ("LA", "RGBA"):
    image.putalpha(120)
  path = tmp_path / f"a.{ending}"
  image.save(path)
  with PIL.open(path) as image:
    expected = np.asarray(image.convert("RGB"))[2:34, 2:34]
  np.testing.assert_array_equal(read_one(path, 32), expected)


@pytest.mark.parametrize(
  ("cut", "box"), [("before", (90, 10, 170, 90)), ("never", (0, 0, 260, 100))]
)
def test_other_cuts(picture, cut, box):
  image = picture(260, 100, smooth=True)
  square = Preprocessing(32, 0.8, cut, "bicubic")
  expected = image.crop(box).resize((32, 32), PIL.Resampling.BICUBIC)
  np.testing.assert_array_equal(square(image), expected)


def test_photographs_are_upright(tmp_path, picture):
  image = picture(64, 36, smooth=True)
  exif = PIL.Exif()
  exif[0x0112] = 6  # To be turned by 90 degrees.
  image.save(tmp_path / "a.png", exif=exif)
  turned = image.transpose(PIL.Transpose.ROTATE_270)
  np.testing.assert_array_equal(read_one(tmp_path / "a.png", 32), by_pillow(turned, 32))


@pytest.mark.parametrize(("name", "kind"), [("a.png", "<u2"), ("a.tif", ">u2")])
def test_sixteen_bits_become_eight(name, kind, tmp_path):
  grey = np.linspace(0, 65535, 36 * 36).reshape(36, 36).astype(kind)
  PIL.fromarray(grey).save(tmp_path / name)
  found = read_one(tmp_path / name, 32)
  np.testing.assert_allclose(found[..., 0], grey[2:34, 2:34] / 256, atol=1)


def test_other_files_are_not_decoded(tmp_path, picture):
  picture(2000, 20).save(tmp_path / "long.png")
  (tmp_path / "text.webp").write_text("no image")
  names = list_images(tmp_path)
  assert names == ["long.png", "text.webp"]
  ((_, good),) = image_batches(tmp_path, names, Preprocessing(32), 2)
  assert not good.any()


def test_the_first_frame_of_a_gif(tmp_path, picture):
  frames = [picture(36, 36, seed=i).convert("P") for i in range(3)]
  path = tmp_path / "a.gif"
  frames[0].save(path, save_all=True, append_images=frames[1:])
  expected = np.asarray(frames[0].convert("RGB"))[2:34, 2:34]
  np.testing.assert_array_equal(read_one(path, 32), expected)


def test_lists_images_in_a_stable_order(tmp_path, picture):
  for name in ("b/2.PNG", "b/10.png", "a.JPEG", "b/c/x.bmp", "B.gif"):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  for name in ("notes.txt", "b/._2.PNG", ".hidden/a.png", "d.png/e.txt"):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
  assert list_images(tmp_path) == [
    "B.gif",
    "a.JPEG",
    "b/10.png",
    "b/2.PNG",
    "b/c/x.bmp",
  ]


def test_names_what_is_no_folder_of_images(tmp_path):
  with pytest.raises(ZsljaxError, match="away: found no such folder"):
    list_images(tmp_path / "away")
  with pytest.raises(ZsljaxError, match="found no image, expected files that end in"):
    list_images(tmp_path)
  (tmp_path / "a.txt").touch()
  with pytest.raises(ZsljaxError, match="a.txt: found a file"):
    list_images(tmp_path / "a.txt")
  (tmp_path / os.fsdecode(b"\xe9.png")).touch()
  with pytest.raises(ZsljaxError, match="expected names in UTF-8"):
    list_images(tmp_path)


@pytest.fixture
def folder(tmp_path, picture):
  """Seven pictures of one grey each, three of which are spoilt."""
  for i in range(7):
    PIL.new("RGB", (40, 40), (30 * i,) * 3).save(tmp_path / f"{i}.png")
  whole = (tmp_path / "2.png").read_bytes()
  (tmp_path / "2.png").write_bytes(whole[: len(whole) // 2])
  (tmp_path / "5.png").write_text("<!DOCTYPE html>")
  (tmp_path / "6.png").write_bytes(b"")
  return tmp_path


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10])
def test_batches_keep_the_order_and_mark_bad_images(folder, batch_size):
  names = [f"{i}.png" for i in (3, 2, 0, 1, 5, 4, 6)]
  batches = list(image_batches(folder, names, Preprocessing(32), batch_size))
  assert all(images.shape == (batch_size, 32, 32, 3) for images, _ in batches)
  images = np.concatenate([images for images, _ in batches])
  good = np.concatenate([good for _, good in batches])
  np.testing.assert_array_equal(good[:7], [1, 0, 1, 1, 0, 1, 0])
  assert not good[7:].any() and not images[~good].any()
  np.testing.assert_array_equal(images[good].mean((1, 2, 3)), [90, 0, 30, 120])
