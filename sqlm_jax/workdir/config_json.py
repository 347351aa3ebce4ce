"""Writes, reads and checks config.json, the config that a run started with."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from etils import epath

from sqlm_jax.text import json_text
from sqlm_jax.workdir import storage


def read(workdir: epath.PathLike) -> dict[str, Any] | None:
  """Reads the config of the run in a workdir; returns None without a run.

  Raises:
    ValueError: If config.json is damaged.
  """
  path = epath.Path(workdir) / 'config.json'
  if not path.exists():
    return None
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(f'{path}: expected JSON, {error}') from None


def write(workdir: epath.PathLike, config: Mapping[str, Any]) -> None:
  """Writes config.json, unless it already has the same content.

  Args:
    workdir: Directory of the run, created if it does not exist.
    config: JSON-serializable nested dicts.
  """
  workdir = epath.Path(workdir)
  if read(workdir) != as_stored(config):
    workdir.mkdir(parents=True, exist_ok=True)
    storage.write_text(workdir / 'config.json', _format(config))


def digest(config: Mapping[str, Any]) -> str:
  """Returns the SHA-256 of the file that `write` writes."""
  return hashlib.sha256(_format(config).encode()).hexdigest()


def _format(config: Mapping[str, Any]) -> str:
  return json_text.dumps(config, indent=2) + '\n'


def check(
  workdir: epath.PathLike,
  config: Mapping[str, Any],
  *,
  may_change: Collection[str] = (),
  complete: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda old: old,
) -> None:
  """Checks that a workdir does not contain a run with another config.

  Args:
    workdir: Directory of the run, which need not exist.
    config: JSON-serializable nested dicts.
    may_change: Dotted keys whose values may differ from the stored config.
    complete: Adds the defaults of keys that a config stored by an earlier
      version lacks.

  Raises:
    ValueError: If another key differs. The message has the key and both values.
  """
  workdir = epath.Path(workdir)
  old = read(workdir)
  if old is None:
    return
  before, after = (
    dict(_flatten(as_stored(tree))) for tree in (complete(old), config)
  )
  differing = [
    f'  {key}: {_differ(before, after, key)}'
    for key in sorted(before.keys() | after.keys())
    if before.get(key, _ABSENT) != after.get(key, _ABSENT)
    and key not in may_change
  ]
  if differing:
    raise ValueError(
      f'workdir={str(workdir)!r} contains a run with another config: expected '
      'the same config, or another --workdir. These keys differ (stored -> '
      'given):\n' + '\n'.join(differing)
    )


def as_stored(tree: Mapping[str, Any]) -> dict[str, Any]:
  """Converts nested dicts to JSON and back, which turns tuples into lists."""
  return json.loads(json.dumps(tree))


_ABSENT = object()  # differs from None, which may be a value


def _flatten(tree: Mapping, prefix: str = '') -> Iterable[tuple[str, Any]]:
  for name, value in tree.items():
    if isinstance(value, dict) and value:
      yield from _flatten(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value


def _differ(before: Mapping, after: Mapping, key: str) -> str:
  """Formats both values; long values are cut to where they begin to differ."""
  width = 50
  values = [
    repr(tree[key]) if key in tree else 'no such key'
    for tree in (before, after)
  ]
  start = 0
  if max(map(len, values)) > width:
    pairs = enumerate(zip(*values, strict=False))
    start = next((i for i, (a, b) in pairs if a != b), 0)
    start = max(start - 10, 0)
  return ' -> '.join(_cut(value, start, width) for value in values)


def _cut(text: str, start: int, width: int) -> str:
  """Cuts `width` characters out of a text, with an ellipsis at each cut."""
  end = start + width
  before = '…' if start else ''
  after = '…' if end < len(text) else ''
  return before + text[start:end] + after
