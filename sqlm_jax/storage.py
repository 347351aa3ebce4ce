"""Files of a workdir: whole or not at all, on a disk or in a bucket.

A workdir is a local directory or, by its scheme, a place of objects, as
gs://bucket/run. An object appears at once when it is written, and does not
grow: what is a line more on a disk is a new object there.
"""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator

from etils import epath


def is_remote(path: epath.PathLike) -> bool:
  """Whether a path is one of objects, not of files."""
  return '://' in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
  """A path from the root; epath takes one of objects for a relative one."""
  path = epath.Path(path)
  return path if is_remote(path) else path.absolute()


def write_text(path: epath.Path, text: str) -> None:
  """Writes a file whole or not at all."""
  with replacing(path) as temporary:
    temporary.write_text(text, encoding='utf-8')


@contextlib.contextmanager
def replacing(path: epath.Path) -> Iterator[epath.Path]:
  """Gives another name to write to, and moves the file in place at the end."""
  with named(path):
    if is_remote(path):
      yield path  # an object is whole, or not there
      return
    temporary = path.parent / f'{path.name}.tmp'
    yield temporary
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def append(path: epath.Path, text: str) -> None:
  """Adds lines to a file; they are on the disk when this returns."""
  with named(path):
    if is_remote(path):
      before = path.read_bytes() if path.exists() else b''
      path.write_bytes(before + text.encode())
      return
    with path.open('a', encoding='utf-8') as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())


@contextlib.contextmanager
def named(path: epath.Path) -> Iterator[None]:
  """Says of an OSError which file it was, and what is to be done."""
  try:
    yield
  except OSError as error:
    raise OSError(
      f'{path} could not be written: {error}. When this is mended, the same '
      'command goes on from the last checkpoint.'
    ) from error


def _sync(path: epath.Path) -> None:
  """So that even a machine that loses power keeps the order of writes."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


@contextlib.contextmanager
def locked(workdir: epath.PathLike) -> Iterator[None]:
  """Keeps other runs from writing the same workdir.

  The lock is the kernel's, on the file 'lock', and ends with the process,
  however that ends. Objects know no such lock: there it is up to you.

  Args:
    workdir: made if it does not exist.

  Raises:
    ValueError: if it is a file.
    RuntimeError: if another run has it, with its process and host.
  """
  directory = epath.Path(workdir)
  if directory.exists() and not directory.is_dir():
    raise ValueError(f'{directory}: expected a directory, and it is a file')
  directory.mkdir(parents=True, exist_ok=True)
  if is_remote(directory):
    yield
    return
  with open(directory / 'lock', 'a+', encoding='utf-8') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      raise RuntimeError(
        f'workdir={str(workdir)!r}: another run is writing there '
        f'({file.read().strip()}). Stop it, or name another --workdir.'
      ) from None
    with named(directory / 'lock'):
      file.truncate(0)
      file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
      file.flush()
    yield
