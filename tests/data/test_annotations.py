import csv
import json
import os
import pathlib
import re
import shutil

import numpy as np
import pytest

from zsljax.__main__ import main
from zsljax.data import (
  prepare,
  read_coco,
  read_nus_wide,
  read_open_images,
)
from zsljax.data.importers import coco
from zsljax.errors import ZsljaxError
from zsljax.evaluation.multilabel import (
  MULTI_LABEL_PROTOCOLS,
  multi_label_metrics,
  population,
)

WIDTH = 3
COCO_LISTS = pathlib.Path(os.environ.get("ZSLJAX_DATA") or "absent") / "coco_zsl"


def write_vectors(path, words):
  """A vector for each word: its place among them, and its length."""
  vectors = np.float32([[i + 1, len(word)] for i, word in enumerate(words)])
  np.savez(path, words=np.array(words), vectors=vectors)
  return path


def write_features(path, features, names=None):
  """Writes an ``.npz`` or ``.npy`` file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == ".npy":
    np.save(path, features)
  else:
    named = {} if names is None else {"image_files": np.array(names)}
    np.savez(path, features=features, **named)
  return path


def write_csv(path, rows):
  with path.open("w", newline="") as file:
    csv.writer(file).writerows(rows)


def cells(rows, separator=" "):
  return "".join(separator.join(map(str, row)) + "\n" for row in rows)


class Source:
  """Content of good label files, to be spoilt, and what should be read from them.

  Attributes:
    images: names as the label files have them, training images first.
    unused: how many of them are in no split; they come last of each file's.
    train: positions of training images.
    test: positions of test images.
    seen: names of seen labels.
    unseen: names of unseen ones.
    expected: ``[M, L]`` of 1, -1 and 0.
  """

  def __init__(self, folder):
    self.folder = folder
    folder.mkdir()
    self.rng = np.random.default_rng(0)
    self.fill()
    self.vectors = write_vectors(folder / "glove.6B.npz", self.words)
    count = len(self.images)
    self.features = self.rng.standard_normal((count, WIDTH)).astype(np.float32)

  @property
  def words(self):
    return [*self.seen, *self.unseen]

  def read(self, files=None, **options):
    if files is None:
      files = [write_features(self.folder / "vgg.npz", self.features, self.images)]
    self.write()
    return self.read_files(files, self.vectors, **options)

  def refused(self, *arguments, **options):
    with pytest.raises(ZsljaxError) as error:
      self.read(*arguments, **options)
    return str(error.value)


class NusWide(Source):
  name, split = "nus_wide", "nus-925-81"
  seen, unseen = ["nature", "blue", "city", "dogs", "night"], ["dog", "sun", "lake"]
  tags = ["nature", "dog", "blue", "city", "lake", "dogs", "night"]

  def fill(self):
    self.parts = {"Train": 20, "Test": 9}
    self.content = {
      "ConceptsList/Concepts81.txt": "".join(f"{c}\r\n" for c in self.unseen),
      "NUS_WID_Tags/TagList1k.txt": "\n".join(self.tags),
    }
    self.images, expected = [], []
    for part, count in self.parts.items():
      names = [f"{'ab'[i % 2]}\\{i:04d}_{part}.jpg" for i in range(count)]
      tags = self.rng.integers(0, 2, (count, len(self.tags)))
      tags[:, 0] = 1
      truth = self.rng.integers(0, 2, (count, len(self.unseen)))
      self.content |= {
        f"ImageList/{part}Imagelist.txt": "\n".join(names) + "\n",
        f"NUS_WID_Tags/{part}_Tags1k.dat": cells([*row, ""] for row in tags),
      }
      for concept, column in zip(self.unseen, truth.T, strict=True):
        file = f"Groundtruth/TrainTestLabels/Labels_{concept}_{part}.txt"
        self.content[file] = cells(column[:, None])
      self.images += names
      columns = [self.tags.index(tag) for tag in self.seen]
      expected.append(np.hstack([tags[:, columns], truth]))
    self.expected = np.vstack(expected)
    self.train, self.test = np.arange(20), np.arange(20, 29)
    self.source = self.folder / "NUS"

  def write(self):
    shutil.rmtree(self.source, ignore_errors=True)
    for name, text in self.content.items():
      path = self.source / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(text.encode())

  def read_files(self, *arguments, **options):
    return read_nus_wide(self.source, *arguments, **options)

  def arguments(self):
    return "import-nus-wide", f"--source={self.source}"


class Coco(Source):
  name, split = "coco", "coco-48-17"
  seen, unseen = coco.SEEN, coco.UNSEEN

  def fill(self):
    names = [*self.words, "parking meter"]
    ids = {name: 3 + 2 * i for i, name in enumerate(self.rng.permutation(names))}
    person, dog, cat = (self.words.index(name) for name in ("person", "dog", "cat"))
    kinds = [{person}, {person, 5}, {dog}, {person, dog}, set(), {cat, dog}, {7}]
    self.content, self.images, self.ids = {}, [], []
    expected, train, test = [], [], []
    for file, count in (("train", 21), ("val", 14)):
      images, annotations = [], []
      for i in range(count):
        image, present = len(self.images), kinds[i % len(kinds)]
        self.ids.append(1000 - image)
        self.images.append(f"COCO_{file}2014_{1000 - image:012d}.jpg")
        images.append(
          {"id": self.ids[-1], "file_name": self.images[-1], "license": 1, "width": 9}
        )
        for label in [*present, *present]:
          annotations.append(
            {
              "id": len(annotations),
              "image_id": self.ids[-1],
              "category_id": ids[self.words[label]],
              "segmentation": [[1.5, 2.5]],
              "iscrowd": 0,
            }
          )
        if i % 3 == 0:
          annotations.append(
            {"id": 0, "image_id": self.ids[-1], "category_id": ids["parking meter"]}
          )
        expected.append(np.isin(np.arange(65), list(present)).astype(int))
        if file == "train" and present and not present & {dog, cat}:
          train.append(image)
        if file == "val" and present:
          test.append(image)
      self.rng.shuffle(annotations)
      self.content[file] = {
        "info": {"year": 2014},
        "images": images,
        "annotations": annotations,
        "categories": [
          {"id": i, "name": n, "supercategory": ""} for n, i in ids.items()
        ],
      }
    self.expected = np.array(expected)
    self.train, self.test = np.array(train), np.array(test)
    self.files = [self.folder / f"instances_{file}2014.json" for file in self.content]

  def write(self):
    for path, content in zip(self.files, self.content.values(), strict=True):
      path.write_text(json.dumps(content))

  def read_files(self, *arguments, **options):
    return read_coco(*self.files, *arguments, **options)

  def arguments(self):
    train, val = self.files
    return "import-coco", f"--train={train}", f"--test={val}"


class OpenImages(Source):
  name, split = "open_images", "openimages-7186-400"
  mids = ["/m/01", "/m/0a", "/m/0bt", "/m/0c_", "/m/0d", "/m/0e", "/m/0f"]
  displays = ["Jaguar", "Tree", "Human face", "Jaguar", "Car", "Sea", "Bat, flying"]
  seen = ["Jaguar (/m/01)", "Tree", "Human face", "Jaguar (/m/0c_)", "Car"]
  unseen = ["Sea", "Bat, flying"]
  words = list(dict.fromkeys(displays))

  def fill(self):
    parts = {"train": 15, "test": 8}
    count = sum(parts.values())
    self.images = [f"{i * 7919:016x}" for i in range(count)]
    self.expected = self.rng.integers(-1, 2, (count, len(self.mids)))
    self.train, self.test = np.arange(15), np.arange(15, 23)
    header = ["ImageID", "Source", "LabelName", "Confidence"]
    self.content = {}
    first = 0
    for part, size in parts.items():
      rows = [[self.images[first], "verification", "/m/other", "1"]]
      for image, row in zip(
        self.images[first:][:size], self.expected[first:][:size], strict=True
      ):
        rows += [
          [image, "verification", mid, {1: "1", -1: "0"}[value]]
          for mid, value in zip(self.mids, row, strict=True)
          if value
        ]
        rows.append([image, "verification", "/m/other", "0"])
      rows.append(["0123456789abcdef", "verification", "/m/01", "1"])
      self.content[f"{part}.csv"] = [header, *rows]
      first += size
    self.content |= {
      "descriptions.csv": [
        ["/m/other", "Other"],
        *zip(self.mids, self.displays, strict=True),
      ],
      "seen.txt": [[mid] for mid in self.mids[:5]],
      "unseen.txt": [["LabelName", "DisplayName"], *[[m, "x"] for m in self.mids[5:]]],
    }
    self.files = [self.folder / file for file in self.content]

  def write(self):
    for path in self.files:
      write_csv(path, self.content[path.name])

  def read_files(self, *arguments, **options):
    return read_open_images(*self.files, *arguments, **options)

  def arguments(self):
    names = ("train_labels", "test_labels", "descriptions", "seen", "unseen")
    files = zip(names, self.files, strict=True)
    return "import-open-images", *(f"--{name}={path}" for name, path in files)


@pytest.fixture
def nus_wide(tmp_path):
  return NusWide(tmp_path / "nus")


@pytest.fixture
def coco_files(tmp_path):
  return Coco(tmp_path / "coco")


@pytest.fixture
def open_images(tmp_path):
  return OpenImages(tmp_path / "open")


@pytest.fixture(params=[NusWide, Coco, OpenImages], ids=lambda kind: kind.name)
def source(request, tmp_path):
  return request.param(tmp_path / "source")


def check_set(found, source):
  """Each image has the labels of the source's image that has its features."""
  assert found.classes.names == (*source.seen, *source.unseen)
  np.testing.assert_array_equal(
    found.classes.seen, np.arange(len(found.classes)) < len(source.seen)
  )
  known = {row.tobytes(): i for i, row in enumerate(source.features)}
  assert len(known) == len(source.features)
  images = np.array([known[row.tobytes()] for row in found.features[:]])
  np.testing.assert_array_equal(found.labels.toarray(), source.expected[images])
  trainval = np.concatenate([found.splits["train"], found.splits["val"]])
  assert sorted(images[trainval]) == source.train.tolist()
  assert sorted(images[found.splits["test"]]) == source.test.tolist()


