"""Opens GGUF files and checks their headers."""

import contextlib
import math
import mmap
import pathlib
import struct
from collections.abc import Generator
from typing import NamedTuple

import gguf
import numpy as np

from sqlm_jax.pretrained import model_files

NO_TOKEN = 2**32 - 1  # some writers store this id if there is no such token

_VERSIONS = (2, 3)
# Bounds on the metadata. Gemma 3 has 262,144 tokens, each with a score and a
# type, and the deepest models have about a thousand tensors. The reader needs
# half a kilobyte for each entry.
_MAX_HEADER_BYTES = 2**27
_MAX_ARRAY_ENTRIES = 6 * 2**18  # in all arrays; twice those of Gemma 3
_MAX_KEYS = _MAX_TENSORS = 2**14
_MAX_NAME_BYTES = 2**16 - 1
_MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
# struct formats of the metadata's numbers, by gguf.GGUFValueType.
_NUMBERS = dict(enumerate('BbHhIif?')) | {10: 'Q', 11: 'q', 12: 'd'}
_STRING, _ARRAY = gguf.GGUFValueType.STRING, gguf.GGUFValueType.ARRAY


class _Reader(gguf.GGUFReader):
  """A reader that slices a plain array instead of a memmap.

  The reader slices its file half a million times for a vocabulary, and a slice
  of a memmap costs three times as much as a slice of an array.
  """

  @property
  def data(self) -> np.ndarray:
    return self._plain

  @data.setter
  def data(self, mapped: np.memmap) -> None:
    self._plain = mapped.view(np.ndarray)


# Readers by path, within `read_once`.
_opened: dict[pathlib.Path, gguf.GGUFReader] | None = None


@contextlib.contextmanager
def read_once() -> Generator[None]:
  """Opens each file only once within the context.

  Reading the metadata takes seconds, and it is too large to be kept for a run.
  """
  global _opened
  _opened = {}
  try:
    yield
  finally:
    _opened = None


def open_file(path: pathlib.Path) -> gguf.GGUFReader:
  """Reads the metadata of a file; tensors stay on the disk.

  Raises:
    ValueError: if it is not a GGUF file, is truncated, or has a header that
      does not match the rest of the file.
  """
  if _opened is None:
    return _read(path)
  if path not in _opened:
    _opened[path] = _read(path)
  return _opened[path]


def _read(path: pathlib.Path) -> gguf.GGUFReader:
  model_files.size_of(path)
  with path.open('rb') as file:
    start = file.read(4)
    if start != b'GGUF':
      raise ValueError(
        f'{path}: expected a GGUF file or a Hugging Face directory, found a '
        f'file that begins with {start!r}'
      )
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
      try:
        _HeaderCheck(content).run()
      except _DamagedError as error:
        raise ValueError(
          f'{path}: expected a complete GGUF file, but it is truncated or '
          f'damaged ({error})'
        ) from None
      except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
  try:
    return _Reader(path)
  except (ValueError, LookupError, OverflowError) as error:
    raise ValueError(
      f'{path}: expected a complete GGUF file, but it is truncated or damaged '
      f'({error})'
    ) from None


class _DamagedError(Exception):
  """Raised for a file that is shorter than its header claims."""


class _TensorInfo(NamedTuple):
  name: str
  offset: int  # from the beginning of all tensors
  num_bytes: int


