"""Manifest of a checkpoint's contents, which reveals damaged checkpoints.

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

_MAX_SHOWN = 5  # differing arrays that a message names

Path = tree_paths.Path


class Stored(NamedTuple):
  """The dtype, shape and checksum of a saved array."""

  dtype: str
  shape: list[int]
  checksum: int


class Manifest(NamedTuple):
  """The manifest of a checkpoint.

  Attributes:
    arrays: Descriptions of the saved arrays by path.
    host: Host state.
    step: Step of the checkpoint; None in manifests of earlier versions.
    run_id: Id of the run that saved it; '' in manifests of earlier versions.
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
  """Returns the manifest of a checkpoint as JSON, with its own checksum."""
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


def unseal(sealed: Mapping[str, Any]) -> Manifest:
  """Verifies and parses a manifest.

  Raises:
    ValueError: If the manifest does not match its checksum.
    NotImplementedError: If the manifest has another format.
  """
  content = dict(sealed)
  if content.pop('sha256', None) != _digest(content):
    raise ValueError(
      'its manifest does not match its checksum, or is older than format 1'
    )
  if content['format'] != FORMAT:
    raise NotImplementedError(content['format'])
  arrays = {
    tuple(path.split('/')): Stored(*described)
    for path, described in content['arrays'].items()
  }
  return Manifest(
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


def check(
  wanted: Mapping[Path, Any], stored: Mapping[Path, Any], where: str
) -> None:
  """Raises ValueError if a checkpoint does not have the wanted arrays.

  Args:
    wanted: Expected arrays by path, with `dtype` and `shape`.
    stored: Saved arrays by path, with `dtype` and `shape`.
    where: Path of the checkpoint, for the message.
  """
  differing = []
  for path in sorted(wanted.keys() | stored.keys()):
    found, expected = _describe(stored.get(path)), _describe(wanted.get(path))
    if found != expected:
      differing.append(
        f'  {"/".join(path)}: found {found}, expected {expected}'
      )
  if differing:
    rest = len(differing) - _MAX_SHOWN
    raise ValueError(
      f'{where}: checkpoint of another architecture or optimizer\n'
      + '\n'.join(differing[:_MAX_SHOWN])
      + (f'\n  and {rest} more' if rest > 0 else '')
    )


def _describe(array: Any | None) -> str:
  return 'nothing' if array is None else f'{array.dtype}{list(array.shape)}'
