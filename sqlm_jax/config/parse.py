"""Builds dataclasses from nested mappings and checks the type of every leaf."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from sqlm_jax.config import keys

if TYPE_CHECKING:
  from _typeshed import DataclassInstance

Group = TypeVar('Group', bound='DataclassInstance')

# The largest 32-bit integer, as which numbers go to the devices.
MAX_INT = 2**31 - 1
# The largest float32; a larger number would become infinite.
MAX_FLOAT = 3.4028234e38
_SHOWN = 400  # characters of a value in an error


def build(cls: type[Group], tree: Mapping, prefix: str = '') -> Group:
  """Builds a dataclass, whose fields may also be dataclasses.

  Args:
    cls: The dataclass.
    tree: Values by field name; a missing field has its default.
    prefix: Prefix of the keys in error messages.

  Raises:
    ValueError: If a key is unknown, or a value has the wrong type.
  """
  if not isinstance(tree, Mapping):
    raise ValueError(f'{prefix[:-1]}={show(tree)}: expected a group of keys')
  fields = {field.name: field for field in dataclasses.fields(cls)}
  values = {}
  for name, value in tree.items():
    key = f'{prefix}{name}'
    if name not in fields:
      raise ValueError(
        f'{key}={show(value)}: unknown key, expected one of {", ".join(fields)}'
      )
    group = keys.group_of(fields[name])
    if group is not None:
      values[name] = build(group, value, f'{key}.')
    else:
      values[name] = _convert(fields[name].type, value, key)
  return cls(**values)


def show(value: Any) -> str:
  """Returns the repr of a value, truncated if it is long."""
  text = repr(value)
  return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}…'


def describe(kind: Any) -> str:
  """Describes the values of a type; completes 'expected ...'."""
  names = {
    int: 'a whole number',
    float: 'a finite number',
    str: 'text',
    bool: 'True or False',
  }
  if kind in names:
    return names[kind]
  parts = typing.get_args(kind)
  if typing.get_origin(kind) is typing.Literal:
    named = ', '.join(part for part in parts if part)
    return f'one of {named}' + (", or ''" if '' in parts else '')
  if parts[-1] is Ellipsis:
    return f'a tuple, each element {describe(parts[0])}'
  group = 'a pair' if len(parts) == 2 else 'a group'
  return f'{group} of {" and ".join(map(describe, parts))}'


def _convert(kind: Any, value: Any, key: str) -> Any:
  """Checks the type of a leaf, and converts lists to tuples."""
  error = ValueError(f'{key}={show(value)}: expected {describe(kind)}')
  if typing.get_origin(kind) is typing.Literal:
    if value not in typing.get_args(kind):
      raise error
    return value
  if isinstance(kind, types.GenericAlias):
    parts = typing.get_args(kind)
    if not isinstance(value, list | tuple):
      raise error
    if parts[-1] is Ellipsis:
      parts = (parts[0],) * len(value)
    if len(parts) != len(value):
      raise error
    pairs = zip(parts, value, strict=True)
    return tuple(_convert(part, element, key) for part, element in pairs)
  allowed = (int, float) if kind is float else (kind,)
  if type(value) not in allowed:
    raise error
  # Also rejects NaN, for which every comparison is false.
  if kind is float and not abs(value) <= MAX_FLOAT:
    raise error
  if kind is int and abs(value) > MAX_INT:
    raise ValueError(
      f'{key}={show(value)}: expected a whole number from {-MAX_INT} to '
      f'{MAX_INT}'
    )
  return kind(value)
