import re

import numpy as np
import pytest
import scipy.io

from zsljax.data import read_xlsa17
from zsljax.data.importers.published import PUBLISHED
from zsljax.errors import ZsljaxError
from zsljax.io.checksums import sha256_of

NAMES = ("ape", "bat", "cow", "dog", "elk", "fox")
IMAGES = "res101.mat"
SPLIT = "att_splits.mat"


def rejected(files, *words, **options):
  """Checks that the content is refused in words that help."""
  with pytest.raises(ZsljaxError) as error:
    files.write().read(**options)
  for word in (str(files.folder), *words, "expected"):
    assert word in str(error.value)


def noted(feature_set, text):
  return any(text in note for note in feature_set.notes)


def test_good_pair_keeps_content_and_splits(xlsa17):
  found, rows = xlsa17.write().read(), xlsa17.rows
  np.testing.assert_array_equal(found.features, xlsa17.image["features"].T)
  np.testing.assert_array_equal(found.labels, rows.labels)
  np.testing.assert_array_equal(found.classes.embeddings, xlsa17.split["att"].T)
  assert found.classes.names == NAMES
  assert found.notes == (
    "train_loc and val_loc contain the test_seen images (older version of the "
    "split); the stored train and val are cut from trainval alone.",
  )
  trainval = np.concatenate([found.splits["train"], found.splits["val"]])
  np.testing.assert_array_equal(np.sort(trainval), np.sort(rows.trainval))
  np.testing.assert_array_equal(found.splits["test_seen"], rows.test_seen)
  np.testing.assert_array_equal(found.splits["test_unseen"], rows.test_unseen)
  np.testing.assert_array_equal(found.classes.seen, [1, 1, 0, 1, 1, 0])
  assert found.validation_classes == (4,)
  assert (found.name, found.features_kind) == ("small", "res101")
  assert found.class_embedding == "att"
  files = {file: sha256_of(xlsa17.folder / file) for file in (IMAGES, SPLIT)}
  assert found.sources == files


def test_original_att(xlsa17):
  found = xlsa17.write().read(attributes="original_att")
  np.testing.assert_array_equal(
    found.classes.embeddings, xlsa17.split["original_att"].T
  )
  assert found.class_embedding == "original_att"
  assert noted(found, "The class embeddings in original_att have lengths")


def test_versions_of_the_split(xlsa17):
  older = xlsa17.write().read()
  xlsa17.use_newer_split()
  newer = xlsa17.write().read()
  assert (older.split_version, newer.split_version) == ("xlsa17-v1", "xlsa17-v2")
  assert newer.notes == ()
  assert newer.fingerprint() == older.fingerprint()


@pytest.mark.parametrize(("newer", "count"), [(True, 31), (False, 43)])
def test_version_unknown_by_count(xlsa17, newer, count):
  if newer:
    xlsa17.use_newer_split()
  xlsa17.split["train_loc"] = xlsa17.split["train_loc"][1:]
  found = xlsa17.write().read()
  assert found.split_version == "xlsa17-unknown"
  assert noted(found, f"hold {count} images, neither trainval's 32")


@pytest.mark.parametrize("field", ["train_loc", "val_loc"])
def test_version_unknown_without_locations(xlsa17, field):
  del xlsa17.split[field]
  found = xlsa17.write().read()
  assert found.split_version == "xlsa17-unknown"
  assert noted(found, "lacks train_loc or val_loc")
  assert found.classes.seen[list(found.validation_classes)].all()
  assert noted(found, "1 seen class was drawn with seed 0") == (field == "val_loc")


def test_validation_class_must_not_be_a_test_class(xlsa17):
  unseen, val = xlsa17.split["test_unseen_loc"], xlsa17.split["val_loc"]
  xlsa17.split["test_unseen_loc"] = unseen[1:]
  xlsa17.split["val_loc"] = np.concatenate([val, unseen[:1]])
  label = xlsa17.rows.labels[int(unseen[0, 0]) - 1]
  rejected(
    xlsa17, f"val_loc: found images of the classes [{label}]", "which are unseen"
  )


