"""The metadata of a GGUF file, with checked types and ranges."""

import pathlib
import reprlib
from collections.abc import Iterable
from typing import Any

import gguf
import numpy as np

from sqlm_jax.pretrained import hf_values


class Fields:
  """The metadata of a file, with checked types.

  Callers omit the architecture prefix of a name, such as `llama.`. Names that
  all architectures share, such as `general.alignment`, are given in full.
  """

  _SHARED = ('general.', 'split.', 'tokenizer.')

  def __init__(
    self,
    path: pathlib.Path,
    fields: dict[str, gguf.ReaderField],
    architectures: Iterable[str],
  ):
    self.path = path
    self._fields = fields
    self.architecture: str = ''
    self.expect('general.architecture', architectures)
    self.architecture = self.get('general.architecture')

  def get(self, name: str, default: Any = None) -> Any:
    field = self._fields.get(self._key(name))
    if field is None:
      return default
    try:
      return _content(field)
    except UnicodeDecodeError as error:
      raise ValueError(
        f'{self.path}: {self._key(name)}: expected UTF-8: {error}'
      ) from None

  def number(
    self, name: str, default: float | None = None, *, may_be_0: bool = False
  ) -> float:
    value = self.get(name, default)
    if not hf_values.is_number(value) or not (value or may_be_0):
      kind = 'number that is at least 0' if may_be_0 else 'positive number'
      raise self.error(name, value, f'a {kind}')
    return float(value)

  def integer(
    self,
    name: str,
    default: int | None = None,
    *,
    minimum: int = 1,
    maximum: int = hf_values.MAX_SIZE,
  ) -> int:
    value = self.get(name, default)
    # Some models have one number for each layer, which the decoder does not
    # support.
    if type(value) is not int or not minimum <= value <= maximum:
      raise self.error(name, value, f'an integer from {minimum} to {maximum}')
    return value

  def expect(self, name: str, allowed: Iterable, default: Any = None) -> None:
    value = self.get(name, default)
    if isinstance(value, list) or value not in allowed:
      raise self.error(name, value, ' or '.join(map(repr, allowed)))

  def error(self, name: str, value: Any, expected: str) -> ValueError:
    shown = reprlib.repr(value)  # an array may be long
    return ValueError(
      f'{self.path}: {self._key(name)}={shown}: expected {expected}'
    )

  def _key(self, name: str) -> str:
    shared = name.startswith(self._SHARED)
    return name if shared else f'{self.architecture}.{name}'


def _content(field: gguf.ReaderField) -> Any:
  content = field.contents()
  if field.types == [gguf.GGUFValueType.FLOAT32]:
    # Uses the shortest decimal, such as 1e-06 instead of 9.99999997e-07.
    return float(str(np.float32(content)))
  return content
