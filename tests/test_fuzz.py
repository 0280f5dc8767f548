"""Damaged files: every reader returns what fits its checks, or one ``ZsljaxError``.

``ZSLJAX_FUZZ=TRIALS,SEED pytest -m slow -s tests/test_fuzz.py`` runs others.
"""

import collections
import copy
import dataclasses
import json
import os
import shutil
import time
import traceback
import warnings

import h5py
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy
import scipy.io

from tests.data.conftest import Xlsa17Folder, save_v5, save_v73
from tests.data.test_annotations import Coco, NusWide, OpenImages
from tests.data.test_regions import RegionFile
from tests.stored_rows import stored_row
from zsljax.classes import ClassSpace
from zsljax.data import StoredDataset
from zsljax.data.files.class_table import read_class_table, write_class_table
from zsljax.data.files.features import read_features
from zsljax.data.files.images import read_image
from zsljax.data.files.text import read_names
from zsljax.data.files.word_vectors import read_word_vectors
from zsljax.data.importers.build import read_labels
from zsljax.data.importers.multilabel import read_multilabel
from zsljax.data.pipeline import load
from zsljax.data.semantics import read_sentences
from zsljax.encoders.tensor_files import read_tensors
from zsljax.errors import ZsljaxError
from zsljax.evaluation.embeddings import read_pairs
from zsljax.predict import load as load_run
from zsljax.reporting.rows import add_rows, read_chosen, read_rows
from zsljax.runs.comparison import read_hits
from zsljax.runs.score import score

LONGEST = 10.0  # Seconds.
ODD = (
  None, True, -1, 0, 3, 2**70, 1e308, float("nan"), "", "x" * 4000, "\0", [], [[]],
  {}, {"a": 1}, "../../evil", "=1+1", "\x1b[2J",
)  # fmt: skip
WORDS = (
  b"",
  b"nan",
  b"-1",
  b"1e999",
  b"\0",
  b"\xff\xfe",
  b'"',
  b",",
  b"1_0",
  b"9" * 5000,
)


@dataclasses.dataclass
class Reader:
  """A kind of files, and the function that reads it.

  Attributes:
    make: writes good files into a folder.
    read: reads the folder.
    checked: a checksum covers the files, so that whatever is read is as it was.
  """

  make: object
  read: object
  checked: bool = False


def numbers_of(features):
  """All numbers of a set, which must be finite."""
  found = np.asarray(features[:])
  assert np.isfinite(found).all()
  return found


def set_read(found):
  assert np.isfinite(found.classes.embeddings).all()
  return numbers_of(found.features)


def run_files(short_run):
  """Readers of a trained run's folder, of which few trials are made."""

  def make(folder):
    shutil.copytree(short_run("semantic_softmax"), folder / "run")

  return Reader(make, lambda folder: load_run(folder / "run").params, checked=True)


def stored(stand_in):
  def make(folder):
    stand_in("small", folder)

  def read(folder):
    found = StoredDataset.open(folder / "small" / "random_att" / "1.0.0")
    labels = found.labels(("train",))
    table = load(found, found.splits)
    return labels, table, found.classes.embeddings, found.metadata

  return Reader(make, read, checked=True)


def xlsa17(save):
  def make(folder):
    Xlsa17Folder(folder / "small").write(save)

  return Reader(make, lambda folder: set_read(Xlsa17Folder(folder / "small").read()))


def plain_v5(path, content):
  scipy.io.savemat(path, content)


def regions(folder):
  file = RegionFile(folder / "feature_map_ResNet_101_Small.hdf5")
  file.chunks["feature_map"] = (16, 10, 3, 4)
  file.write()


def annotated(kind):
  def make(folder):
    source = kind(folder / "s")
    source.write()
    np.savez(folder / "f.npz", features=source.features, image_files=source.images)

  def read(folder):
    shutil.move(folder / "s", folder / "kept")
    source = kind(folder / "s")
    shutil.rmtree(folder / "s")
    shutil.move(folder / "kept", folder / "s")
    return set_read(source.read_files([folder / "f.npz"], source.vectors))

  return Reader(make, read)


def multilabel(folder):
  rng = np.random.default_rng(0)
  np.savez(
    folder / "m.npz",
    X_train=rng.standard_normal((20, 4)),
    X_test=rng.standard_normal((9, 4)),
    Y_train=np.ones((20, 6), int),
    Y_test=np.ones((9, 6), int),
    labels=list("abcdef"),
    vectors=rng.standard_normal((6, 3)),
  )


