"""Files with arbitrary contents, and irregular files."""

import os

import pytest

from sqlm_jax.pretrained import model_files


@pytest.mark.parametrize(
  'text, expected',
  [
    (b'{"a": [1, 2.5, null]}', {'a': [1, 2.5, None]}),
    (b'\xef\xbb\xbf{"a": 1}', {'a': 1}),  # a byte order mark
    ('{"a": "注文"}'.encode(), {'a': '注文'}),
    (b'{"a": 1, "a": 1}', {'a': 1}),
    (b'{}', {}),
  ],
)
def test_json_is_read(tmp_path, text, expected):
  path = tmp_path / 'config.json'
  path.write_bytes(text)
  assert model_files.read_json(path) == expected


@pytest.mark.parametrize(
  'text, message',
  [
    (b'', 'expected JSON'),
    (b'{"a": 1', 'expected JSON'),
    (b'{"a": 1}}', 'expected JSON: Extra data'),
    (b'{"a": "\xff"}', 'expected JSON: .*utf-8'),
    (b'[]', 'expected a JSON object'),
    (b'null', 'expected a JSON object'),
    (b'{"a": NaN}', 'NaN: expected a finite number'),
    (b'{"a": [-Infinity]}', '-Infinity: expected a finite number'),
    (b'{"a": 1e999}', '1e999: expected a finite number'),
    (b'{"a": ' + b'1' * 5000 + b'}', 'expected JSON'),
    (b'{"a": 1, "a": 2}', "key 'a' has two values, 1 and 2"),
    (b'{"b": {"a": 1, "a": null}}', "key 'a' has two values, 1 and None"),
    (b'[' * 10**5, 'nested too deep'),
    (b'{"a":' * 10**5, 'nested too deep'),
    (b' ' * (2**24 + 1), '16777217 bytes: expected at most 16777216'),
  ],
)
def test_invalid_json_is_refused(tmp_path, text, message):
  path = tmp_path / 'config.json'
  path.write_bytes(text)
  with pytest.raises(ValueError, match=rf'config\.json: .*{message}'):
    model_files.read_json(path)


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda path: None, 'missing'),
    (lambda path: path.mkdir(), 'found a directory'),
    (os.mkfifo, 'found a named pipe'),
    (lambda path: path.symlink_to('/dev/zero'), 'found a character device'),
    (lambda path: path.symlink_to('gone'), 'symbolic link to gone, which does'),
  ],
)
def test_irregular_files_are_refused(tmp_path, make, message):
  path = tmp_path / 'config.json'
  make(path)
  with pytest.raises(ValueError, match=rf'config\.json: .*{message}'):
    model_files.read_json(path)


def test_links_to_files_are_followed(tmp_path):
  (tmp_path / 'blob').write_text('{"a": 1}')
  path = tmp_path / 'config.json'
  path.symlink_to('blob')
  assert model_files.size_of(path) == 8
  assert model_files.read_json(path) == {'a': 1}


def test_broken_links_are_present(tmp_path):
  """A broken link is a mistake, unlike a missing optional file."""
  path = tmp_path / 'config.json'
  assert not model_files.is_present(path)
  path.symlink_to('gone')
  assert model_files.is_present(path)


def test_optional_files_may_be_missing_but_not_broken(tmp_path):
  path = tmp_path / 'added_tokens.json'
  assert model_files.read_optional_json(path) == {}
  path.symlink_to('gone')
  with pytest.raises(ValueError, match='symbolic link to gone'):
    model_files.read_optional_json(path)


def test_line_breaks_are_normalized(tmp_path):
  path = tmp_path / 'merges.txt'
  path.write_bytes('a b\r\nç d\re f\n'.encode())
  assert model_files.read_utf8(path) == 'a b\nç d\ne f\n'
  path.write_bytes(b'\xff')
  with pytest.raises(ValueError, match=r'merges\.txt: expected UTF-8'):
    model_files.read_utf8(path)


def test_git_lfs_pointers_are_refused(tmp_path):
  """A clone without Git LFS contains pointers instead of large files."""
  path = tmp_path / 'model.safetensors'
  path.write_text(
    f'version https://git-lfs.github.com/spec/v1\noid sha256:{"0" * 64}\n'
    'size 269060552\n'
  )
  with pytest.raises(ValueError, match=r'model\.safet.*; run `git lfs pull`'):
    model_files.size_of(path)
