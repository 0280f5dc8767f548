"""The verb ``encode`` as a user types it, with a whole network."""

import hashlib
import json
import subprocess
import sys

import h5py
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy

from zsljax.__main__ import main
from zsljax.data.files.features import read_features


@pytest.fixture
def arguments(tmp_path, state_dict):
  """Of a command for some images; the last of them is cut off."""

  def make(count):
    rng = np.random.default_rng(0)
    (tmp_path / "images" / "some").mkdir(parents=True)
    for i in range(count):
      path = tmp_path / "images" / "some" / f"{i:03d}.jpg"
      PIL.Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:700])
    safetensors.numpy.save_file(
      state_dict((3, 4, 6, 3), 64), tmp_path / "w.safetensors"
    )
    return [
      "encode",
      f"--images={tmp_path / 'images'}",
      "--network=resnet50",
      f"--weights={tmp_path / 'w.safetensors'}",
      "--size=32",
      "--batch_size=4",
    ]

  return make


@pytest.mark.slow
def test_encode(command, arguments, tmp_path, capsys):
  typed = [*arguments(6), f"--dest={tmp_path / 'f.h5'}"]
  done = command("-m", "zsljax", *typed, "--skip-bad")
  assert f"{tmp_path}/f.h5: pooled features of resnet50 for 5 images, 2048 in" in (
    done.stdout
  )
  assert " images/s\nleft out, as they cannot be decoded: 1\n  some/005.jpg" in (
    done.stdout
  )
  assert "encoding: 100%" in done.stderr and "6/6" in done.stderr
  found = read_features([tmp_path / "f.h5"])
  assert found.shape == (5, 2048) and np.isfinite(found[:]).all()
  assert found.image_files.tolist() == [f"some/00{i}.jpg" for i in range(5)]
  with h5py.File(tmp_path / "f.h5") as file:
    assert json.loads(file.attrs["encoder"]) == {
      "network": "resnet50",
      "weights": "w.safetensors",
      "weights_sha256": hashlib.sha256(
        (tmp_path / "w.safetensors").read_bytes()
      ).hexdigest(),
      "size": 32,
      "output": "pooled",
      "preprocessing": "torchvision-evaluation-1",
    }
  main([*typed, "--skip_bad"])
  assert "was complete already" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("option", "message"),
  [
    ("--size=50", "size: found 50, expected a multiple of 32 pixels"),
    ("--weights=away.pth", "away.pth: found no such file"),
    ("--network=resnet101", "found what looks like a ResNet-50, with 255 tensors mis"),
  ],
)
def test_what_is_wrong_is_one_paragraph(arguments, tmp_path, capsys, option, message):
  with pytest.raises(SystemExit, match="2"):
    main([*arguments(1), f"--dest={tmp_path / 'f.h5'}", option])
  error = capsys.readouterr().err
  assert error.startswith("error:") and message in " ".join(error.split())
  assert not (tmp_path / "f.h5").exists()


@pytest.mark.slow
def test_kills_change_nothing(command, arguments, tmp_path):
  typed = ["-m", "zsljax", *arguments(120), "--skip_bad", "--storage=float16"]
  command(*typed, f"--dest={tmp_path / 'whole.h5'}")
  killed, rng = 0, np.random.default_rng(0)
  again = [sys.executable, *typed, f"--dest={tmp_path / 'f.h5'}"]
  for _ in range(10):
    process = subprocess.Popen(again, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
      process.communicate(timeout=rng.uniform(4, 15))
    except subprocess.TimeoutExpired:
      process.kill()
      process.communicate()
      killed += 1
  command(*again[1:])
  assert killed
  with h5py.File(tmp_path / "whole.h5") as one, h5py.File(tmp_path / "f.h5") as other:
    assert one.keys() == other.keys() and dict(one.attrs) == dict(other.attrs)
    for field in one:
      np.testing.assert_array_equal(one[field][()], other[field][()])