@pytest.mark.parametrize(
  ("content", "field", "note"),
  [
    ("split", "original_att", "The splits file has no original_att"),
    ("split", "allclasses_names", f"{SPLIT} has no allclasses_names"),
    ("image", "image_files", f"{IMAGES} has no image_files"),
  ],
)
def test_optional_fields_may_be_missing(xlsa17, content, field, note):
  assert not noted(xlsa17.write().read(), note)
  del getattr(xlsa17, content)[field]
  found = xlsa17.write().read()
  assert noted(found, note)
  if field == "allclasses_names":
    assert found.classes.names == tuple(f"class_{i:03d}" for i in range(1, 7))


def test_folders_of_images_are_compared_with_class_names(xlsa17):
  for cell in xlsa17.image["image_files"]:
    cell[0] = cell[0].replace("/", "\\")
  note = "No image file name contains its class"
  assert not noted(xlsa17.write().read(), note)
  xlsa17.image["image_files"][:, 0] = "img.jpg"
  assert noted(xlsa17.write().read(), note)


def test_odd_content_is_noted(xlsa17):
  xlsa17.split["att"] = xlsa17.split["att"] * 2
  xlsa17.image["features"][:, 7] = 0.5
  found = xlsa17.write().read()
  assert noted(found, "att is not original_att with columns scaled to length one")
  assert noted(found, "The class embeddings in att have lengths 2 to 2, not 1")
  assert noted(found, "1 image has constant features (first at image 7,")


def test_versions_of_matlab_read_alike(xlsa17, save):
  old = xlsa17.write().read()
  new = xlsa17.write(save).read()
  assert new.fingerprint() == old.fingerprint()
  assert new.classes.names == old.classes.names
  assert new.notes == old.notes
  assert new.validation_classes == old.validation_classes


def test_missing_files(xlsa17):
  with pytest.raises(ZsljaxError, match="small: found no such folder, expected.*res1"):
    xlsa17.read()
  hint = f"other.mat: found no such file, .*--features=FILE.*holds {SPLIT}, {IMAGES}"
  with pytest.raises(ZsljaxError, match=hint):
    xlsa17.write().read(features="other.mat")
  (xlsa17.write().folder / SPLIT).unlink()
  with pytest.raises(ZsljaxError, match=f"{SPLIT}: found no such file.*{IMAGES}"):
    xlsa17.read()


@pytest.mark.parametrize("file", [IMAGES, SPLIT])
@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.9, 0.99])
def test_truncated_file(xlsa17, save, file, fraction):
  path = xlsa17.write(save).folder / file
  content = path.read_bytes()
  path.write_bytes(content[: int(len(content) * fraction)])
  with pytest.raises(
    ZsljaxError, match=f"(?i){re.escape(str(path))}.*expected.*cut off"
  ):
    xlsa17.read()


def without(field):
  return lambda files: (files.image if field in files.image else files.split).pop(field)


def changed(field, change):
  def apply(files):
    content = files.image if field in files.image else files.split
    content[field] = change(content[field])

  return apply


def with_value(field, at, value):
  def apply(files):
    content = files.image if field in files.image else files.split
    content[field][at] = value

  return apply


def shared(part, other):
  """One image in both parts."""

  def apply(files):
    if part in ("trainval", "test_seen"):
      del files.split["train_loc"], files.split["val_loc"]
    files.split[f"{other}_loc"][0] = files.split[f"{part}_loc"][0]

  return apply


def of_two_kinds(files):
  """An image of an unseen class among those for training."""
  first, *rest = files.rows.test_unseen
  files.location("trainval_loc", [*files.rows.trainval, first])
  files.location("test_unseen_loc", rest)


def without_class(field, label):
  def apply(files):
    rows = np.ravel(files.split[field]).astype(int) - 1
    files.location(field, rows[files.rows.labels[rows] != label])

  return apply


LOC = "trainval_loc"


