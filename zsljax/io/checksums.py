"""SHA-256 of the files of a folder, written when it is whole and checked on reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib

from zsljax.errors import require, some
from zsljax.io.files import write_json
from zsljax.io.json_files import object_of, read_json
from zsljax.io.progress import task_bar

FILE = "checksums.json"
_FILE_SCHEMA = object_of(
  bytes={"type": "integer", "minimum": 0},
  sha256={"type": "string", "pattern": "^[0-9a-f]{64}$"},
)
_SCHEMA = object_of(
  files={
    "type": "object",
    "propertyNames": {"pattern": r"^\w[^/\0]*$"},
    "additionalProperties": _FILE_SCHEMA,
  },
  sha256={"type": "string"},
)
AS_WRITTEN = "the files as they were written: import the set again with --overwrite"
_BLOCK_BYTES = 2**22
# An empty file for each file that had the right content, named by its content, place,
# size and times: whatever changes a file changes its times.
KNOWN = pathlib.Path("~/.cache/zsljax/checked")


@dataclasses.dataclass(frozen=True)
class Checksums:
  """Sizes and SHA-256 of the files of a folder.

  Attributes:
    folder: of the files.
    files: ``bytes`` and ``sha256`` of each, by name.
  """

  folder: pathlib.Path
  files: Mapping[str, Mapping[str, int | str]]

  @classmethod
  def write(cls, folder: pathlib.Path) -> None:
    """Describes all files that lie in ``folder``, which is whole."""
    paths = sorted(path for path in folder.iterdir() if path.name != FILE)
    files = {
      path.name: {"bytes": path.stat().st_size, "sha256": digest}
      for path, digest in zip(paths, _sha256_of(paths), strict=True)
    }
    write_json(folder / FILE, {"files": files, "sha256": _own(files)})
    for path in paths:
      _remember(path, files[path.name]["sha256"])

  @classmethod
  def open(cls, folder: pathlib.Path) -> Checksums:
    """Reads what ``write`` wrote, and checks that all files are there in their sizes.

    Raises:
      ZsljaxError: they are not, or the description itself was changed.
    """
    path = folder / FILE
    require(path.is_file(), str(folder), f"no {FILE}", AS_WRITTEN)
    content = read_json(path, _SCHEMA, AS_WRITTEN)
    files = content["files"]
    require(content["sha256"] == _own(files), str(path), "other content", AS_WRITTEN)
    for name, described in files.items():
      require((folder / name).is_file(), str(folder), f"no {name}", AS_WRITTEN)
      found, size = (folder / name).stat().st_size, described["bytes"]
      require(
        found == size, str(folder / name), f"{found} bytes", f"{size}, {AS_WRITTEN}"
      )
    return cls(folder, files)

  def check(self, names: Iterable[str], again: bool = False) -> None:
    """Raises unless files have the content that was written.

    Args:
      names: of the files.
      again: whether files are read that were found right before and not changed since.
    """
    strangers = [name for name in names if name not in self.files]
    found = f"no {some(strangers)} in {FILE}"
    require(not strangers, str(self.folder), found, AS_WRITTEN)
    paths = {self.folder / name: self.files[name]["sha256"] for name in names}
    unknown = {
      p: digest for p, digest in paths.items() if again or not _known(p, digest)
    }
    found = dict(zip(unknown, _sha256_of(list(unknown)), strict=True))
    bad = [path.name for path in unknown if found[path] != unknown[path]]
    for path in unknown:
      if path.name not in bad:
        _remember(path, unknown[path])
    require(not bad, f"{self.folder}: {some(bad)}", "other content", AS_WRITTEN)


def sha256_of(path: pathlib.Path) -> str:
  """Returns the SHA-256 of a file's content."""
  return _sha256_of([path])[0]


def _sha256_of(paths: list[pathlib.Path]) -> list[str]:
  """The SHA-256 of files, several at once."""
  if not paths:
    return []
  total = sum(path.stat().st_size for path in paths)
  text = paths[0].name if len(paths) == 1 else f"{len(paths)} files"
  with task_bar(total, f"hashing {text}", "B") as bar:

    def one(path: pathlib.Path) -> str:
      digest = hashlib.sha256()
      with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
          digest.update(block)
          bar.update(len(block))
      return digest.hexdigest()

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      return list(pool.map(one, paths))


def _own(files: Mapping[str, Mapping[str, int | str]]) -> str:
  return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _mark(path: pathlib.Path, digest: str) -> pathlib.Path:
  state = path.stat()
  times = state.st_size, state.st_mtime_ns, state.st_ctime_ns
  text = f"{digest} {state.st_dev} {state.st_ino} {times}"
  return KNOWN.expanduser() / hashlib.sha256(text.encode()).hexdigest()


def _known(path: pathlib.Path, digest: str) -> bool:
  return _mark(path, digest).exists()


def _remember(path: pathlib.Path, digest: str) -> None:
  try:
    mark = _mark(path, digest)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
  except OSError:  # It is hashed again next time.
    pass
