"""Reads files of a model from an unknown source, within bounds."""

import json
import math
import pathlib
import stat
from typing import Any

# A config.json holds a few kilobytes; the index of 163 shards and 92,000
# tensors (DeepSeek-V3) holds 9 MB.
_MAX_JSON_BYTES = 2**24
# Names of the types of files that are not regular files.
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


def size_of(path: pathlib.Path) -> int:
  """Returns the size of a regular file, following symbolic links.

  Reading anything else may block (a named pipe) or never end (/dev/zero).

  Raises:
    ValueError: if the file is missing or is not a regular file.
  """
  try:
    status = path.stat()
  except (FileNotFoundError, NotADirectoryError):
    if path.is_symlink():
      raise ValueError(
        f'{path}: expected a file, this is a symbolic link to '
        f'{path.readlink()}, which does not exist'
      ) from None
    raise ValueError(f'{path}: missing') from None
  if not stat.S_ISREG(status.st_mode):
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), 'something else')
    raise ValueError(f'{path}: expected a regular file, this is {kind}')
  return status.st_size


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a JSON object, such as config.json.

  Raises:
    ValueError: if the file is missing, is not a regular file, is too large,
      or is not a JSON object. NaN, infinite numbers and a key with two
      different values are not JSON here, although Python's parser takes them.
  """
  size = size_of(path)
  if size > _MAX_JSON_BYTES:
    raise ValueError(
      f'{path}: {size} bytes, expected at most {_MAX_JSON_BYTES}'
    )
  try:
    content = json.loads(
      path.read_bytes(),
      object_pairs_hook=_unique,
      parse_constant=_finite,
      parse_float=_finite,
    )
  except RecursionError:
    raise ValueError(
      f'{path}: expected JSON, this is nested too deep'
    ) from None
  except ValueError as error:
    raise ValueError(f'{path}: expected JSON, {error}') from None
  if not isinstance(content, dict):
    raise ValueError(f'{path}: expected a JSON object')
  return content


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
    raise ValueError(f'{text} is not a finite number')
  return value
