"""Files of a workdir: complete or absent, on a disk or in a bucket.

A workdir is a local directory or a prefix of objects in a bucket, such as
gs://bucket/run. An object appears at once when it is written, and does not
grow: to add a line, the object is written again.
"""

import contextlib
import importlib.util
import os
import re
import socket
from collections.abc import Iterator

import fsspec
from etils import epath

# Scheme -> extra of setup.py that installs its file system.
_EXTRAS = {'gs': 'gs', 's3': 's3'}
# Scheme -> name of the file system that epath asks fsspec for.
_FILE_SYSTEMS = {'gs': 'gcs', 's3': 's3'}


def check(path: epath.PathLike, name: str = 'workdir') -> None:
  """Makes sure that a path is local or in a bucket that can be opened.

  Args:
    path: path as the user gave it.
    name: name of the flag or argument, for the error.

  Raises:
    ValueError: if the path is empty, or there is no file system for its
      scheme; it says what to install.
  """
  text = os.fspath(path)
  known = ' or '.join(f'{scheme}://bucket/…' for scheme in _EXTRAS)
  scheme, separator, place = text.partition('://')
  if not separator:
    # One slash is missing: this would be a directory named 'gs:'.
    if re.match(rf'({"|".join(_EXTRAS)}|file|https?):/', text):
      raise ValueError(f'{name}={text!r}: expected a directory, {known}')
    if not text.strip():
      raise ValueError(f'{name}={text!r}: expected a directory')
    return
  if scheme not in _EXTRAS:
    raise ValueError(
      f'{name}={text!r}: expected a directory, {known}; there is no file '
      f'system for {scheme}://'
    )
  if not place.strip('/'):
    raise ValueError(f'{name}={text!r}: expected {scheme}://bucket/…')
  if importlib.util.find_spec('tensorflow'):
    return  # epath then uses the file systems of tensorflow
  try:
    fsspec.get_filesystem_class(_FILE_SYSTEMS[scheme])
  except (ImportError, ValueError) as error:
    raise ValueError(
      f'{name}={text!r}: expected the file system of {scheme}://, which is not '
      f"installed: pip install -e '.[{_EXTRAS[scheme]}]' ({error})"
    ) from None


def expand(path: str) -> str:
  """Expands a leading ~, which the shell leaves alone after `--workdir=`."""
  return path if is_remote(path) else os.path.expanduser(path)


def is_remote(path: epath.PathLike) -> bool:
  """Returns True if a path is in a bucket."""
  return '://' in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
  """Returns the absolute path; epath takes that of a bucket for relative."""
  path = epath.Path(path)
  return path if is_remote(path) else path.absolute()


def entries(directory: epath.Path, pattern: str) -> list[epath.Path]:
  """Returns the sorted entries of a directory that match a regular expression.

  A glob pattern would also read brackets of the directory's own path, such as
  those of `seeds=[0,1]`, as a part of the pattern.
  """
  if not directory.is_dir():
    return []
  return sorted(
    path for path in directory.iterdir() if re.fullmatch(pattern, path.name)
  )


def write_text(path: epath.Path, text: str) -> None:
  """Writes a file; a crash leaves the old file or the new one."""
  with replacing(path) as temporary:
    temporary.write_text(text, encoding='utf-8')


@contextlib.contextmanager
def replacing(path: epath.Path) -> Iterator[epath.Path]:
  """Yields a temporary path to write to, and renames it at the end."""
  with named(path):
    if is_remote(path):
      yield path  # an object never appears in part
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
  """Names the file in an OSError, and says what to do."""
  try:
    yield
  except OSError as error:
    raise OSError(
      f'{path} could not be written: {error}. When this is mended, the same '
      'command goes on from the last checkpoint.'
    ) from error


def _sync(path: epath.Path) -> None:
  """Keeps the order of writes even if the machine loses power."""
  if os.name == 'nt' and path.is_dir():
    return  # Windows opens no directories
  # Windows syncs only files that are open for writing.
  descriptor = os.open(path, os.O_RDWR if os.name == 'nt' else os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


@contextlib.contextmanager
def locked(workdir: epath.PathLike) -> Iterator[None]:
  """Keeps other runs from writing the same workdir.

  The lock is the kernel's, on the file 'lock', and ends with the process,
  however that ends. There is no such lock in a bucket.

  Args:
    workdir: made if it does not exist.

  Raises:
    ValueError: if it is a file.
    RuntimeError: if another run has the lock, with its process and host.
  """
  directory = epath.Path(workdir)
  if directory.exists() and not directory.is_dir():
    raise ValueError(f'{directory}: expected a directory, and it is a file')
  directory.mkdir(parents=True, exist_ok=True)
  if is_remote(directory):
    yield
    return
  with open(directory / 'lock', 'a+', encoding='utf-8') as file:
    if not _lock(file.fileno()):
      file.seek(0)
      raise RuntimeError(
        f'workdir={str(workdir)!r}: another run is writing there '
        f'({file.read().strip()}). Stop it, or name another --workdir.'
      )
    with named(directory / 'lock'):
      file.truncate(0)
      file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
      file.flush()
    yield


def _lock(descriptor: int) -> bool:
  """Locks an open file until it is closed; False if another process has it."""
  if os.name == 'nt':
    return _lock_on_windows(descriptor)
  import fcntl  # Windows has none

  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  return True


def _lock_on_windows(descriptor: int) -> bool:
  import msvcrt

  # A byte after the text, since other processes cannot read a locked byte.
  os.lseek(descriptor, 1 << 20, os.SEEK_SET)
  try:
    msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
  except OSError:
    return False
  return True
