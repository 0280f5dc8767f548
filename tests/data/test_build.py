import csv

import h5py
import numpy as np
import pytest

from zsljax.cli.main import main
from zsljax.data import build_set, images_in, prepare, read_labels
from zsljax.data.croissant import write_croissant
from zsljax.data.data_warnings import data_warnings
from zsljax.data.describe import describe
from zsljax.data.export import export_xlsa17
from zsljax.data.importers.xlsa17 import read_xlsa17
from zsljax.data.semantics import write_sources
from zsljax.errors import ZsljaxError
from zsljax.io.checksums import sha256_of

NAMES = ("ape", "bat", "cow", "dog", "sea_elk")
PER_CLASS = 10


class Own:
  """Files of a user's set, to be spoilt."""

  def __init__(self, folder):
    self.folder = folder
    rng = np.random.default_rng(0)
    self.images = [
      f"{name}/{i:02d}.jpg" for name in ("Ape", *NAMES[1:]) for i in range(PER_CLASS)
    ]
    order = rng.permutation(len(self.images))
    self.feature_names = [self.images[i] for i in order]
    self.features = rng.standard_normal((len(order), 4)).astype(np.float32)
    self.attributes = ["big", "wild", "grey"]
    self.classes = {n.replace("_", " "): rng.uniform(0, 1, 3) for n in NAMES}

  def write(self):
    for name in self.images:
      path = self.folder / "photos" / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.touch()
    with h5py.File(self.folder / "features.h5", "w") as file:
      file["features"] = self.features
      file["image_files"] = self.feature_names
    with (self.folder / "classes.csv").open("w", newline="") as file:
      writer = csv.writer(file)
      writer.writerow(["class", *self.attributes])
      writer.writerows([name, *row] for name, row in self.classes.items())
    return self

  def labels(self, *lines):
    path = self.folder / "labels.csv"
    path.write_text("\n".join(lines) + "\n")
    return read_labels(path)

  def build(self, images=None, **options):
    return build_set(
      images or images_in(self.folder / "photos"),
      [self.folder / "features.h5"],
      self.folder / "classes.csv",
      "mine",
      **options,
    )

  def listed(self, *names):
    path = self.folder / "names.txt"
    path.write_text("\n".join(names))
    return path


@pytest.fixture
def own(tmp_path):
  return Own(tmp_path)


def test_images_features_and_classes_come_together(own):
  feature_set, left_out = own.write().build()
  assert left_out == []
  assert feature_set.classes.names == tuple(own.classes)
  assert feature_set.classes.attribute_names == ("big", "wild", "grey")
  for row in range(50):
    name = feature_set.image_files[row]
    np.testing.assert_array_equal(
      feature_set.features[row], own.features[own.feature_names.index(name)]
    )
    folder = name.split("/")[0].lower().replace("_", " ")
    assert feature_set.classes.names[feature_set.labels[row]] == folder


def test_what_descriptions_were_made_of_is_kept(own):
  weights = own.write().listed("text encoder")
  write_sources(own.folder / "classes.csv", [weights])
  sources = own.build()[0].sources
  assert sources[f"{own.folder.name}/names.txt"] == sha256_of(weights)
  assert [*sources][1:] == ["classes.csv", "features.h5"]


def test_the_proposed_split_is_seeded_and_stratified(own):
  own.write()
  with pytest.raises(ZsljaxError, match="--seed: found -1, expected 0 or more"):
    own.build(seed=-1)
  first, again, other = (own.build(seed=seed)[0] for seed in (3, 3, 4))
  assert first.fingerprint() == again.fingerprint() != other.fingerprint()
  assert first.split_version == "proposed_3"
  seen = np.asarray(first.classes.seen)
  assert seen.sum() == 4 and len(first.validation_classes) == 1
  held_out = first.labels[first.splits["test_seen"]]
  assert np.bincount(held_out, minlength=5).tolist() == (2 * seen).tolist()
  assert np.all(~seen[first.labels[first.splits["test_unseen"]]])
  together = np.sort(np.concatenate(list(first.splits.values())))
  np.testing.assert_array_equal(together, np.arange(50))