@pytest.mark.parametrize(
  ("spoil", "words"),
  [
    (without("features"), (IMAGES, "no field features")),
    (without("trainval_loc"), (SPLIT, "no field trainval_loc")),
    (without("att"), (SPLIT, "no field att")),
    (with_value("trainval_loc", 0, 0), (SPLIT, LOC, "found 0", "counts from 1")),
    (with_value("test_seen_loc", 0, 67), (SPLIT, "67", "from 1 to 66", "of images")),
    (with_value(LOC, 4, np.nan), (SPLIT, LOC, "found nan", "whole")),
    (changed("labels", lambda x: x - 1), (IMAGES, "labels", "found 0", "from 1")),
    (with_value("labels", 4, 1.5), (IMAGES, "labels", "found 1.5", "whole")),
    (with_value("labels", 4, 7), (IMAGES, "1 outside the list of 6 cl", "image 4,")),
    (with_value(LOC, 1, 1), (SPLIT, "trainval", "1 image more than once")),
    (changed("test_seen_loc", lambda x: x[:0]), (SPLIT, "test_seen_loc", "(0,)")),
    (shared("trainval", "test_seen"), ("trainval and test_seen", "1 image in both")),
    (shared("val", "train"), (SPLIT, "train_loc and val_loc", "1 image in both")),
    (of_two_kinds, (SPLIT, "1 class (", "both trainval and test_unseen")),
    (without_class(LOC, 3), ("test_seen", "1 class (", "'dog'", "trainval lacks")),
    (without_class("test_unseen_loc", 5), ("1 of 6 classes", "'fox'", "no image")),
    (with_value("features", (2, 7), np.nan), ("features", "in 1 of 66", "image 7,")),
    (with_value("att", (0, 3), np.nan), (SPLIT, "embedding", "NaN, inf", "'dog'")),
    (changed("features", lambda x: x[:, 1:]), (IMAGES, "(5, 65)", "[D, 66]")),
    (changed("features", np.transpose), (IMAGES, "features", "(66, 5)", "[D, 66]")),
    (changed("image_files", lambda x: x[1:]), ("image_files", "(65,)", "texts [66]")),
    (
      changed("allclasses_names", lambda x: x[[1, 0, 2, 3, 4, 5]]),
      (IMAGES, SPLIT, "image_files", "class names in the same order"),
    ),
    (changed("allclasses_names", lambda x: x[1:]), (SPLIT, "(5,)", "texts [6]")),
    (
      changed("allclasses_names", lambda x: np.arange(6) + 0.5),
      (SPLIT, "allclasses_names", "found float64", "expected texts [6]"),
    ),
    (
      changed("features", lambda x: np.zeros((5, 66), [("a", "f4")])),
      (IMAGES, "features", "expected numbers or texts"),
    ),
    (
      changed("att", np.transpose),
      (
        SPLIT,
        "att: found 6 rows and 8 columns",
        "column for each of the 6 cl",
        "trans",
      ),
    ),
    (changed("att", lambda x: x + 1j), (SPLIT, "att", "found complex128")),
    (changed("att", lambda x: x[:0]), (SPLIT, "att", "of shape (0, 6)")),
    (changed("att", lambda x: x + 1e30), (SPLIT, "embedding", "beyond 1e+15")),
    (
      changed("att", lambda x: np.array([["a"], ["b"]], object)),
      (SPLIT, "att", "found <U1 of shape (2,), expected numbers [A, C]"),
    ),
  ],
)
def test_spoilt_content_is_named(xlsa17, spoil, words):
  spoil(xlsa17)
  rejected(xlsa17, *words)


def test_published_name_needs_published_sizes(xlsa17):
  rejected(
    xlsa17,
    SPLIT,
    "images 66 instead of 11788",
    "classes 6 instead of 200",
    "attributes 8 instead of 312",
    "trainval 32 instead of 7057",
    "train and val (33, 11) instead of (5875, 2946)",
    "the published sizes of cub",
    name="cub",
  )
  xlsa17.folder = xlsa17.folder.with_name("AWA2")
  rejected(xlsa17, SPLIT, "images 66 instead of 37322")


def test_predicates_name_attributes(xlsa17):
  path = xlsa17.write().folder / "predicates.txt"
  path.write_text("".join(f"{i + 1}\tattribute{i}\n" for i in range(8)))
  assert xlsa17.read().classes.attribute_names[::7] == ("attribute0", "attribute7")
  path.write_text("1 big\n2 furry\n")
  rejected(xlsa17, "predicates.txt", "2 names", "8, one for each attribute")


