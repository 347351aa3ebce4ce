"""Opens a GGUF file, for the tokenizer and the weights in it."""

import contextlib
import pathlib
from collections.abc import Iterator

import gguf
import numpy as np


class _Reader(gguf.GGUFReader):
  """Reads through a plain array.

  The reader slices its file once or twice a string, half a million times for a
  vocabulary, and a slice of a memmap costs three times that of an array.
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
def read_once() -> Iterator[None]:
  """Within, the metadata of a file is read once, however often it is opened.

  That takes seconds, and what it holds is too large to be kept for a run.
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
    ValueError: if it is no GGUF file, or not all of one.
  """
  if _opened is None:
    return _read(path)
  if path not in _opened:
    _opened[path] = _read(path)
  return _opened[path]


def _read(path: pathlib.Path) -> gguf.GGUFReader:
  with path.open('rb') as file:
    start = file.read(4)
  if start != b'GGUF':
    raise ValueError(
      f'{path}: expected a GGUF file or a Hugging Face directory, this is a '
      f'file that begins with {start!r}'
    )
  try:
    return _Reader(path)
  except (ValueError, KeyError, IndexError, OverflowError) as error:
    raise ValueError(
      f'{path}: expected a whole GGUF file, this one is truncated or damaged '
      f'({error})'
    ) from None
