import pathlib
import re
import sys

import h5py
import numpy as np
import pytest
import scipy.sparse

from tests.data.test_multilabel import parts, random_labels
from zsljax.__main__ import main
from zsljax.data import beam, make_multilabel_set, prepare, store
from zsljax.data.files.features import read_features
from zsljax.errors import ZsljaxError

# TFDS asks protobuf in a way that the newest before 7, which Beam needs, warns of.
pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated")
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def direct():
  pytest.importorskip("apache_beam")
  return beam.pipeline_options("runner=DirectRunner")


def check_same(alone, beamed):
  """Compares classes, descriptions and records in stored order."""
  assert beamed.metadata == alone.metadata
  assert {p.name for p in beamed.folder.iterdir()} == {
    p.name for p in alone.folder.iterdir()
  }
  np.testing.assert_array_equal(beamed.classes.embeddings, alone.classes.embeddings)
  tf, _ = store.tensorflow()
  for split in alone.splits:
    found, expected = (
      next(
        tf.data.TFRecordDataset([piece.path for piece in stored.pieces((split,))])
        .batch(10**6)
        .map(stored.decode)
        .as_numpy_iterator()
      )
      for stored in (beamed, alone)
    )
    assert found.keys() == expected.keys()
    for field, values in expected.items():
      np.testing.assert_array_equal(found[field], values)
    rows = beamed.source_rows((split,))
    np.testing.assert_array_equal(rows, expected["row"])


def multi_label_set():
  labels = random_labels()
  labels[3], labels[4] = 0, 1
  names = np.array([f"{i}.jpg" for i in range(len(labels))])
  labels = scipy.sparse.csr_array(labels)
  return make_multilabel_set(**parts(labels=labels, image_files=names))


def test_beam_that_is_not_installed_is_named(monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  arguments = "data import-regions --source=absent --dest=absent".split()
  with pytest.raises(SystemExit, match="2"):
    main([*arguments, "--beam_pipeline_options=runner=DirectRunner"])
  message = " ".join(capsys.readouterr().err.split())
  assert "--beam_pipeline_options: found no Apache Beam" in message
  assert 'pip install "zsljax[beam]"' in message


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["regions", "bfloat16", "labels", "file", "shards"])
def test_stored_as_without_beam(feature_set, store_in_shards, direct, tmp_path, kind):
  source, options, shards = feature_set(shape=(2, 3)), {}, None
  if kind == "bfloat16":
    options = {"storage": "bfloat16"}
  elif kind == "labels":
    source = multi_label_set()
  elif kind == "shards":
    shards = 3
  elif kind == "file":
    path = tmp_path / "features.h5"
    with h5py.File(path, "w") as file:
      file.create_dataset("features", data=source.features[::-1], chunks=(16, 2, 3))
    source = feature_set(features=read_features([path]).take(np.arange(66)[::-1]))
  alone = store_in_shards(source, tmp_path / "a", shards, **options)
  options["beam_options"] = direct
  beamed = store_in_shards(source, tmp_path / "b", shards, **options)
  if kind == "shards":  # TFDS cuts them elsewhere, in the same order.
    assert len(beamed.pieces(("train",))) == 3
  check_same(alone, beamed)
  assert not list(tmp_path.rglob(".scratch*"))
  before = {p: p.stat().st_mtime_ns for p in beamed.folder.iterdir()}
  store_in_shards(source, tmp_path / "b", shards, **options)
  assert {p: p.stat().st_mtime_ns for p in beamed.folder.iterdir()} == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_failing_worker(feature_set, direct, tmp_path, monkeypatch):
  old = prepare(feature_set(), tmp_path)
  source = feature_set(seed=1)

  def failing(*_):
    raise OSError("gone")

  with monkeypatch.context() as patch:
    patch.setattr(beam, "record_of", failing)
    with pytest.raises(ZsljaxError, match=r"not be written \(.*gone.*\); nothing"):
      prepare(source, tmp_path, overwrite=True, beam_options=direct)
  assert store.find(tmp_path, "small", None).fingerprint == old.fingerprint
  assert [p.name for p in (tmp_path / "small" / "random_att").iterdir()] == ["1.0.0"]
  beamed = prepare(source, tmp_path, overwrite=True, beam_options=direct)
  assert beamed.fingerprint == source.fingerprint()


@pytest.mark.slow
def test_command(command, tmp_path):
  pytest.importorskip("apache_beam")
  labels = np.repeat(np.arange(4), 5)
  seen = np.flatnonzero(labels < 3)
  path = tmp_path / "feature_map_net_small.hdf5"
  with h5py.File(path, "w") as file:
    file["feature_map"] = np.random.default_rng(0).random((20, 6, 2, 3), np.float32)
    file["labels"] = labels
    file["att"] = np.eye(4)
    file["trainval_loc"] = seen[seen % 5 != 0]
    file["test_seen_loc"] = seen[seen % 5 == 0]
    file["test_unseen_loc"] = np.flatnonzero(labels == 3)
  action = ("-m", "zsljax", "data", "import-regions", f"--source={path}")
  command(*action, f"--dest={tmp_path / 'a'}")
  beamed = (
    *action,
    f"--dest={tmp_path / 'b'}",
    "--beam_pipeline_options=runner=DirectRunner",
  )
  assert "fingerprint" in command(*beamed).stdout
  check_same(*(store.find(tmp_path / part, "small", None) for part in "ab"))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("runner=Foo", "Unexpected pipeline runner: Foo. Valid values are DataflowRunner"),
    ("runner=a.B", "No module named 'a'"),
    ("direct_num_workers=x", "argument --direct_num_workers: invalid int value: 'x'"),
    ("help", "found 'help', which Beam refuses"),
    ("direct_num_worker=2", "found ['direct_num_worker'], expected"),
    ("runner=DataflowRunner", "Missing required option: project"),
  ],
)
@pytest.mark.usefixtures("direct")
def test_bad_options(capfd, text, message):
  with pytest.raises(ZsljaxError, match=r"^--beam_pipeline_options: found ") as error:
    beam.pipeline_options(text)
  assert message in str(error.value)
  assert capfd.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.usefixtures("direct")
def test_written_options_are_understood():
  pages = (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
  text = "".join(page.read_text() for page in pages)
  written = re.findall(r"--beam_pipeline_options=(\S+)", text)
  assert len(written) > 0
  for options in written:
    names = {option.partition("=")[0] for option in options.split(",")}
    assert names <= set(beam.pipeline_options(options).get_all_options())