def features(name):
  numbers = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
  names = np.array([f"i{i}.jpg" for i in range(40)])
  encoder = {"network": "n", "output": "pooled", "size": 2, "weights_sha256": "0"}

  def make(folder):
    if name.endswith(".npy"):
      np.save(folder / name, numbers)
    elif name.endswith(".npz"):
      np.savez_compressed(folder / name, features=numbers, image_files=names)
    else:
      with h5py.File(folder / name, "w") as file:
        file.create_dataset("features", data=numbers, chunks=(8, 3), compression="gzip")
        file.create_dataset(
          "image_files", data=names.tolist(), dtype=h5py.string_dtype()
        )
        file.attrs["encoder"] = json.dumps(encoder)

  def read(folder):
    found = read_features([folder / name])
    return np.asarray(found[:]), found.image_files, found.encoder

  return Reader(make, read)


def vectors(folder):
  lines = [f"word{i} " + " ".join(f"{i}.{j}" for j in range(5)) for i in range(30)]
  (folder / "v.txt").write_text("\n".join(["30 5", *lines]) + "\n")


def table(folder):
  values = np.random.default_rng(0).random((5, 4))
  write_class_table(folder / "c.csv", [f"c{i}" for i in range(5)], "wxyz", values)


def texts(folder):
  (folder / "n.txt").write_text("\n".join(f"name {i}" for i in range(20)))
  (folder / "l.csv").write_text(
    "image,class,split\n" + "".join(f"{i}.jpg,c{i % 3},trainval\n" for i in range(20))
  )
  (folder / "s.csv").write_text(
    "class,sentence\n" + "".join(f'c{i},"A {i}."\n' for i in range(9))
  )
  (folder / "p.txt").write_text(
    "# pairs\n" + "".join(f"{i} {i + 1}\n" for i in range(9))
  )


def read_texts(folder):
  parts = []
  for read, name in (
    (read_names, "n.txt"),
    (read_labels, "l.csv"),
    (read_sentences, "s.csv"),
    (read_pairs, "p.txt"),
  ):
    parts.append(read(folder / name))
  return parts


def results(folder):
  add_rows(folder, [stored_row()])
  chosen = {
    **{"point": {}, "step": 1, "share": 0.5, "metric": "ausuc", "value": 1.0},
    **{"settings": 1, "folds": "5", "reselected": []},
    "rule": "longest within one standard error, share of the mean training margin",
  }
  (folder / "chosen.json").write_text(json.dumps(chosen))
  (folder / "seed_0").mkdir()
  (folder / "seed_1").mkdir()
  for seed in range(2):
    np.savez_compressed(
      folder / f"seed_{seed}" / "hits_test.npz",
      **{"among_all": np.ones(9, bool), "among_unseen": np.ones(9, bool)},
      **{"labels": np.arange(9), "seen": np.arange(9) < 5},
    )


def read_results(folder):
  row = read_rows(folder)
  add_rows(folder, row)
  return row, read_chosen(folder), read_hits(folder)


def scores(folder):
  rng = np.random.default_rng(0)
  np.savez(
    folder / "s.npz",
    scores=rng.random((20, 4)),
    labels=np.arange(20) % 4,
    seen=np.arange(4) < 2,
  )


def tensors(folder):
  weights = {"a": np.ones((3, 4), np.float32), "b": np.arange(5)}
  safetensors.numpy.save_file(weights, folder / "w.safetensors")


def image(folder):
  noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)
  for ending in ("png", "jpg", "gif", "webp", "tif", "bmp"):
    PIL.Image.fromarray(noise).save(folder / f"i.{ending}")


def read_images(folder):
  parts = []
  for path in sorted(folder.iterdir()):
    try:
      parts.append(np.asarray(read_image(path)))
    except ZsljaxError as error:
      refused = error
  if len(parts) < 6:
    raise refused
  return parts


def readers(stand_in, short_run):
  return {
    "stored set": stored(stand_in),
    "xlsa17 v5": xlsa17(save_v5),
    "xlsa17 v5 plain": xlsa17(plain_v5),
    "xlsa17 v7.3": xlsa17(save_v73),
    "regions": Reader(
      regions,
      lambda folder: set_read(
        RegionFile(folder / "feature_map_ResNet_101_Small.hdf5").read()
      ),
    ),
    "multilabel": Reader(multilabel, lambda f: set_read(read_multilabel(f / "m.npz"))),
    "nus_wide": annotated(NusWide),
    "coco": annotated(Coco),
    "open_images": annotated(OpenImages),
    "features npy": features("f.npy"),
    "features npz": features("f.npz"),
    "features h5": features("f.h5"),
    "vectors": Reader(vectors, lambda f: read_word_vectors(f / "v.txt")),
    "class table": Reader(table, lambda f: read_class_table(f / "c.csv")),
    "texts": Reader(texts, read_texts),
    "results": Reader(results, read_results),
    "scores": Reader(scores, lambda f: score(f / "s.npz", "xian", 0.1)),
    "weights": Reader(tensors, lambda f: read_tensors(f / "w.safetensors")),
    "images": Reader(image, read_images),
    "run": run_files(short_run),
  }


