"""Places in pictures, photographs on disk, and HTML."""

import html
import itertools

import numpy as np
from PIL import Image
import pytest

from zsljax.data.files.images import Preprocessing
from zsljax.errors import ZsljaxError
from zsljax.reporting import html as report
from zsljax.reporting.photos import find_photos, read_photo
from zsljax.reporting.pictures import (
  DPI,
  _label_clusters,
  draw_overlay,
  draw_photo,
  new_figure,
  save_figure,
)


@pytest.mark.parametrize(
  ("grid", "shape"), [((7, 7), (140, 140)), ((3, 5), (120, 200)), ((4, 4), (90, 70))]
)
def test_hot_cell_lies_on_its_own_pixels(grid, shape):
  """The centre of a cell has the most colour; neighbours' centres do not change."""

  def drawn(weights):
    figure = new_figure(shape[1] / DPI, shape[0] / DPI)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    draw_overlay(axes, np.full((*shape, 3), 128, np.uint8), weights, 1.0)
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)

  dark = drawn(np.zeros(grid))
  assert dark.shape[:2] == shape
  height, width = shape[0] / grid[0], shape[1] / grid[1]
  for i, j in itertools.product(*map(range, grid)):
    weights = np.zeros(grid)
    weights[i, j] = 1
    gained = np.abs(drawn(weights) - dark).sum(-1)
    own = gained[
      int(np.ceil(i * height)) : int((i + 1) * height),
      int(np.ceil(j * width)) : int((j + 1) * width),
    ]
    assert own.max() == gained.max() > 200
    assert own.sum() > gained.sum() / 4 and own.min() > 0
    rows, columns = np.nonzero(gained)
    assert (i - 0.5) * height - 1 <= rows.min() <= rows.max() <= (i + 1.5) * height
    assert (j - 0.5) * width - 1 <= columns.min() <= columns.max() <= (j + 1.5) * width


def test_photo_is_cut_as_the_encoder_cut_it(tmp_path):
  """Red says the column and green the row, in parts of the photograph."""
  width, height = 400, 250
  pixels = np.zeros((height, width, 3), np.uint8)
  pixels[..., 0] = np.linspace(0, 255, width)[None]
  pixels[..., 1] = np.linspace(0, 255, height)[:, None]
  path = tmp_path / "a.png"
  Image.fromarray(pixels).save(path)
  whole = read_photo(path, None, (100, 100)) / 255
  assert whole[50, [0, -1], 0] == pytest.approx([0, 1], abs=0.02)
  assert whole[[0, -1], 50, 1] == pytest.approx([0, 1], abs=0.02)
  encoder = {"preprocessing": Preprocessing(224, 224 / 256).described()}
  cut = read_photo(path, encoder, (100, 100)) / 255
  half = 250 * 224 / 256 / 2
  expected = [(200 - half) / 400, (200 + half) / 400]
  assert cut[50, [0, -1], 0] == pytest.approx(expected, abs=0.01)
  expected = [(125 - half) / 250, (125 + half) / 250]
  assert cut[[0, -1], 50, 1] == pytest.approx(expected, abs=0.01)


def test_photos_are_found_by_their_names(tmp_path):
  for name in ("cow/1.jpg", "cow/2.jpg", "ape/1.jpg", "Dog/One.JPG"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  names = [
    "cow/1.jpg",
    "/far/images/cow/2.jpg",
    "dog/one.jpg",
    "x\\ape\\1.jpg",
    "3.jpg",
  ]
  found = find_photos(tmp_path, names)
  assert [f and f.relative_to(tmp_path).as_posix() for f in found] == [
    "cow/1.jpg", "cow/2.jpg", "Dog/One.JPG", "ape/1.jpg", None
  ]  # fmt: skip
  # Which of the two it is of, nobody knows.
  assert find_photos(tmp_path / "cow", ["cow/1.jpg", "ape/1.jpg"]) == [None, None]
  with pytest.raises(ZsljaxError, match="no such folder, expected"):
    find_photos(tmp_path / "absent", names)


def test_damaged_photo_is_named(tmp_path):
  path = tmp_path / "a.jpg"
  path.write_bytes(b"\xff\xd8 not a photograph")
  with pytest.raises(ZsljaxError, match=r"a\.jpg: not readable as an image"):
    read_photo(path, None, (8, 8))


def test_html_shows_texts_as_they_are(tmp_path):
  path, text = tmp_path / "p.png", '<b>"&amp;'
  draw_photo(path, np.zeros((50, 100, 3), np.uint8))
  page = report.page(
    text,
    report.table([], [[text, text]]),
    report.table([text], [[text]]),
    report.section(text, report.paragraph(text)),
    report.picture(path, text, text),
  )
  assert text not in page and page.count(html.escape(text)) == 10
  assert 'width="240" height="120"' in page


def test_pictures_for_papers_are_vectors_and_the_same_every_time(tmp_path):
  def drawn(name):
    (tmp_path / name).mkdir()
    figure = new_figure(3, 2, "Seen and unseen")
    figure.add_subplot().plot([0, 1], label="an unseen class")
    save_figure(figure, tmp_path / name / "curve.png")
    return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

  first, again = drawn("a"), drawn("b")
  assert first == again and first.keys() == {"curve.png", "curve.pdf", "curve.svg"}
  assert b"Seen and unseen</text>" in first["curve.svg"]
  assert first["curve.pdf"].startswith(b"%PDF") and b"/Type0" in first["curve.pdf"]


def test_names_of_clusters_stand_where_there_is_room():
  axis = new_figure(4, 4, "").subplots()
  points = np.repeat([[0.0, 0.0], [0.0, 0.01], [9.0, 9.0]], 3, 0)
  points[3:6, 1] += [0.0, 0.3, -0.3]
  _label_clusters(axis, points, np.repeat([0, 1, 2], 3), ["a", "b", "c"])
  assert sorted(text.get_text() for text in axis.texts) == ["a", "c"]