def test_stored_set_holds_the_files(source, tmp_path):
  """From shuffled features in two files, with an image that no label file knows."""
  names = [
    re.split(r"[/\\\\]", name)[-1].removesuffix(".jpg") for name in source.images
  ]
  names.append("elsewhere/none.png")
  features = np.vstack([source.features, np.ones((1, WIDTH), np.float32)])
  parts = np.array_split(np.random.default_rng(1).permutation(len(names)), 2)
  found = source.read(
    [
      write_features(
        tmp_path / f"{i}_vgg.npz", features[part], [names[j] for j in part]
      )
      for i, part in enumerate(parts)
    ]
  )
  assert found.split_version == (source.split if source.name == "coco" else "as_given")
  assert set(found.sources) >= {"0_vgg.npz", "1_vgg.npz", "glove.6B.npz"}
  check_set(found, source)
  store = prepare(found, tmp_path / "data")
  assert store.metadata["name"] == source.name
  assert store.variant == "vgg_glove.6B"
  assert ("absent" in store.metadata["label_widths"]) == isinstance(source, OpenImages)


def test_missing_images_are_counted_and_the_first_is_named(source):
  first, other = source.images[source.train[1]], source.images[source.test[-1]]
  kept = [i for i, name in enumerate(source.images) if name not in (first, other)]
  path = write_features(
    source.folder / "some.npz", source.features[kept], [source.images[i] for i in kept]
  )
  if isinstance(source, OpenImages):
    assert len(source.read([path]).labels.indptr) - 1 == len(kept)
    return
  message = source.refused([path])
  used = len(source.train) + len(source.test)
  assert f"found no features of 2 of the {used} images (the first is" in message
  assert repr(first) in message and path.name in message