def bytes_damaged(content, kind, rng):
  """Returns the bytes of a file with one damage."""
  size = len(content)
  content = bytearray(content)
  at = int(rng.integers(max(size, 1)))
  length = int(min(size - at, 2 ** rng.integers(0, 10)))
  if kind == "flip":
    for place in rng.integers(0, max(size, 1), rng.integers(1, 9)) if size else ():
      content[place] ^= 1 << int(rng.integers(8))
  elif kind == "block":
    fill = rng.integers(3)
    block = rng.bytes(length) if fill == 2 else bytes([255 * int(fill)]) * length
    content[at : at + length] = block
  elif kind == "cut":
    del content[at:]
  elif kind == "remove":
    del content[at : at + length]
  elif kind == "insert":
    content[at:at] = rng.bytes(length)
  elif kind == "repeat":
    content[at:at] = content[at : at + length]
  elif kind == "swap":
    half = length // 2
    first, second = content[at : at + half], content[at + half : at + 2 * half]
    content[at : at + 2 * half] = second + first
  elif kind == "empty":
    content.clear()
  else:  # A word of a text.
    parts = bytes(content).replace(b"\n", b" \n").split(b" ")
    parts[int(rng.integers(len(parts)))] = WORDS[rng.integers(len(WORDS))]
    content = b" ".join(parts).replace(b" \n", b"\n")
  return bytes(content)


BYTES = ("flip", "block", "cut", "remove", "insert", "repeat", "swap", "empty", "word")


def odd_array(array, rng):
  """Returns an array that is not what a field should be."""
  array = np.asarray(array)
  numeric = array.dtype.kind in "biufc"
  changes = [
    lambda: array[:0],
    lambda: array[None],
    lambda: array.ravel()[:1],
    lambda: np.full(array.shape, "x"),
    lambda: np.zeros(array.shape, complex) + 1j,
    lambda: np.zeros(array.shape, [("a", "f4"), ("b", "i4")]),
    lambda: np.float64(3),
    lambda: np.zeros(0),
  ]
  if numeric:
    for value in (np.nan, np.inf, -1, 1e300, 2.5):
      changes.append(lambda value=value: np.where(array == array.max(), value, array))
    changes += [lambda: array.astype(np.uint64) + 2**60, lambda: array.T]
    changes += [lambda: -array.astype(float), lambda: array.astype(np.float64) * 1e30]
  return changes[rng.integers(len(changes))]()


def json_damaged(value, rng):
  """Changes one place of a JSON value."""
  value = copy.deepcopy(value)
  here, places = value, []
  while isinstance(here, dict | list) and here:
    keys = list(here) if isinstance(here, dict) else range(len(here))
    key = keys[int(rng.integers(len(keys)))]
    places.append((here, key))
    here = here[key]
  if not places:
    return ODD[rng.integers(len(ODD))]
  holder, key = places[rng.integers(len(places))]
  if rng.random() < 0.3:
    del holder[key]
  else:
    holder[key] = ODD[rng.integers(len(ODD))]
  return value


def structure_damaged(path, rng):
  """Damages a field of a file, which stays a whole file; False for others."""
  ending = path.suffix
  if ending in (".json", ".jsonl"):
    path.write_text(json.dumps(json_damaged(json.loads(path.read_text()), rng)))
  elif ending == ".npy":
    np.save(path, odd_array(np.load(path), rng))
  elif ending == ".npz":
    with np.load(path) as file:
      content = dict(file)
    field = list(content)[rng.integers(len(content))]
    changed = odd_array(content.pop(field), rng)
    np.savez(path, **content, **({} if rng.random() < 0.2 else {field: changed}))
  elif ending == ".mat" and not h5py.is_hdf5(path):
    content = {k: v for k, v in scipy.io.loadmat(path).items() if k[0] != "_"}
    field = list(content)[rng.integers(len(content))]
    changed = odd_array(content.pop(field), rng)
    scipy.io.savemat(path, content | ({} if rng.random() < 0.2 else {field: changed}))
  elif ending in (".h5", ".hdf5", ".mat"):
    with h5py.File(path, "r+") as file:
      field = [k for k, v in file.items() if isinstance(v, h5py.Dataset)]
      field = field[rng.integers(len(field))]
      text = file[field].dtype.kind == "O"
      changed = odd_array(np.zeros(3) if text else file[field][()], rng)
      del file[field]
      if rng.random() < 0.2:
        file[field] = h5py.SoftLink("/" + field)
      elif changed.dtype.kind != "U":
        file.create_dataset(field, data=changed)
  else:
    return False
  return True


