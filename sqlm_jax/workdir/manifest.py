"""Record of a checkpoint's contents, which reveals damaged checkpoints.

  {"format": 1, "step": 12, "run_id": "5f0c...",
   "arrays": {"policy/params/...": ["float32", [8, 4], 12345]},
   "host": {...}, "sha256": "..."}

The checksums are computed from the arrays in memory. They are compared with the
checksums of the restored arrays on their shards, so that errors in writing,
storing, reading or sharding are detected.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from sqlm_jax.ops import checksum
from sqlm_jax.workdir import tree_paths

FORMAT = 1  # format version of a checkpoint's directory

Path = tree_paths.Path


class Stored(NamedTuple):
  """The dtype, shape and checksum of a saved array."""

  dtype: str
  shape: list[int]
  checksum: int


class Record(NamedTuple):
  """The record of a checkpoint.

  Attributes:
    arrays: Descriptions of the saved arrays by path.
    host: Host state.
    step: Step of the checkpoint; None in records of earlier versions.
    run_id: Id of the run that saved it; '' in records of earlier versions.
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
  """Returns the record of a checkpoint as JSON, with its own checksum."""
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
  """Verifies and parses a record.

  Raises:
    ValueError: If the record does not match its checksum.
    NotImplementedError: If the record has another format.
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
  """Returns the names of the arrays whose checksums have changed."""
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
  """Raises ValueError if a checkpoint does not have the wanted arrays.

  Args:
    wanted: Expected arrays by path, with `dtype` and `shape`.
    stored: Saved arrays by path, with `dtype` and `shape`.
    where: Path of the checkpoint, for the message.
    most: Maximum number of differing arrays that the message names.
  """
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
