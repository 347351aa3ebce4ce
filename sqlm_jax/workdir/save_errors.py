"""Translates errors of orbax and its backends to clear messages."""

import contextlib
from collections.abc import Iterator

from etils import epath

from sqlm_jax.distributed import processes


class DamagedError(ValueError):
  """Raised for a checkpoint whose files were altered, truncated or lost."""


@contextlib.contextmanager
def opening(
  directory: epath.Path,
  kinds: tuple[type[Exception], ...] = (OSError, ValueError),
) -> Iterator[None]:
  """Adds the directory to the message of an error in opening it."""
  try:
    yield
  except kinds as error:
    raise OSError(
      f'{directory}: no checkpoints can be kept or found there '
      f'({_first_lines(error)})'
    ) from error


@contextlib.contextmanager
def saving(directory: epath.Path) -> Iterator[None]:
  """Raises OSError for any error of a save.

  A full disk may cause exceptions of any type.
  """
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

  Missing or truncated files may cause exceptions of any type. Every process
  must enter this context. If one process fails, every process raises; otherwise
  the others would wait for it forever.
  """
  failure = None
  try:
    yield
  except Exception as error:
    failure = error
  failures = processes.all_gather(failure and _first_lines(failure))
  if why := next(filter(None, failures), None):
    raise damage(where, why) from failure


def damage(where: str, what: str) -> DamagedError:
  return DamagedError(f'{where}: a damaged checkpoint ({what})')


def _first_lines(error: Exception, most: int = 200) -> str:
  said = ' '.join(f'{error}'.split())
  return f'{type(error).__name__}: {said[:most]}'
