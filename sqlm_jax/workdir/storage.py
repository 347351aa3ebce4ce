"""Atomic files of a workdir on a disk or in a bucket.

A workdir is a local directory or a prefix of objects in a bucket, such as
gs://bucket/run. Writing an object is atomic, but an object cannot be appended
to: to add a line, the whole object is written again.
"""

import contextlib
import importlib.util
import os
import re
import socket
from collections.abc import Generator

import fsspec
from etils import epath

# Extra of the package that installs the file system of each scheme.
_EXTRAS = {'gs': 'gs', 's3': 's3'}
# Name of each scheme's file system in fsspec, as epath uses it.
_FILE_SYSTEMS = {'gs': 'gcs', 's3': 's3'}


def check(path: epath.PathLike, name: str = 'workdir') -> None:
  """Checks that a path is local or in a bucket that can be opened.

  Args:
    path: Path as the user gave it.
    name: Name of the flag or argument, for the error message.

  Raises:
    ValueError: If the path is empty, or there is no file system for its scheme.
      The message names the package to install.
  """
  text = os.fspath(path)
  known = ' or '.join(f'{scheme}://bucket/…' for scheme in _EXTRAS)
  scheme, separator, place = text.partition('://')
  if not separator:
    # A path such as gs:/bucket would become a directory named 'gs:'.
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
    return  # epath uses the file systems of tensorflow if it is installed
  try:
    fsspec.get_filesystem_class(_FILE_SYSTEMS[scheme])
  except (ImportError, ValueError) as error:
    raise ValueError(
      f'{name}={text!r}: expected the file system of {scheme}://, which is not '
      f"installed: pip install -e '.[{_EXTRAS[scheme]}]' ({error})"
    ) from None


def expand(path: str) -> str:
  """Expands a leading ~, which the shell does not expand after `--workdir=`."""
  return path if is_remote(path) else os.path.expanduser(path)


def is_remote(path: epath.PathLike) -> bool:
  """Returns True if a path is in a bucket."""
  return '://' in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
  """Returns an absolute path; epath treats bucket paths as relative."""
  path = epath.Path(path)
  return path if is_remote(path) else path.absolute()


def entries(directory: epath.Path, pattern: str) -> list[epath.Path]:
  """Returns the sorted entries of a directory that match a regular expression.

  A glob pattern would also interpret brackets in the directory's own path, such
  as `seeds=[0,1]`.
  """
  if not directory.is_dir():
    return []
  return sorted(
    path for path in directory.iterdir() if re.fullmatch(pattern, path.name)
  )


def write_text(path: epath.Path, text: str) -> None:
  """Writes a file atomically; a crash leaves the old file or the new file."""
  with replacing(path) as temporary:
    temporary.write_text(text, encoding='utf-8')


@contextlib.contextmanager
def replacing(path: epath.Path) -> Generator[epath.Path]:
  """Yields a temporary path to write to, and renames it to `path` on exit."""
  with named(path):
    if is_remote(path):
      yield path  # writing an object is atomic
      return
    temporary = path.parent / f'{path.name}.tmp'
    yield temporary
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def append(path: epath.Path, text: str) -> None:
  """Appends lines to a file; they are on disk when this returns."""
  with named(path):
    if is_remote(path):
      old = path.read_bytes() if path.exists() else b''
      path.write_bytes(old + text.encode())
      return
    with path.open('a', encoding='utf-8') as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())


@contextlib.contextmanager
def named(path: epath.Path) -> Generator[None]:
  """Adds the file and a suggestion to the message of an OSError."""
  try:
    yield
  except OSError as error:
    raise OSError(
      f'{path} could not be written: {error}. After you fix the problem, run '
      'the same command again to resume from the last checkpoint.'
    ) from error


def _sync(path: epath.Path) -> None:
  """Flushes a file or directory to disk.

  This preserves the order of writes if the machine loses power.
  """
  if os.name == 'nt' and path.is_dir():
    return  # Windows cannot open directories
  # On Windows, only files that are open for writing can be synced.
  descriptor = os.open(path, os.O_RDWR if os.name == 'nt' else os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


@contextlib.contextmanager
def locked(workdir: epath.PathLike) -> Generator[None]:
  """Context manager that prevents other runs from writing to a workdir.

  It locks the file 'lock' with a lock of the kernel, which is released when the
  process ends for any reason. A workdir in a bucket is not locked.

  Args:
    workdir: Directory of the run, created if it does not exist.

  Raises:
    ValueError: If `workdir` is a file.
    RuntimeError: If another run has the lock. The message has its process and
      host.
  """
  directory = epath.Path(workdir)
  if directory.exists() and not directory.is_dir():
    raise ValueError(f'{directory}: expected a directory, not a file')
  directory.mkdir(parents=True, exist_ok=True)
  if is_remote(directory):
    yield
    return
  with open(directory / 'lock', 'a+', encoding='utf-8') as file:
    if not _lock(file.fileno()):
      file.seek(0)
      raise RuntimeError(
        f'workdir={str(workdir)!r}: another run is writing to this directory '
        f'({file.read().strip()}). Stop it, or use another --workdir.'
      )
    with named(directory / 'lock'):
      file.truncate(0)
      file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
      file.flush()
    yield


def _lock(descriptor: int) -> bool:
  """Locks an open file until it is closed; False if it is already locked."""
  if os.name == 'nt':
    return _lock_on_windows(descriptor)
  import fcntl  # not available on Windows

  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  return True


def _lock_on_windows(descriptor: int) -> bool:
  import msvcrt

  # Locks a byte after the text, because others cannot read a locked byte.
  os.lseek(descriptor, 1 << 20, os.SEEK_SET)
  try:
    # On another system, the type checker sees an empty module.
    msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # ty: ignore[missing-attribute]
  except OSError:
    return False
  return True
