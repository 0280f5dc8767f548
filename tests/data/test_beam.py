import os
import pathlib
import pickle
import re
import signal
import sys
import threading
import time

import h5py
import numpy as np
import psutil
import pytest
import scipy.sparse

from zsljax.__main__ import main
from zsljax.data import make_multilabel_set, prepare, store
from zsljax.data.files.features import read_features
from zsljax.errors import ZsljaxError

# TFDS asks protobuf in a way that the newest before 7, which Beam needs, warns of.
pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated")
ROOT = pathlib.Path(__file__).parents[2]
TWO = "runner=DirectRunner,direct_running_mode=multi_processing,direct_num_workers=2"


@pytest.fixture
def beam():
  pytest.importorskip("apache_beam")
  from zsljax.data import beam

  return beam


@pytest.fixture
def direct(beam):
  return beam.pipeline_options("runner=DirectRunner")


def raw(path):
  """The records of a shard, whatever the order of a record's fields."""
  tf, _ = store.tensorflow()
  dataset = tf.data.TFRecordDataset(str(path))
  return [tf.train.Example.FromString(r) for r in dataset.as_numpy_iterator()]


def check_same(alone, beamed):
  """Every file of two stored sets."""
  files = {p.name for p in alone.folder.iterdir()}
  assert {p.name for p in beamed.folder.iterdir()} == files
  for file in files:
    first, second = alone.folder / file, beamed.folder / file
    if "tfrecord" in file:
      assert raw(first) == raw(second)
    elif file.endswith(".npz"):
      with np.load(first) as a, np.load(second) as b:
        assert a.files == b.files
        for field in a.files:
          np.testing.assert_array_equal(a[field], b[field])
    else:
      assert first.read_bytes() == second.read_bytes()


def multi_label_set(absences):
  rng = np.random.default_rng(0)
  labels = rng.integers(-1 if absences else 0, 2, (40, 5))
  labels[3] = 0
  labels[4] = 1
  return make_multilabel_set(
    features=rng.standard_normal((40, 3)),
    labels=scipy.sparse.csr_array(labels),
    label_names=list("abcde"),
    vectors=rng.standard_normal((5, 2)),
    seen=np.arange(5) < 3,
    trainval=np.arange(30),
    test=np.arange(30, 40),
    where="made up",
    name="small",
    features_kind="random",
    class_embedding="words",
    split_version="made up",
    sources={},
    image_files=np.array([f"{i}.jpg" for i in range(40)]),
  )