def test_labels_without_vectors(source, tmp_path):
  words = source.words
  source.vectors = write_vectors(tmp_path / "glove.npz", words[:1] + words[2:])
  assert words[1] in source.refused()
  found = source.read(unknown="known_words")
  assert words[1] not in found.classes.names
  assert len(found.classes) == source.expected.shape[1] - 1
  assert found.split_version == "as_given"
  assert any("left out (1 of" in note and words[1] in note for note in found.notes)
  source.seen = [name for name in source.seen if name != words[1]]
  source.expected = np.delete(source.expected, 1, 1)
  if isinstance(source, OpenImages):  # Its second word is the label /m/0a.
    assert "Jaguar (/m/0c_)" in found.classes.names
  check_set(found, source)


def test_commands(source, capsys, tmp_path):
  source.write()
  path = write_features(tmp_path / "net.npz", source.features, source.images)
  data = ["data", *source.arguments(), f"--dest={tmp_path / 'data'}"]
  given = ["--features", str(path), f"--word_vectors={source.vectors}"]
  main([*data, *given, "--name=Other set", "--storage=bfloat16"])
  printed = capsys.readouterr().out
  assert "other_set: " in printed and "net features of 3, stored as bfloat16" in printed


# NUS-WIDE.


def test_nus_wide_as_published(nus_wide, real_data):
  """All 1006 labels with real word vectors: 925 tags and 81 concepts."""
  vectors = real_data / "word_vectors" / "nus_glove300_1081.npz"
  if not vectors.is_file():
    pytest.skip(f"no {vectors.name}")
  with np.load(vectors) as arrays:
    words, expected = arrays["words"].tolist(), arrays["vectors"]
  nus_wide.unseen, nus_wide.seen = words[:81], words[81:]
  nus_wide.tags = nus_wide.seen + nus_wide.unseen[:75]
  nus_wide.fill()
  nus_wide.vectors = vectors
  found = nus_wide.read()
  assert found.split_version == "nus-925-81"
  assert found.class_embedding == "nus_glove300_1081"
  np.testing.assert_array_equal(
    found.classes.embeddings, np.vstack([expected[81:], expected[:81]])
  )
  check_set(found, nus_wide)
  (path := nus_wide.folder / "list.txt").write_text(nus_wide.images[nus_wide.test[0]])
  assert nus_wide.read(lists={"test": path}).split_version == "as_given"


