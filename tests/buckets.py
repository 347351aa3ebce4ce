"""In-memory substitute for Google Cloud Storage, for files opened by epath.

It has objects but no directories, replaces an object atomically when a file is
closed, and does not support appending.
"""

import contextlib
from collections.abc import Iterator

import fsspec
from etils import epath
from etils.epath import backend
from fsspec.implementations import memory
from tensorboardX import record_writer


class Bucket(memory.MemoryFileSystem):
  protocol = ('gs', 'gcs')
  store, pseudo_dirs = {}, ['']

  def __init__(self, *args, finalize_on_close: bool = False, **kwargs):
    super().__init__(*args, **kwargs)

  @classmethod
  def _strip_protocol(cls, path):
    path = str(path).removeprefix('gs://').removeprefix('gcs://')
    return '/' + path.strip('/') if path.strip('/') else ''

  def mkdir(self, path, create_parents=True, **kwargs):
    """Does nothing, because a directory exists as long as it has an object."""

  def makedirs(self, path, exist_ok=False):
    """Does nothing, like `mkdir`."""

  def _open(self, path, mode='rb', **kwargs):
    if mode not in ('rb', 'wb', 'xb'):
      raise NotImplementedError(f'mode={mode!r}: objects cannot be appended to')
    return super()._open(path, mode, **kwargs)


class Events:
  """Substitute for the storage client of tensorboardX."""

  def __init__(self, path: str):
    self._path, self._data = epath.Path(path), b''

  @classmethod
  def open(cls, path: str) -> 'Events':
    return cls(path)

  def write(self, data: bytes) -> None:
    self._data += data

  def flush(self) -> None:
    self._path.write_bytes(self._data)

  close = flush


@contextlib.contextmanager
def substituted() -> Iterator[type[Bucket]]:
  """Context manager that keeps everything under gs:// in memory."""
  known = fsspec.registry.get('gcs')
  fsspec.register_implementation('gcs', Bucket, clobber=True)
  backend.fsspec_backend._get_filesystem.cache_clear()
  Bucket.store.clear()
  record_writer.register_writer_factory('gs', Events)
  try:
    yield Bucket
  finally:
    record_writer.register_writer_factory(
      'gs', record_writer.GCSRecordWriterFactory()
    )
    backend.fsspec_backend._get_filesystem.cache_clear()
    if known:
      fsspec.register_implementation('gcs', known, clobber=True)