def test_beam_that_is_not_installed_is_named(monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  arguments = "data import-regions --source=absent --dest=absent".split()
  with pytest.raises(SystemExit, match="2"):
    main([*arguments, "--beam_pipeline_options=runner=DirectRunner"])
  message = " ".join(capsys.readouterr().err.split())
  assert message.startswith("error: --beam_pipeline_options: found no Apache Beam")
  assert 'pip install "zsljax[beam]"' in message


@pytest.mark.slow
@pytest.mark.parametrize("shards", [None, 3])
@pytest.mark.parametrize("storage", ["source", "bfloat16"])
def test_stored_as_without_beam(
  feature_set, store_in_shards, direct, tmp_path, storage, shards
):
  source = feature_set(shape=(2, 3))
  options = {"storage": storage}
  alone = store_in_shards(source, tmp_path / "a", shards, **options)
  options["beam_options"] = direct
  beamed = store_in_shards(source, tmp_path / "b", shards, **options)
  assert len(beamed.pieces(("train",))) == (shards or 1)
  check_same(alone, beamed)
  assert not list(tmp_path.rglob("beam*"))


@pytest.mark.slow
@pytest.mark.parametrize("absences", [False, True])
def test_label_lists(direct, tmp_path, absences):
  source = multi_label_set(absences)
  beamed = prepare(source, tmp_path / "b", beam_options=direct)
  check_same(prepare(source, tmp_path / "a"), beamed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npy", "npz", "plain", "rows", "chunks"])
def test_feature_files(feature_set, direct, tmp_path, kind):
  """Files whose rows can be read alone are opened by the workers, others copied."""
  features = np.random.default_rng(0).standard_normal((80, 5)).astype(np.float32)
  paths = []
  for i, part in enumerate(np.split(features, [30])):
    paths.append(tmp_path / f"{i}.{kind if kind in ('npy', 'npz') else 'h5'}")
    if kind == "npy":
      np.save(paths[-1], part)
    elif kind == "npz":
      np.savez(paths[-1], features=part)
    else:
      chunks = {"plain": None, "rows": (1, 5), "chunks": (16, 2)}[kind]
      with h5py.File(paths[-1], "w") as file:
        file.create_dataset("features", data=part, chunks=chunks)
  files = read_features(paths)
  assert files.single_rows == (kind in ("npy", "plain", "rows"))
  taken = files.take(np.random.default_rng(1).permutation(80)[:66])
  source = feature_set(features=taken)
  beamed = prepare(source, tmp_path / "b", beam_options=direct)
  check_same(prepare(source, tmp_path / "a"), beamed)


@pytest.mark.slow
def test_workers_are_sent_no_arrays(beam, tmp_path):
  _, tfds = store.tensorflow()
  spec = tfds.features.FeaturesDict({"row": tfds.features.Scalar(np.int64)})
  np.save(tmp_path / "x.npy", np.ones((9000, 20), np.float32))
  files = read_features([tmp_path / "x.npy"])
  for i, features in enumerate([files[:], files, files.take(np.arange(9000)[::-1])]):
    folder = tmp_path / str(i)
    folder.mkdir()
    records = store.Records(features, np.zeros(9000, int), (), np.dtype(np.float32))
    writer = beam.ShardWriter.share(records, spec, folder)
    assert len(writer._records[5][1]["features"]) == 20
    assert len(pickle.dumps(writer)) < 4000
    assert (folder / "features").exists() == (i == 0)


@pytest.mark.slow
def test_again_writes_nothing(feature_set, direct, tmp_path):
  stored = prepare(feature_set(), tmp_path)
  before = {p: p.stat().st_mtime_ns for p in stored.folder.iterdir()}
  prepare(feature_set(), tmp_path, beam_options=direct)
  assert {p: p.stat().st_mtime_ns for p in stored.folder.iterdir()} == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_failing_worker(feature_set, direct, tmp_path, monkeypatch):
  old = prepare(feature_set(), tmp_path)
  get = store.Records.__getitem__
  source = feature_set(seed=1)
  bad = source.splits["val"][3]

  def failing(self, row):
    if row == bad:
      raise OSError("gone")
    return get(self, row)

  monkeypatch.setattr(store.Records, "__getitem__", failing)
  where = f"small-val.tfrecord-00000-of-00001, image {bad}: gone"
  with pytest.raises(ZsljaxError, match=rf"could not be written \({where}\); nothing"):
    prepare(source, tmp_path, overwrite=True, beam_options=direct)
  assert store.find(tmp_path, "small", None).fingerprint == old.fingerprint
  assert [p.name for p in (tmp_path / "small" / "random_att").iterdir()] == ["1.0.0"]
  monkeypatch.undo()
  beamed = prepare(source, tmp_path, overwrite=True, beam_options=direct)
  assert beamed.fingerprint == source.fingerprint()


@pytest.mark.slow
def test_killed_worker(feature_set, beam, tmp_path):
  """Beam alone would wait for ever."""

  def kill():
    while True:
      for process in psutil.Process().children(recursive=True):
        if "sdk_worker_main" in " ".join(process.cmdline()):
          return os.kill(process.pid, signal.SIGKILL)
      time.sleep(0.1)

  killer = threading.Thread(target=kill)
  killer.start()
  with pytest.raises(ZsljaxError, match="Worker subprocess .* had the machine no"):
    prepare(feature_set(), tmp_path, beam_options=beam.pipeline_options(TWO))
  killer.join()
  assert not list(tmp_path.rglob("*tfrecord*"))


@pytest.mark.slow
@pytest.mark.parametrize("pool", [(), ("--pool",)])
def test_command(command, tmp_path, pool):
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
  action = ("-m", "zsljax", "data", "import-regions", f"--source={path}", *pool)
  command(*action, f"--dest={tmp_path / 'a'}")
  beamed = (*action, f"--dest={tmp_path / 'b'}", f"--beam_pipeline_options={TWO}")
  assert "fingerprint" in command(*beamed).stdout
  check_same(*(store.find(tmp_path / part, "small", None) for part in "ab"))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("runner=Foo", "Unexpected pipeline runner: Foo. Valid values are DataflowRunner"),
    ("runner=a.B", "No module named 'a'"),
    ("direct_num_workers=x", "argument --direct_num_workers: invalid int value: 'x'"),
    ("direct_running_mode=x", "invalid choice: 'x'"),
    ("help", "found 'help', which Beam refuses"),
    ("direct_num_worker=2", "found 'direct_num_worker', which Beam does not know. Did"),
    ("runner=DataflowRunner", "Missing required option: project"),
  ],
)
def test_bad_options(beam, capfd, text, message):
  with pytest.raises(ZsljaxError, match=r"^--beam_pipeline_options: found ") as error:
    beam.pipeline_options(text)
  assert message in str(error.value)
  assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_bad_options_are_refused_before_reading(beam, capsys):
  arguments = "data import-regions --source=absent --dest=absent".split()
  with pytest.raises(SystemExit, match="2"):
    main([*arguments, "--beam_pipeline_options=runner=Foo"])
  assert "pipeline runner: Foo" in capsys.readouterr().err


@pytest.mark.slow
def test_written_options_are_understood(beam):
  text = (ROOT / "README.md").read_text()
  written = re.findall(r"--beam_pipeline_options=(\S+)", text)
  assert len(written) == 4
  for options in written:
    names = {option.partition("=")[0] for option in options.split(",")}
    assert names <= set(beam.pipeline_options(options).get_all_options())