def test_real_awa1_has_published_sizes(real_data):
  found = read_xlsa17(real_data / "awa1", features="classic512.mat")
  assert found.features.shape == (30475, 512)
  assert found.classes.embeddings.shape == (50, 85)
  assert "hairless" in found.classes.attribute_names
  assert (found.split_version, found.class_embedding) == ("xlsa17-v1", "att")
  assert found.features_kind == "classic512"
  trainval = len(found.splits["train"]) + len(found.splits["val"])
  assert trainval == 19832
  assert len(found.splits["test_seen"]) == 4958
  assert len(found.splits["test_unseen"]) == 5685
  assert len(found.validation_classes) == 13


def test_newer_version_of_a_published_set_is_accepted(real_data, tmp_path):
  (tmp_path / "classic512.mat").symlink_to(real_data / "awa1" / "classic512.mat")
  labels = scipy.io.loadmat(tmp_path / "classic512.mat")["labels"].ravel()
  split = scipy.io.loadmat(real_data / "awa1" / "att_splits.mat")
  split = {key: value for key, value in split.items() if not key.startswith("__")}
  trainval, held_out = split["trainval_loc"], np.unique(labels[split["val_loc"] - 1])
  in_val = np.isin(labels[trainval - 1], held_out)
  split |= {"train_loc": trainval[~in_val, None], "val_loc": trainval[in_val, None]}
  scipy.io.savemat(tmp_path / "att_splits.mat", split)
  found = read_xlsa17(tmp_path, features="classic512.mat", name="awa1")
  assert found.split_version == "xlsa17-v2"
  older = read_xlsa17(real_data / "awa1", features="classic512.mat")
  assert found.validation_classes == older.validation_classes


def consistent_labels(split, images, classes):
  """Labels that fit a splits file whose labels are not at hand.

  The images of val_loc, the other seen images and test_unseen share no class.
  """
  rows = {field: np.ravel(split[field]).astype(int) - 1 for field in split}
  trainval, test_seen = rows["trainval_loc"], rows["test_seen_loc"]
  labels = np.full(images, classes - 1)
  seen, held_out = classes // 2, classes // 8
  for part in (trainval, test_seen):
    val = np.isin(part, rows["val_loc"])
    labels[part[val]] = np.arange(val.sum()) % held_out
    labels[part[~val]] = held_out + np.arange((~val).sum()) % (seen - held_out)
  unseen = rows["test_unseen_loc"]
  labels[unseen] = seen + np.arange(len(unseen)) % (classes - seen)
  return labels


@pytest.mark.parametrize(
  ("folder", "splits", "kind", "version"),
  [
    ("AWA2", "att_splits.mat", "att", "xlsa17-v1"),
    ("SUN", "att_splits.mat", "att", "xlsa17-v1"),
    ("APY", "att_splits.mat", "att", "xlsa17-v2"),
    ("FLO", "att_splits.mat", "sent", "xlsa17-v1"),
    ("CUB", "sent_splits.mat", "sent", "xlsa17-v1"),
  ],
)
def test_real_split_is_accepted(real_data, tmp_path, folder, splits, kind, version):
  name = folder.lower()
  source = real_data / "att_splits" / folder
  split = scipy.io.loadmat(source / splits)
  sizes = PUBLISHED[name]
  if (source / "locations.npz").is_file():
    labels = np.load(source / "locations.npz")["labels"]
  else:
    locations = {field: split[field] for field in split if field.endswith("_loc")}
    labels = consistent_labels(locations, sizes.images, sizes.classes)
  rng = np.random.default_rng(0)
  features = rng.standard_normal((4, sizes.images), np.float32)
  image = {"features": features, "labels": labels[:, None] + 1}
  scipy.io.savemat(tmp_path / IMAGES, image)
  (tmp_path / splits).symlink_to(source / splits)

  found = read_xlsa17(tmp_path, splits=splits, name=name)
  assert found.split_version == version
  assert found.class_embedding == kind
  assert noted(found, "no original_att") == ("original_att" not in split)
  assert noted(found, "no allclasses_names") == ("allclasses_names" not in split)
  assert noted(found, "no image_files")
  assert len(found.splits["test_unseen"]) == sizes.test_unseen
