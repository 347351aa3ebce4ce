"""What orbax and its backends raise, told by where it was and what to do."""

import contextlib
from collections.abc import Iterator

from etils import epath

from sqlm_jax import hosts


class DamagedError(ValueError):
  """Of a checkpoint that did not come back as it was."""


@contextlib.contextmanager
def opening(
  directory: epath.Path,
  kinds: tuple[type[Exception], ...] = (OSError, ValueError),
) -> Iterator[None]:
  """Names the directory in errors of opening it."""
  try:
    yield
  except kinds as error:
    raise OSError(
      f'{directory}: no checkpoints can be kept or found there '
      f'({_first_lines(error)})'
    ) from error


@contextlib.contextmanager
def saving(directory: epath.Path) -> Iterator[None]:
  """Where a checkpoint is saved: a full disk may raise anything."""
  try:
    yield
  except Exception as error:
    raise OSError(
      f'{directory}: a checkpoint could not be saved. What was saved '
      'before is whole: when this is mended, the same command goes on from '
      f'there. ({_first_lines(error)})'
    ) from error


@contextlib.contextmanager
def reading(where: str) -> Iterator[None]:
  """Where one is read: files that are missing or cut may raise anything.

  All processes have to come here. What one of them finds all raise: the others
  would wait for it.
  """
  failure = None
  try:
    yield
  except Exception as error:
    failure = error
  found = hosts.exchange(failure and _first_lines(failure))
  if why := next(filter(None, found), None):
    raise damage(where, why) from failure


def damage(where: str, what: str) -> DamagedError:
  return DamagedError(f'{where}: a damaged checkpoint ({what})')


def _first_lines(error: Exception, most: int = 200) -> str:
  said = ' '.join(f'{error}'.split())
  return f'{type(error).__name__}: {said[:most]}'