def same(first, second):
  """True where two results are alike."""
  if isinstance(first, dict):
    return first.keys() == second.keys() and all(
      same(first[k], second[k]) for k in first
    )
  if isinstance(first, tuple | list):
    return len(first) == len(second) and all(map(same, first, second))
  if isinstance(first, ClassSpace):
    return same(vars(first), vars(second))
  return np.array_equal(first, second)


def trial(reader, good, expected, folder, rng):
  """Damages a copy of good files and reads it; the kind of damage, and the outcome."""
  shutil.copytree(good, folder)
  files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name[0] != ".")
  path = files[rng.integers(len(files))]
  kind = "structure"
  if rng.random() < 0.6 or not structure_damaged(path, rng):
    kind = BYTES[rng.integers(len(BYTES))]
    path.write_bytes(bytes_damaged(path.read_bytes(), kind, rng))
  began = time.monotonic()
  try:
    found = reader.read(folder)
    outcome = "read"
    if reader.checked and not same(found, expected):
      outcome = "silent"
  except ZsljaxError as error:
    long = len(str(error)) > 2000 or len(str(error).splitlines()) > 1
    outcome = f"long message: {error}" if long else "refused"
  except Exception:
    outcome = f"traceback at {path.name}: {traceback.format_exc(limit=-4)}"
  if time.monotonic() - began > LONGEST:
    outcome = f"hang of {time.monotonic() - began:.0f} s at {path.name}"
  return kind, outcome


def fuzz(all_readers, trials, seed, folder):
  """Runs the trials; prints and returns the outcomes that must not be."""
  counts, failures, goods = collections.Counter(), [], {}
  names = list(all_readers)
  for number in range(trials):
    rng = np.random.default_rng((seed, number))
    name = names[number % len(names)]
    if (
      name == "run" and number // len(names) % 5
    ):  # A hundred times slower than others.
      name = names[rng.integers(len(names) - 1)]
    reader = all_readers[name]
    if name not in goods:
      good = folder / f"good {name}"
      good.mkdir()
      reader.make(good)
      copied = folder / "copied"
      shutil.copytree(good, copied)
      goods[name] = good, reader.read(copied)
      shutil.rmtree(copied)
    damaged = folder / "damaged"
    again = copy.deepcopy(rng)
    with warnings.catch_warnings(action="ignore"):
      kind, outcome = trial(reader, *goods[name], damaged, rng)
      shutil.rmtree(damaged)
      if outcome.startswith("hang"):  # Of the reader, or of a busy machine.
        kind, outcome = trial(reader, *goods[name], damaged, again)
        shutil.rmtree(damaged)
    counts[name, kind, outcome.split()[0]] += 1
    if outcome not in ("read", "refused"):
      failures.append(f"{name}, {kind}, trial ({seed}, {number}): {outcome}")
  for what, of in (("reader", 0), ("kind", 1)):
    print(f"\n{what}: read, refused, other")
    for key in dict.fromkeys(count[of] for count in counts):
      some = {k[2]: 0 for k in counts}
      for (*who, outcome), number in counts.items():
        if who[of] == key:
          some[outcome] += number
      read, refused = some.pop("read", 0), some.pop("refused", 0)
      print(f"  {key}: {read}, {refused}, {sum(some.values())}")
  return failures


# Orbax leaves event loops behind where a checkpoint cannot be read.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
  ("trials", "seed"),
  [(100, 0), pytest.param(3000, 1, marks=pytest.mark.slow)],
)
def test_damaged_files(trials, seed, stand_in, short_run, tmp_path):
  if text := os.environ.get("ZSLJAX_FUZZ"):
    trials, seed = map(int, text.split(","))
  failures = fuzz(readers(stand_in, short_run), trials, seed, tmp_path)
  assert not failures, "\n\n".join(failures[:20]) + f"\n{len(failures)} failures"