def test_given_classes_are_taken(own):
  own.write()
  unseen = own.listed("Sea Elk", "bat")
  feature_set, _ = own.build(unseen=unseen)
  assert [n for n, s in zip(NAMES, feature_set.classes.seen, strict=True) if not s] == [
    "bat",
    "sea_elk",
  ]
  validation = own.listed("dog")
  feature_set, _ = own.build(validation=validation, seed=1)
  assert feature_set.validation_classes == (3,)


def test_given_splits_are_taken(own):
  own.write()
  lines = []
  for i, name in enumerate(own.images):
    unseen = name.startswith("cow")
    split = "test_unseen" if unseen else ("test_seen" if i % 10 == 9 else "trainval")
    lines.append(f"{name},{name.split('/')[0].lower()},{split}")
  images = own.labels("image,class,split", *lines)
  feature_set, _ = own.build(images)
  assert feature_set.split_version == "as_given"
  assert np.sum(~feature_set.classes.seen) == 1
  assert len(feature_set.splits["test_seen"]) == 4


def test_word_vectors_of_the_attributes(own):
  own.write()
  path = own.folder / "glove.txt"
  path.write_text("big 1 2\nwild 3 4\ngrey 5 6\n")
  feature_set, _ = own.build(word_vectors=path)
  np.testing.assert_array_equal(
    feature_set.classes.attribute_vectors, [[1, 2], [3, 4], [5, 6]]
  )
  path.write_text("big 1 2\nwild 3 4\n")
  with pytest.raises(ZsljaxError, match="grey"):
    own.build(word_vectors=path)


def test_what_cannot_be_used_is_an_error_or_left_out_and_listed(own):
  del own.classes["cow"]
  own.features[own.feature_names.index("dog/03.jpg")] = np.nan
  gone = own.feature_names.index("bat/00.jpg")
  own.feature_names[gone] = "bat/other.jpg"
  own.write()
  with pytest.raises(ZsljaxError, match="no features of 1 of the 50"):
    own.build()
  feature_set, left_out = own.build(skip_bad=True)
  assert len(feature_set.labels) == 50 - 10 - 2
  assert len(left_out) == 12
  assert "dog/03.jpg: features not finite" in left_out
  assert "bat/00.jpg: no features" in left_out
  assert "cow" not in feature_set.classes.names


@pytest.mark.parametrize(
  ("spoil", "message"),
  [
    (lambda o: o.feature_names.__setitem__(0, "x.jpg"), "no features of 1 of the 50"),
    (
      lambda o: o.features.__setitem__((3, 0), np.inf),
      "features not finite: found 1 such image,",
    ),
    (lambda o: o.classes.clear(), "no class"),
  ],
)
def test_bad_files_are_refused(spoil, message, own):
  spoil(own)
  own.write()
  with pytest.raises(ZsljaxError, match=message):
    own.build()


@pytest.mark.parametrize(
  ("lines", "message"),
  [
    (["picture,class", "a.jpg,ape"], "expected the header image,class"),
    (
      ["image,class", "a.jpg,ape", "a.jpg,bat"],
      "line 3: found the image 'a.jpg' again",
    ),
    (["image,class", "a.jpg"], "line 2: found 'a.jpg'"),
    (["image,class,split", "a.jpg,ape,test"], "split 'test', expected one of trainval"),
    (["image,class"], "no images"),
  ],
)
def test_bad_labels_are_refused(lines, message, own):
  with pytest.raises(ZsljaxError, match=message):
    own.labels(*lines)


def test_bad_lines_of_labels_can_be_left_out(own):
  path = own.folder / "labels.csv"
  path.write_text("image,class\na.jpg,ape\na.jpg,bat\nb.jpg\nc.jpg,cow\n")
  images = read_labels(path, skip_bad=True)
  assert images.names == ("a.jpg", "c.jpg") and len(images.left_out) == 2


def test_names_of_one_spelling_are_refused(own):
  own.classes["Bat"] = own.classes["bat"]
  own.write()
  with pytest.raises(ZsljaxError, match="'bat' and 'Bat', expected names that differ"):
    own.build()


def test_names_are_the_same_however_accents_are_written(own):
  own.classes["caf\u00e9"] = own.classes.pop("cow")
  own.images = [name.replace("cow", "cafe\u0301") for name in own.images]
  own.feature_names = [n.replace("cow", "caf\u00e9") for n in own.feature_names]
  feature_set, _ = own.write().build()
  assert "caf\u00e9" in feature_set.classes.names