# COCO.


@pytest.mark.parametrize("form", ["names", "ids", "json"])
def test_lists_take_some_of_the_images(coco_files, tmp_path, form):
  few = {"train": coco_files.train[1:], "test": coco_files.test[::2]}
  lists = {}
  for split, places in few.items():
    names = [coco_files.images[i] for i in places]
    if form == "ids":
      names = [coco_files.ids[i] for i in places]
    lists[split] = tmp_path / f"{split}.{'json' if form == 'json' else 'txt'}"
    whole = json.dumps({"images": {str(name): ["dog"] for name in names}})
    lists[split].write_text(
      whole if form == "json" else "".join(f"{name}\n" for name in names)
    )
  found = coco_files.read(lists=lists)
  coco_files.train, coco_files.test = few["train"], few["test"]
  check_set(found, coco_files)
  assert found.split_version == "as_given"
  assert {"train.json", "test.json"} <= found.sources.keys() or form != "json"


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("9\n", "list.txt: found 1 of 1 images that are not among them, ['9'], expected"),
    ("", "list.txt: found no images, expected some"),
    ("979\n979\n", "['979'] more than once"),
  ],
)
def test_lists_that_do_not_fit(coco_files, tmp_path, content, message):
  (tmp_path / "list.txt").write_text(content)
  assert message in coco_files.refused(lists={"test": tmp_path / "list.txt"})


