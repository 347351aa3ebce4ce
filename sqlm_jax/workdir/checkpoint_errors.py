"""Errors of orbax and its backends, with the path and what to do."""

import contextlib
from collections.abc import Iterator

from etils import epath

from sqlm_jax.distributed import hosts


class DamagedError(ValueError):
  """Raised for a checkpoint that is not what was saved."""


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
  """Raises OSError for any error of a save: a full disk may raise anything."""
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
  """Raises DamagedError for any error of reading a checkpoint.

  Files that are missing or truncated may raise anything. All processes have to
  enter this context. If one of them fails, all raise: otherwise the others
  would wait for it.
  """
  failure = None
  try:
    yield
  except Exception as error:
    failure = error
  failures = hosts.exchange(failure and _first_lines(failure))
  if why := next(filter(None, failures), None):
    raise damage(where, why) from failure


def damage(where: str, what: str) -> DamagedError:
  return DamagedError(f'{where}: a damaged checkpoint ({what})')


def _first_lines(error: Exception, most: int = 200) -> str:
  said = ' '.join(f'{error}'.split())
  return f'{type(error).__name__}: {said[:most]}'