def test_linked_folders_are_entered(own, tmp_path):
  own.write()
  (tmp_path / "photos" / "cow").rename(tmp_path / "elsewhere")
  (tmp_path / "photos" / "cow").symlink_to(tmp_path / "elsewhere")
  (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "photos")
  with pytest.warns(UserWarning, match="photos/cow is a link to .*elsewhere, outside"):
    assert len(own.build()[0].labels) == 50


def test_bad_folders_are_refused(tmp_path):
  with pytest.raises(ZsljaxError, match="no such folder"):
    images_in(tmp_path / "absent")
  with pytest.raises(ZsljaxError, match="found no image"):
    images_in(tmp_path)
  (tmp_path / "loose.png").touch()
  with pytest.raises(ZsljaxError, match="outside the folders of classes"):
    images_in(tmp_path)


def test_unknown_names_in_lists_are_refused(own):
  own.write()
  with pytest.raises(ZsljaxError, match="Did you mean 'bat'"):
    own.build(unseen=own.listed("batt"))
  with pytest.raises(ZsljaxError, match="no class that is seen"):
    own.build(unseen=own.listed(*NAMES))


def test_stored_set_is_described_and_exported(own, tmp_path):
  own.features[own.feature_names.index("dog/00.jpg")] = own.features[
    own.feature_names.index("dog/01.jpg")
  ]
  own.features[:, 2] = 1
  own.classes["bat"] = own.classes["ape"]
  feature_set, _ = own.write().build()
  stored = prepare(feature_set, tmp_path / "data")
  odd = data_warnings(stored)
  page = describe(stored, odd)
  for text in (
    "ape and bat",
    "1 image has the very features of another",
    "1 of 4 feature dimensions never change",
    "fewer than 5 test images",
  ):
    assert any(text in sentence for sentence in odd), odd
  assert "unseen      " in page and "odd: " in page
  splits = stored.splits
  names = stored.image_files(splits)
  rows = stored.source_rows(splits)
  np.testing.assert_array_equal(names, feature_set.image_files[rows])
  np.testing.assert_array_equal(
    stored.features_of(splits, [5, 2]),
    np.stack([feature_set.features[rows[i]] for i in (5, 2)]),
  )

  export_xlsa17(stored, tmp_path / "mat")
  again = read_xlsa17(tmp_path / "mat", name="mine")
  np.testing.assert_array_equal(again.features[:], feature_set.features[:])
  np.testing.assert_array_equal(again.labels, feature_set.labels)
  np.testing.assert_array_equal(again.image_files, feature_set.image_files)
  assert again.validation_classes == feature_set.validation_classes
  for split in feature_set.splits:
    np.testing.assert_array_equal(
      np.sort(again.splits[split]), np.sort(feature_set.splits[split])
    )
  with pytest.raises(ZsljaxError, match="expected none: it would be replaced"):
    export_xlsa17(stored, tmp_path / "mat")


@pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib")
def test_export_is_described_in_croissant(own, tmp_path, capsys):
  feature_set, _ = own.write().build()
  stored = prepare(feature_set, tmp_path / "data")
  folder = tmp_path / "out"
  typed = ["data", "export-xlsa17", str(stored.folder), f"--dest={folder}"]
  main([*typed, "--croissant", "--license=CC-BY-4.0"])
  assert "croissant.json" in capsys.readouterr().out
  mlcroissant = pytest.importorskip("mlcroissant")
  described = mlcroissant.Dataset(str(folder / "croissant.json"))
  assert described.metadata.license == ["CC-BY-4.0"]
  for file in described.metadata.distribution:
    assert file.sha256 == sha256_of(folder / file.name)
  images = [
    tuple(record[f"images/{name}"].decode() for name in ("image", "class", "split"))
    for record in described.records("images")
  ]
  expected = {
    (feature_set.image_files[row], NAMES[feature_set.labels[row]].replace("_", " "), x)
    for x, rows in feature_set.splits.items()
    for row in rows
  }
  assert set(images) == expected and len(images) == len(expected)
  classes = list(described.records("classes"))
  np.testing.assert_allclose(
    [[record[f"classes/{name}"] for name in own.attributes] for record in classes],
    stored.classes.embeddings,
    rtol=1e-6,
  )
  with pytest.raises(ZsljaxError, match="images.csv: found a file, expected none"):
    write_croissant(stored, [], folder)
