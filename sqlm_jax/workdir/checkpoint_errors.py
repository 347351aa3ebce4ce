"""Translates errors of orbax and its backends to clear messages."""

import contextlib
from collections.abc import Generator

from etils import epath

from sqlm_jax.distributed import processes

_MAX_LENGTH = 200  # characters of an error's message


class DamagedError(ValueError):
  """Raised for a checkpoint whose files were altered, truncated or lost."""


@contextlib.contextmanager
def opening(
  directory: epath.Path,
  kinds: tuple[type[Exception], ...] = (OSError, ValueError),
) -> Generator[None]:
  """Adds the directory to the message of an error in opening it."""
  try:
    yield
  except kinds as error:
    raise OSError(
      f'{directory}: this directory of checkpoints cannot be opened '
      f'({_shorten(error)})'
    ) from error


@contextlib.contextmanager
def saving(directory: epath.Path) -> Generator[None]:
  """Raises OSError for any error of a save.

  A full disk may cause exceptions of any type.
  """
  try:
    yield
  except Exception as error:
    raise OSError(
      f'{directory}: a checkpoint could not be saved ({_shorten(error)}). '
      'Earlier checkpoints are intact. After you fix the problem, run the same '
      'command again to resume.'
    ) from error


@contextlib.contextmanager
def reading(where: str) -> Generator[None]:
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
  failures = processes.all_gather(
    None if failure is None else _shorten(failure)
  )
  for message in failures:
    if message is not None:
      raise damage(where, message) from failure


def damage(where: str, reason: str) -> DamagedError:
  return DamagedError(f'{where}: damaged checkpoint ({reason})')


def _shorten(error: Exception) -> str:
  message = ' '.join(f'{error}'.split())
  return f'{type(error).__name__}: {message[:_MAX_LENGTH]}'
