import pathlib

import jax
import pytest

from zsljax.cli import flags


@pytest.fixture
def unset():
  """The cache folder that the tests use is not set within it."""
  name = "jax_compilation_cache_dir"
  before = jax.config.jax_compilation_cache_dir
  jax.config.update(name, None)
  yield lambda: jax.config.jax_compilation_cache_dir
  jax.config.update(name, before)


def test_programs_are_kept_where_nothing_else_is_said(unset, tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  flags._keep_compiled()
  assert unset() == str(tmp_path / ".cache" / "zsljax" / "compiled")
  assert pathlib.Path(unset()).is_dir()
  monkeypatch.setenv("HOME", "/elsewhere")
  flags._keep_compiled()
  assert unset().startswith(str(tmp_path))


def test_a_folder_that_cannot_be_made_is_a_warning(
  unset, tmp_path, monkeypatch, caplog
):
  (tmp_path / ".cache").write_text("")
  monkeypatch.setenv("HOME", str(tmp_path))
  flags._keep_compiled()
  assert unset() is None and "nothing compiled is kept" in caplog.text


@pytest.mark.slow
def test_loaded_damaged_and_no_programs_end_at_the_same_bits(command, tmp_path):
  """The log has every number of the run in full."""
  folder, logs = tmp_path / "programs", []
  kept = {"JAX_COMPILATION_CACHE_DIR": str(folder)}
  for i, environment in enumerate(
    (kept, kept, kept, {"JAX_ENABLE_COMPILATION_CACHE": "false"})
  ):
    if i == 2:
      for file in folder.glob("*-cache"):
        file.write_bytes(b"damaged")
    done = command(
      "train.py",
      "--config=configs/msdn.py:digits",
      f"--workdir={tmp_path / str(i)}",
      "--config.epochs=1",
      env=environment,
    )
    assert ("Error reading persistent" in done.stderr) == (i == 2)
    logs.append((tmp_path / str(i) / "metrics.jsonl").read_text())
    assert any(folder.glob("*-cache"))
  assert len(set(logs)) == 1
