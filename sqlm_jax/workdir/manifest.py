"""The record of what a checkpoint holds, so that damage to it shows.

  {"format": 1, "step": 12, "run_id": "5f0c...",
   "arrays": {"policy/params/...": ["float32", [8, 4], 12345]},
   "host": {...}, "sha256": "..."}

Arrays are recorded as they were in memory, with their checksums: what was
written, stored, read and put onto shards is held against that.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from sqlm_jax.ops import checksum
from sqlm_jax.workdir import tree_paths

FORMAT = 1  # of the whole directory of a checkpoint

Path = tree_paths.Path


class Stored(NamedTuple):
  """An array, as it was saved."""

  dtype: str
  shape: list[int]
  checksum: int


class Record(NamedTuple):
  """The record of a checkpoint.

  Attributes:
    arrays: the stored arrays by path.
    host: the host state.
    step: the step that was saved; None in records of earlier versions.
    run_id: the run that saved it; '' in records of earlier versions.
  """

  arrays: dict[Path, Stored]
  host: dict[str, Any]
  step: int | None
  run_id: str


def seal(
  arrays: Mapping[Path, jax.Array],
  host_state: Mapping[str, Any],
  *,
  step: int,
  run_id: str,
) -> dict[str, Any]:
  """Returns the record of a checkpoint as JSON, with a checksum of itself."""
  sums = _checksums(arrays)
  content = {
    'format': FORMAT,
    'step': step,
    'run_id': run_id,
    'arrays': {
      '/'.join(path): [f'{x.dtype}', list(x.shape), sums[path]]
      for path, x in arrays.items()
    },
    'host': dict(host_state),
  }
  return content | {'sha256': _digest(content)}


def unseal(sealed: Mapping[str, Any]) -> Record:
  """Reads a record.

  Raises:
    ValueError: if it is not as it was sealed.
    NotImplementedError: if it has another format.
  """
  content = dict(sealed)
  if content.pop('sha256', None) != _digest(content):
    raise ValueError('its record is not as it was, or older than format 1')
  if content['format'] != FORMAT:
    raise NotImplementedError(content['format'])
  arrays = {
    tuple(path.split('/')): Stored(*described)
    for path, described in content['arrays'].items()
  }
  return Record(
    arrays, content['host'], content.get('step'), content.get('run_id', '')
  )


def altered(
  arrays: Mapping[Path, jax.Array], stored: Mapping[Path, Stored]
) -> list[str]:
  """Names of the arrays that are not what they were."""
  sums = _checksums({path: arrays[path] for path in stored})
  return [
    '/'.join(path) for path, x in stored.items() if sums[path] != x.checksum
  ]


def _checksums(arrays: Mapping[Path, jax.Array]) -> dict[Path, int]:
  sums = {path: checksum.checksum(x) for path, x in arrays.items()}
  return {path: int(x) for path, x in jax.device_get(sums).items()}


def _digest(content: Mapping[str, Any]) -> str:
  text = json.dumps(content, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def check(wanted: Mapping, stored: Mapping, where: str, most: int = 5):
  """Refuses a checkpoint of something else, by what differs."""
  show = lambda x: f'{x.dtype}{list(x.shape)}'
  differing = []
  for path in sorted(wanted.keys() | stored.keys()):
    found = show(stored[path]) if path in stored else 'nothing'
    expected = show(wanted[path]) if path in wanted else 'nothing'
    if found != expected:
      differing.append(
        f'  {"/".join(path)}: found {found}, expected {expected}'
      )
  if differing:
    rest = len(differing) - most
    raise ValueError(
      f'{where}: a checkpoint of another architecture or optimizer\n'
      + '\n'.join(differing[:most])
      + (f'\n  and {rest} more' if rest > 0 else '')
    )