@pytest.mark.skipif(not COCO_LISTS.is_dir(), reason="ZSLJAX_DATA has no coco_zsl")
@pytest.mark.parametrize(
  ("count", "split", "setting", "density"),
  [
    (65, "coco-48-17-lists", "gzsl", 2.5702),
    (65, "coco-48-17-lists", "zsl", 1.2074),
    (17, "coco-48-17-lists-zsl", "zsl", 1.2074),
  ],
)
def test_released_lists_of_coco(coco_files, tmp_path, count, split, setting, density):
  """From instances that are made of the lists, beside images that are not listed."""
  listed = json.loads((COCO_LISTS / "test_65.json").read_text())["images"]
  content = coco_files.content["val"]
  ids = {category["name"]: category["id"] for category in content["categories"]}
  content["images"] += [
    {"id": int(image), "file_name": f"COCO_val2014_{image}.jpg"} for image in listed
  ]
  content["annotations"] += [
    {"id": 0, "image_id": int(image), "category_id": ids[name]}
    for image, names in listed.items()
    for name in names
  ]
  coco_files.images += [image["file_name"] for image in content["images"][14:]]
  size = len(coco_files.images), WIDTH
  coco_files.features = np.random.default_rng(0).random(size, np.float32)
  found = coco_files.read(lists={"test": COCO_LISTS / f"test_{count}.json"})
  assert found.split_version == split
  labels = found.labels.toarray()[found.splits["test"]]
  rules = MULTI_LABEL_PROTOCOLS["sdl"]
  _, counted = multi_label_metrics(
    np.zeros(labels.shape), 2 * labels - 1, np.asarray(found.classes.seen), rules
  )
  assert counted[setting]["density"] == pytest.approx(density, abs=5e-5)
  expected = "released lists" if count == 65 else "none known"
  assert population("coco", split, counted) == expected


def test_coco_features_named_by_ids(coco_files, tmp_path):
  path = write_features(tmp_path / "x.npz", coco_files.features, coco_files.ids)
  check_set(coco_files.read([path]), coco_files)


# Open Images.


def test_open_images_disagreement_and_machine_labels(open_images, tmp_path):
  expected = open_images.expected
  rows = open_images.content["train.csv"]
  images = open_images.images
  expected[:5] = 0
  expected[0, 0] = expected[1, 1] = expected[2, 2] = 1
  expected[4, 5] = -1
  rows[1:] = [
    row for row in rows[1:] if row[0] not in images[:5] or row[2] == "/m/other"
  ]
  rows += [
    [images[0], "verification", "/m/01", "1"],
    [images[0], "verification", "/m/01", "0"],
    [images[1], "machine", "/m/0a", "0.5"],
    [images[2], "machine", "/m/0bt", "0.9"],
    [images[2], "verification", "/m/0bt", "0.0"],
    [images[3], "machine", "/m/0d", "0.4"],
    [images[4], "verification", "/m/0e", "0"],
    [images[4], "verification", "/m/0e", "0"],
    [],
  ]
  check_set(open_images.read(), open_images)


def test_open_images_names_that_occur_twice(open_images):
  with np.load(open_images.vectors) as arrays:
    jaguar = arrays["vectors"][0]
  classes = open_images.read().classes
  assert classes.names[0] == "Jaguar (/m/01)" and classes.names[3] == "Jaguar (/m/0c_)"
  np.testing.assert_array_equal(classes.embeddings[0], jaguar)
  np.testing.assert_array_equal(classes.embeddings[3], jaguar)


# Files that are missing, damaged, or do not agree.


def text(file, change):
  """Changes a file of NUS-WIDE; None takes it away."""

  def spoil(source):
    if change is None:
      del source.content[file]
    else:
      source.content[file] = change(source.content[file])

  return spoil


def rows(file, change):
  return lambda source: change(source.content[file])


def on_disk(number, content):
  """Changes a file once it is written; None takes it away."""

  def spoil(source):
    source.write()
    source.write = lambda: None
    path = source.files[number]
    path.unlink() if content is None else path.write_bytes(content)

  return spoil


def for_coco(change):
  def spoil(source):
    content = source.content["val"]
    content["categories"].sort(key=lambda c: c["name"] == "person")
    change(content)

  return spoil


def named_otherwise(source):
  source.images = [f"other_{i}" for i in range(len(source.images))]