class _HeaderCheck:
  """Checks the header of a GGUF file before the gguf library reads it.

  The library trusts every count and size of the header, even if it is damaged
  or hostile. This check allocates only the names.
  """

  def __init__(self, content: mmap.mmap):
    self._content = content
    self._at = 4  # after the magic
    self._array_entries = 0

  def run(self) -> None:
    """Checks the header.

    Raises:
      _DamagedError: if a part of the content would lie outside of the file.
      ValueError: if the header cannot be read. The message names the key and
        the value.
    """
    self._check_version()
    num_tensors, num_keys = self._number('Q'), self._number('Q')
    # A key takes at least a length, a type and a byte; a tensor takes at least
    # a length, a number of dimensions, a type and an offset.
    self._check_count(
      'metadata keys', num_keys, max_count=_MAX_KEYS, min_bytes=13
    )
    self._check_count(
      'tensors', num_tensors, max_count=_MAX_TENSORS, min_bytes=24
    )
    alignment = self._check_metadata(num_keys)
    tensors = self._check_tensor_infos(num_tensors)
    start = self._at + -self._at % alignment
    self._check_places(tensors, start, alignment)

  def _check_version(self) -> None:
    version = self._number('I')
    if version in _VERSIONS:
      return
    (swapped,) = struct.unpack('>I', struct.pack('<I', version))
    if swapped in (1, *_VERSIONS):
      raise ValueError(
        'expected a little-endian GGUF file, found a big-endian one'
      )
    raise ValueError(
      f'expected a GGUF file of version {" or ".join(map(str, _VERSIONS))}, '
      f'found version {version}'
    )

  def _check_metadata(self, num_keys: int) -> int:
    """Checks all keys and their values, and returns the alignment."""
    alignment = gguf.GGUF_DEFAULT_ALIGNMENT
    seen = set()
    for _ in range(num_keys):
      key = self._name('a metadata key')
      if key in seen:
        raise ValueError(f'{key}: expected one value, found two')
      seen.add(key)
      kind = self._number('I')
      start = self._at
      self._check_value(key, kind)
      if key == 'general.alignment':
        alignment = self._alignment(kind, start)
    return alignment

  def _alignment(self, kind: int, start: int) -> int:
    value = None
    if kind == gguf.GGUFValueType.UINT32:
      (value,) = struct.unpack_from('<I', self._content, start)
    if not value or value & (value - 1) or value > 2**16:
      raise ValueError(
        f'general.alignment={value}: expected a 32-bit power of two, at most '
        '65536'
      )
    return value

  def _check_value(self, key: str, kind: int) -> None:
    if kind in _NUMBERS:
      self._skip(struct.calcsize(_NUMBERS[kind]))
    elif kind == _STRING:
      self._skip(self._number('Q'))
    elif kind == _ARRAY:
      self._check_array(key)
    else:
      raise ValueError(
        f'{key}: expected a type from 0 to 12, found type {kind}'
      )

  def _check_array(self, key: str) -> None:
    kind, count = self._number('I'), self._number('Q')
    if kind not in _NUMBERS and kind != _STRING:
      raise ValueError(
        f'{key}: expected an array of numbers or strings, found type {kind}'
      )
    entry_bytes = 8 if kind == _STRING else struct.calcsize(_NUMBERS[kind])
    if count * entry_bytes > len(self._content) - self._at:
      raise _DamagedError(
        f'{key}: {count} entries in a file of {len(self._content)} bytes'
      )
    self._array_entries += count
    if self._array_entries > _MAX_ARRAY_ENTRIES:
      raise ValueError(
        f'{key}: {count} entries: expected at most {_MAX_ARRAY_ENTRIES} in all '
        'arrays of the metadata together'
      )
    if kind == _STRING:
      for _ in range(count):
        self._skip(self._number('Q'))
    else:
      self._skip(count * entry_bytes)

  def _check_tensor_infos(self, num_tensors: int) -> list[_TensorInfo]:
    tensors, seen = [], set()
    for _ in range(num_tensors):
      name = self._name('the name of a tensor')
      if name in seen:
        raise ValueError(
          f'tensor {name}: expected one tensor of this name, found two'
        )
      seen.add(name)
      rank = self._number('I')
      if rank > _MAX_DIMENSIONS:
        raise ValueError(
          f'tensor {name}: {rank} dimensions: expected at most '
          f'{_MAX_DIMENSIONS}'
        )
      shape = [self._number('Q') for _ in range(rank)]
      num_bytes = _num_bytes(name, shape, self._number('I'))
      tensors.append(_TensorInfo(name, self._number('Q'), num_bytes))
    return tensors

  def _check_places(
    self, tensors: list[_TensorInfo], start: int, alignment: int
  ) -> None:
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
      if tensor.offset % alignment:
        raise ValueError(
          f'tensor {tensor.name}: offset {tensor.offset}: expected a multiple '
          f'of {alignment}'
        )
      if tensor.offset < end:
        raise ValueError(
          f'tensor {tensor.name}: offset {tensor.offset}: expected at least '
          f'{end}, where the tensor before it ends'
        )
      end = tensor.offset + tensor.num_bytes
      if start + end > len(self._content):
        raise _DamagedError(
          f'tensor {tensor.name} ends at byte {start + end} of '
          f'{len(self._content)}'
        )

  def _check_count(
    self, what: str, count: int, *, max_count: int, min_bytes: int
  ) -> None:
    if count * min_bytes > len(self._content) - self._at:
      raise _DamagedError(
        f'{count} {what} in a file of {len(self._content)} bytes'
      )
    if count > max_count:
      raise ValueError(f'{count} {what}: expected at most {max_count}')

  def _name(self, what: str) -> str:
    length = self._number('Q')
    start = self._at
    self._skip(length)
    if length > _MAX_NAME_BYTES:
      raise ValueError(
        f'{what}: {length} bytes: expected at most {_MAX_NAME_BYTES}'
      )
    try:
      return self._content[start : self._at].decode()
    except UnicodeDecodeError as error:
      raise ValueError(f'{what}: expected UTF-8: {error}') from None

  def _number(self, kind: str) -> int:
    start = self._at
    self._skip(struct.calcsize(kind))
    return struct.unpack_from(f'<{kind}', self._content, start)[0]

  def _skip(self, num_bytes: int) -> None:
    self._at += num_bytes
    if self._at > len(self._content):
      raise _DamagedError(
        f'its metadata extends to byte {self._at} of {len(self._content)}'
      )
    if self._at > _MAX_HEADER_BYTES:
      raise ValueError(
        f'metadata of more than {self._at} bytes: expected at most '
        f'{_MAX_HEADER_BYTES}'
      )


def _num_bytes(name: str, shape: list[int], kind: int) -> int:
  """Returns the size of a tensor's data; `shape` begins with the row's size."""
  if 0 in shape:
    raise ValueError(
      f'tensor {name}: shape {tuple(shape[::-1])}: expected no dimension of 0'
    )
  try:
    kind = gguf.GGMLQuantizationType(kind)
  except ValueError:
    raise ValueError(
      f'tensor {name}: type {kind}: expected a type that the gguf library '
      f'knows, at most {max(gguf.GGMLQuantizationType).value}'
    ) from None
  block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
  row = shape[0] if shape else 1
  if row % block:
    raise ValueError(
      f'tensor {name}: rows of {row} numbers: expected a multiple of {block} '
      f'for {kind.name}'
    )
  return math.prod(shape) // block * block_bytes
