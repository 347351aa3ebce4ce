"""Files with one JSON object per line."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from sqlm_jax.text import json_text
from sqlm_jax.workdir import storage


def read(path: epath.PathLike) -> list[dict[str, Any]]:
  """Reads the objects of a file.

  An incomplete last line, as left by a killed run, is ignored.

  Raises:
    ValueError: If any other line is not a JSON object.
  """
  # Split as bytes, because a line may end in the middle of a character.
  lines = epath.Path(path).read_bytes().split(b'\n')
  rows = []
  for number, line in enumerate(lines, start=1):
    try:
      row = json.loads(line.decode())
    except ValueError:
      row = None
    if isinstance(row, dict):
      rows.append(row)
    elif number < len(lines):  # the last line of a complete file is empty
      raise ValueError(f'{path}:{number}: expected a JSON object, not {line!r}')
  return rows


def append(path: epath.Path, rows: Iterable[Mapping[str, Any]]) -> None:
  """Appends objects to a file; they are on disk when this returns."""
  storage.append(path, _format(rows))


def rewrite(path: epath.Path, rows: Iterable[Mapping[str, Any]]) -> None:
  """Replaces the contents of a file atomically."""
  storage.write_text(path, _format(rows))


def _format(rows: Iterable[Mapping[str, Any]]) -> str:
  return ''.join(
    json_text.dumps(_finite(row), allow_nan=False) + '\n' for row in rows
  )


def _finite(value: Any) -> Any:
  """Replaces numbers that JSON cannot represent with None."""
  if isinstance(value, Mapping):
    return {name: _finite(v) for name, v in value.items()}
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
