"""Reads files of a model from an unknown source, within bounds."""

import json
import math
import pathlib
import stat
from typing import Any

# A config.json holds a few kilobytes; the index of 163 shards and 92,000
# tensors (DeepSeek-V3) holds 9 MB.
_MAX_BYTES = 2**24
# The start of the small text file that Git stores for a large file. A clone
# without Git LFS has only these.
_LFS_POINTER = b'version https://git-lfs'
# Names of the kinds of files that are not regular files.
_KINDS = {
  stat.S_IFDIR: 'a directory',
  stat.S_IFIFO: 'a named pipe',
  stat.S_IFSOCK: 'a socket',
  stat.S_IFCHR: 'a character device',
  stat.S_IFBLK: 'a block device',
}


def is_present(path: pathlib.Path) -> bool:
  """Returns True if a path names anything, even a broken symbolic link."""
  return path.exists() or path.is_symlink()


def size_of(path: pathlib.Path, max_bytes: int | None = None) -> int:
  """Returns the size of a regular file, or of the file that a link leads to.

  Check a file with this function before it is opened: opening a named pipe may
  never return, and reading /dev/zero never ends.

  Raises:
    ValueError: if the file is missing, is not a regular file, is a pointer of
      Git LFS, or has more than `max_bytes`.
  """
  try:
    status = path.stat()
  except (FileNotFoundError, NotADirectoryError):
    if path.is_symlink():
      raise ValueError(
        f'{path}: expected a file, found a symbolic link to '
        f'{path.readlink()}, which does not exist'
      ) from None
    raise ValueError(f'{path}: missing') from None
  if not stat.S_ISREG(status.st_mode):
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), 'something else')
    raise ValueError(f'{path}: expected a regular file, found {kind}')
  if max_bytes is not None and status.st_size > max_bytes:
    raise ValueError(
      f'{path}: {status.st_size} bytes: expected at most {max_bytes}'
    )
  with path.open('rb') as file:
    if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
      raise ValueError(
        f'{path}: expected a model file, found a Git LFS pointer; run '
        '`git lfs pull` in the directory'
      )
  return status.st_size


def read_bytes(path: pathlib.Path) -> bytes:
  """Reads a file of at most 16 MiB.

  Raises:
    ValueError: if the file is missing, is not a regular file, or is too large.
  """
  size_of(path, _MAX_BYTES)
  return path.read_bytes()


def read_utf8(path: pathlib.Path) -> str:
  """Reads a UTF-8 file of at most 16 MiB, with line breaks as '\\n'.

  Raises:
    ValueError: under the conditions of `read_bytes`, and if the file is not
      UTF-8.
  """
  try:
    text = read_bytes(path).decode()
  except UnicodeDecodeError as error:
    raise ValueError(f'{path}: expected UTF-8: {error}') from None
  return text.replace('\r\n', '\n').replace('\r', '\n')


def read_optional_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a JSON object as `read_json` does; {} if there is no file."""
  return read_json(path) if is_present(path) else {}


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a JSON object, such as config.json.

  Raises:
    ValueError: under the conditions of `read_bytes`, and if the content is not
      a JSON object. NaN, infinite numbers and a key with two different values
      are refused, although Python's parser accepts them.
  """
  content = read_bytes(path)
  try:
    values = json.loads(
      content,
      object_pairs_hook=_unique,
      parse_constant=_finite,
      parse_float=_finite,
    )
  except RecursionError:
    raise ValueError(
      f'{path}: expected JSON, found one that is nested too deeply'
    ) from None
  except ValueError as error:
    raise ValueError(f'{path}: expected JSON: {error}') from None
  if not isinstance(values, dict):
    raise ValueError(f'{path}: expected a JSON object')
  return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  values = dict(pairs)
  for key, value in pairs:
    if len(values) < len(pairs) and values[key] != value:
      raise ValueError(
        f'key {key!r} has two values, {value!r} and {values[key]!r}'
      )
  return values


def _finite(text: str) -> float:
  value = float(text)
  if not math.isfinite(value):
    raise ValueError(f'{text}: expected a finite number')
  return value
