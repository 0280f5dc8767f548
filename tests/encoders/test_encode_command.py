"""The verb ``encode`` as a user types it, with a whole network."""

import subprocess
import sys

import h5py
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy


@pytest.mark.slow
def test_kills_change_nothing(command, state_dict, tmp_path):
  rng = np.random.default_rng(0)
  (tmp_path / "images" / "some").mkdir(parents=True)
  for i in range(200):
    path = tmp_path / "images" / "some" / f"{i:03d}.jpg"
    PIL.Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
  path.write_bytes(path.read_bytes()[:700])  # The last one is cut off.
  safetensors.numpy.save_file(state_dict((3, 4, 6, 3), 64), tmp_path / "w.safetensors")
  typed = ["-m", "zsljax", "encode", f"--images={tmp_path / 'images'}"]
  typed += [f"--weights={tmp_path / 'w.safetensors'}"]
  typed += ["--size=32", "--batch_size=4", "--skip-bad"]
  done = command(*typed, f"--dest={tmp_path / 'whole.h5'}")
  assert "whole.h5: pooled features of resnet50 for 199 images, 2048" in done.stdout
  assert "\nleft out, as it cannot be decoded: some/199.jpg" in done.stdout
  assert "encoding: 100%" in done.stderr and "200/200" in done.stderr

  killed, again = 0, [sys.executable, *typed, f"--dest={tmp_path / 'f.h5'}"]
  for _ in range(5):
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
