"""GGUF headers that are invalid or contradict the file."""

import struct

import pytest

from sqlm_jax.pretrained import gguf_file

U8, U32, STRING, ARRAY, U64 = 0, 4, 8, 9, 10
F32, Q8_0 = 0, 8


def text(content: bytes) -> bytes:
  return struct.pack('<Q', len(content)) + content


def key(name: bytes, kind: int, value: bytes) -> bytes:
  return text(name) + struct.pack('<I', kind) + value


def array(kind: int, count: int, entries: bytes = b'') -> bytes:
  return key(b'a', ARRAY, struct.pack('<IQ', kind, count) + entries)


def tensor(name: bytes, shape, kind: int = F32, offset: int = 0) -> bytes:
  sizes = struct.pack(f'<I{len(shape)}Q', len(shape), *shape)
  return text(name) + sizes + struct.pack('<IQ', kind, offset)


def header(
  *keys: bytes, tensors=(), version=3, num_keys=None, num_tensors=None, end='<'
) -> bytes:
  counts = (
    len(tensors) if num_tensors is None else num_tensors,
    len(keys) if num_keys is None else num_keys,
  )
  start = b'GGUF' + struct.pack(f'{end}IQQ', version, *counts)
  return start + b''.join(keys) + b''.join(tensors)


NAME = text(b'a')


@pytest.mark.parametrize(
  'content, message',
  [
    # Counts and sizes that exceed the file.
    (header(array(STRING, 9 * 10**9)), 'a: 9000000000 entries in a file of'),
    (header(array(U64, 2**63)), 'a: 9223372036854775808 entries'),
    (header(num_keys=2**40), '1099511627776 metadata keys in a file of 24 b'),
    (header(num_tensors=2**64 - 1), '18446744073709551615 tensors in a file'),
    (header(key(b'a', STRING, struct.pack('<Q', 2**50))), 'extends to byte'),
    (header(array(STRING, 1, struct.pack('<Q', 2**63))), 'extends to byte'),
    (header(struct.pack('<Q', 2**63) + b'a' * 30), 'extends to byte'),
    (header(tensors=[tensor(b'a', [2**63] * 4)]), 'tensor a ends at byte'),
    (header(tensors=[tensor(b'a', [8], offset=2**60)]), 'tensor a ends at b'),
    # Counts that fit into the file, but exceed a limit.
    (
      header(array(U8, 2**21, bytes(2**21))),
      'a: 2097152 entries: expected at most 1572864',
    ),
    (
      header(*[key(b'%d' % i, U8, b'0') for i in range(2**14 + 1)]),
      '16385 metadata keys: expected at most 16384',
    ),
    (header(key(b'a' * 2**16, U8, b'0')), '65536 bytes: expected at most'),
    # Types and versions.
    (header(version=3, end='>'), 'expected a little-endian GGUF file, found'),
    (header(version=1), 'of version 2 or 3, found version 1'),
    (header(version=0), 'of version 2 or 3, found version 0'),
    (header(key(b'a', 13, b'0' * 9)), 'a: expected a type from 0 to 12, found'),
    (
      header(array(ARRAY, 1, bytes(12))),
      'a: expected an array of numbers or str',
    ),
    (header(array(99, 0)), 'strings, found type 99'),
    (header(key(b'\xff', U8, b'0')), 'a metadata key: expected UTF-8'),
    (header(key(b'a', U8, b'0'), key(b'a', U8, b'1')), 'a: expected one value'),
    # Tensors.
    (
      header(tensors=[tensor(b'\xff', [8])]),
      'name of a tensor: expected UTF-8',
    ),
    (header(tensors=[tensor(b'a', [1] * 5)]), 'tensor a: 5 dimensions: expect'),
    (header(tensors=[tensor(b'a', [8, 0])]), r'tensor a: shape \(0, 8\): exp'),
    (header(tensors=[tensor(b'a', [8], 4)]), 'tensor a: type 4: expected a t'),
    (header(tensors=[tensor(b'a', [8], 999)]), 'tensor a: type 999: expected'),
    (
      header(tensors=[tensor(b'a', [33], Q8_0)]),
      'tensor a: rows of 33 numbers: expected a multiple of 32 for Q8_0',
    ),
    (
      header(tensors=[tensor(b'a', [8], offset=4)]) + bytes(99),
      'tensor a: offset 4: expected a multiple of 32',
    ),
    (
      header(tensors=[tensor(b'a', [16]), tensor(b'b', [8], offset=32)])
      + bytes(199),
      'tensor b: offset 32: expected at least 64, where the tensor before it',
    ),
    (
      header(tensors=[tensor(b'a', [8]), tensor(b'a', [8], offset=32)])
      + bytes(199),
      'tensor a: expected one tensor',
    ),
    # Alignment.
    *(
      (
        header(key(b'general.alignment', U32, struct.pack('<I', n))),
        f'={n}: exp',
      )
      for n in (0, 3, 2**31)
    ),
    (header(key(b'general.alignment', U8, b' ')), 'alignment=None: expected'),
  ],
  ids=lambda value: value[:40] if isinstance(value, str) else '',
)
def test_invalid_headers_are_refused(tmp_path, content, message):
  path = tmp_path / 'tiny.gguf'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=rf'tiny\.gguf: .*{message}'):
    gguf_file.open_file(path)


@pytest.mark.parametrize(
  'key_bytes, message',
  [
    (array(STRING, 10**9), 'a: 1000000000 entries: expected at most'),
    (
      key(b'a', STRING, struct.pack('<Q', 2**34)),
      'metadata of more than .* bytes: expected',
    ),
  ],
)
def test_sparse_files_are_refused(tmp_path, key_bytes, message):
  """A sparse file of 64 GB may occupy no space on disk."""
  path = tmp_path / 'tiny.gguf'
  path.write_bytes(header(key_bytes))
  with path.open('r+b') as file:
    file.truncate(2**36)
  with pytest.raises(ValueError, match=rf'tiny\.gguf: .*{message}'):
    gguf_file.open_file(path)


def test_valid_headers_are_read(tmp_path):
  path = tmp_path / 'tiny.gguf'
  strings = array(STRING, 2, text(b'b') + text('注'.encode()))
  alignment = key(b'general.alignment', U32, struct.pack('<I', 64))
  tensors = [tensor(b'c', [2, 3], offset=64), tensor(b'd', [1])]
  start = header(alignment, strings, tensors=tensors)
  padding = bytes(-len(start) % 64)
  # Bytes after the last tensor are ignored.
  path.write_bytes(
    start + padding + struct.pack('<f60x6f', *range(7)) + b'more'
  )
  reader = gguf_file.open_file(path)
  assert reader.fields['a'].contents() == ['b', '注']
  arrays = {t.name: t.data.tolist() for t in reader.tensors}
  assert arrays == {'c': [[1, 2], [3, 4], [5, 6]], 'd': [0]}