TAGS, TAG_LIST = "NUS_WID_Tags/{}_Tags1k.dat", "NUS_WID_Tags/TagList1k.txt"
SUN = "Groundtruth/TrainTestLabels/Labels_sun_Test.txt"
TEST_LIST = "ImageList/TestImagelist.txt"
CONCEPTS = "ConceptsList/Concepts81.txt"
BOTH = "more than once, expected each name once"


def not_utf8(source):
  source.write()
  source.write = lambda: None
  (source.source / TEST_LIST).write_bytes(b"\xff\xfe\x00")


@pytest.mark.parametrize(
  ("kind", "spoil", "message"),
  [
    (NusWide, text(SUN, None), "found no Groundtruth/TrainTestLabels/Labels_sun_Test"),
    (
      NusWide,
      lambda s: setattr(s, "write", s.folder.exists),
      "NUS: found no such folder",
    ),
    (NusWide, text(TAGS.format("Test"), lambda x: x[:-16]), "found 8 rows, expected 9"),
    (NusWide, text(TAGS.format("Train"), lambda x: "2" + x[1:]), "line 1: found 7 dig"),
    (NusWide, text(TAG_LIST, lambda x: x + "\nblue"), "['blue'] more than"),
    (
      NusWide,
      text(TEST_LIST, lambda x: x.replace("a\\0008_Test", "b\\0003_Train")),
      BOTH,
    ),
    (NusWide, text(TAGS.format("Test"), lambda _: ""), "dat: found no lines, expected"),
    (NusWide, text(TAG_LIST, lambda _: " \n"), "TagList1k.txt: found no names"),
    (NusWide, text(CONCEPTS, lambda _: ""), "Concepts81.txt: found no names"),
    (NusWide, text(SUN, lambda _: ""), "found 0 digits"),
    (NusWide, not_utf8, "TestImagelist.txt: not readable"),
    (NusWide, text(SUN, lambda x: x[2:]), "8 digits, 0 of them not 0 or 1, expected 9"),
    (Coco, for_coco(lambda c: c["categories"].pop()), "categories: found no "),
    (Coco, for_coco(lambda c: c["annotations"][0].update(image_id=5)), "image_id 5"),
    (Coco, for_coco(lambda c: c["images"].append(c["images"][0])), "15 with 14 ids"),
    (Coco, for_coco(lambda c: c["images"][3].pop("file_name")), "a list of objects wi"),
    (Coco, for_coco(lambda c: c["images"][3].update(id=[1])), "a list of objects wi"),
    (Coco, for_coco(lambda c: c.pop("annotations")), "annotations: found nothing"),
    (Coco, rows("train", lambda c: c.update(annotations=[])), "train: found no images"),
    (
      Coco,
      lambda s: s.content["val"]["images"][0].update(file_name=s.images[0]),
      BOTH,
    ),
    (Coco, on_disk(0, b'{"images": ['), "train2014.json: not readable"),
    (
      OpenImages,
      rows("train.csv", lambda r: r[0].pop()),
      "first line: found ImageID,S",
    ),
    (OpenImages, rows("test.csv", lambda r: r[2].__setitem__(3, "yes")), "Confidence"),
    (
      OpenImages,
      rows("descriptions.csv", lambda r: r.pop()),
      "no /m/0f (1 of 7 labels",
    ),
    (OpenImages, rows("unseen.txt", lambda r: r.append(["/m/01"])), "['/m/01'], seen"),
    (OpenImages, rows("seen.txt", lambda r: r.append(["/m/01"])), "more than once"),
    (
      OpenImages,
      rows("unseen.txt", lambda r: r.clear()),
      "unseen labels: found 0 of 5",
    ),
    (
      OpenImages,
      lambda s: s.content["test.csv"].append([s.images[3], "x", "/m/01", "1"]),
      BOTH,
    ),
    (OpenImages, named_otherwise, "ImageID: found none of the 23 images"),
    (OpenImages, on_disk(0, b"\xff\xfe\x00"), "train.csv: not readable"),
  ],
)
def test_files_that_disagree(tmp_path, kind, spoil, message):
  source = kind(tmp_path / "source")
  if kind is OpenImages:
    source.content["test.csv"][2][2] = "/m/01"
  spoil(source)
  assert message in source.refused()
