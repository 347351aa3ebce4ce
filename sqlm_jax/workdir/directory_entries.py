"""Determines which entries of a directory are checkpoints of the run.

Orbax treats every directory whose name is a number as a checkpoint of the run,
and the largest number as the newest checkpoint. A symbolic link, a copied
directory or a checkpoint of another run could be restored instead of the newest
checkpoint, and new checkpoints with lower numbers would be deleted as outdated.
The manifest of each checkpoint therefore contains its step and the id of its
run, and entries that do not match are moved away.
"""

import contextlib
import json
import logging
import os
import re
import tempfile
import uuid
from collections.abc import Generator, Mapping
from typing import NamedTuple

from etils import epath

from sqlm_jax.distributed import processes
from sqlm_jax.workdir import manifest, storage

RUN_ID = 'run_id'  # name of the file that contains the run's id

# Orbax interprets these characters of a path as a glob pattern, and TensorStore
# interprets a backslash as a slash.
_MISREAD = re.compile(r'[\[\]*?]' if os.name == 'nt' else r'[\[\]*?\\]')
_STEP = r'0|[1-9]\d*'  # pattern of a checkpoint's name

_log = logging.getLogger('absl')  # the logger of the rest of the library


class Contents(NamedTuple):
  """Contents of a directory of checkpoints.

  Attributes:
    run_id: Id of the run that the checkpoints belong to, '' if unknown.
    foreign: Entries that look like checkpoints but do not belong to the run,
      with the reason, by name.
  """

  run_id: str
  foreign: Mapping[str, str]


def inspect(directory: epath.Path) -> Contents:
  """Inspects a directory of checkpoints without changing it."""
  if not directory.is_dir():
    return Contents('', {})
  path = directory / RUN_ID
  run_id = path.read_text(encoding='utf-8').strip() if path.exists() else ''
  return Contents(run_id, _foreign_entries(directory, run_id))


def prepare(directory: epath.Path) -> str:
  """Creates the directory, moves foreign entries away and returns the run's id.

  Every process must call this function.

  Raises:
    ValueError: If there are checkpoints but none belongs to the run, or if they
      belong to several runs and the file `RUN_ID` is missing.
  """
  return processes.broadcast_from_first(lambda: _prepare(directory))


def set_aside(directory: epath.Path, name: str) -> epath.Path:
  """Moves an entry to `damaged_checkpoints` next to the directory."""
  away = directory.parent / 'damaged_checkpoints' / name
  if os.path.islink(away) or (away.exists() and not away.is_dir()):
    away.unlink()
  elif away.exists():
    away.rmtree()
  away.parent.mkdir(exist_ok=True)
  (directory / name).rename(away)
  return away


@contextlib.contextmanager
def alias(directory: epath.Path) -> Generator[epath.Path]:
  """Yields a path to the directory that orbax interprets correctly.

  If the path contains characters that orbax or TensorStore misinterprets, the
  yielded path uses a temporary symbolic link to the parent directory. Otherwise
  it is the path itself.
  """
  parent = f'{directory.parent}'
  if storage.is_remote(directory) or not _MISREAD.search(parent):
    yield directory
    return
  with tempfile.TemporaryDirectory(prefix='sqlm_jax_') as temporary:
    link = os.path.join(temporary, 'workdir')
    os.symlink(parent, link, target_is_directory=True)
    yield epath.Path(link) / directory.name


def _prepare(directory: epath.Path) -> str:
  directory.mkdir(parents=True, exist_ok=True)
  run_id, foreign = inspect(directory)
  steps = storage.entries(directory, _STEP)
  if steps and len(foreign) == len(steps):
    reasons = ''.join(f'\n  {name}: {why}' for name, why in foreign.items())
    raise ValueError(
      f'{directory}: expected checkpoints of this run, found{reasons}\nRemove '
      'these entries to start from the beginning, or restore the checkpoints '
      'of this run.'
    )
  if not run_id:
    checkpoints = [path for path in steps if path.name not in foreign]
    run_id = _adopt(directory, checkpoints)
    storage.write_text(directory / RUN_ID, f'{run_id}\n')
  for name, why in foreign.items():
    away = set_aside(directory, name)
    _log.warning(
      '%s: not a checkpoint of this run (%s); moved to %s.',
      directory / name,
      why,
      away,
    )
  return run_id


def _adopt(directory: epath.Path, checkpoints: list[epath.Path]) -> str:
  """Returns the run id of the checkpoints, a new id if they have none."""
  run_ids = {_origin(path)[1] for path in checkpoints} - {''}
  if len(run_ids) > 1:
    raise ValueError(
      f'{directory}: expected checkpoints of a single run, found checkpoints '
      f'of {len(run_ids)} runs, and no file {RUN_ID}. Keep only the '
      'checkpoints of one run.'
    )
  return run_ids.pop() if run_ids else uuid.uuid4().hex


def _foreign_entries(directory: epath.Path, run_id: str) -> dict[str, str]:
  foreign = {}
  for path in storage.entries(directory, _STEP):
    if why := _why_not(path, run_id):
      foreign[path.name] = why
  return foreign


def _why_not(path: epath.Path, run_id: str) -> str:
  """Returns why an entry is not a checkpoint of the run, '' if it may be."""
  if os.path.islink(path):
    return 'a symbolic link'
  if not path.is_dir():
    return 'a file'
  step, run = _origin(path)
  if step is not None and step != int(path.name):
    return f'a copy of the checkpoint of step {step}'
  if run and run_id and run != run_id:
    return 'saved by another run'
  return ''


def _origin(path: epath.Path) -> tuple[int | None, str]:
  """Returns the step and run id of a checkpoint, (None, '') if unknown."""
  try:
    text = (path / 'host' / 'metadata').read_text(encoding='utf-8')
    stored = manifest.unseal(json.loads(text))
  except (OSError, ValueError, TypeError, AttributeError, KeyError):
    return None, ''  # damaged: `checkpoints.restore` reports it
  except NotImplementedError:
    return None, ''  # saved by another version
  return stored.step, stored.run_id
