"""Builds dataclasses from nested mappings and checks the type of every leaf."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from sqlm_jax.config import limits

_SHOWN = 400  # characters of a value in an error


def build(cls: type, tree: Mapping, prefix: str = '') -> Any:
  """Builds a dataclass, whose fields may also be dataclasses.

  Args:
    cls: The dataclass.
    tree: Values by field name; fields with a default may be missing.
    prefix: Prefix of the keys in error messages.

  Raises:
    ValueError: If a key is missing or unknown, or a value has the wrong type.
  """
  if not isinstance(tree, Mapping):
    raise ValueError(f'{prefix[:-1]}={show(tree)}: expected a group of keys')
  fields = {field.name: field for field in dataclasses.fields(cls)}
  for name in tree:
    if name not in fields:
      raise ValueError(
        f'{prefix}{name}={show(tree[name])}: unknown key, expected one of '
        f'{", ".join(fields)}'
      )
  values = {}
  for name, field in fields.items():
    key, kind = prefix + name, field.type
    if name not in tree:
      if field.default is dataclasses.MISSING:
        raise ValueError(f'{key}: missing')
      continue
    if dataclasses.is_dataclass(kind):
      values[name] = build(kind, tree[name], key + '.')
    else:
      values[name] = _convert(kind, tree[name], key)
  return cls(**values)


def show(value: Any) -> str:
  """Returns the repr of a value, truncated if it is long."""
  text = repr(value)
  return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}…'


def _convert(kind, value, key: str):
  """Checks the type of a leaf, and converts lists to tuples."""
  if isinstance(kind, types.GenericAlias):
    *parts, last = typing.get_args(kind)
    if isinstance(value, list | tuple):
      if last is Ellipsis:
        return tuple(_convert(parts[0], v, key) for v in value)
      if len(value) == len(parts) + 1:
        kinds = (*parts, last)
        pairs = zip(kinds, value, strict=True)
        return tuple(_convert(k, v, key) for k, v in pairs)
    raise ValueError(f'{key}={show(value)}: expected {_describe(kind)}')
  allowed = (int, float) if kind is float else (kind,)
  if type(value) not in allowed:
    raise ValueError(f'{key}={show(value)}: expected {_describe(kind)}')
  # Also rejects NaN, for which every comparison is false.
  if kind is float and not abs(value) <= limits.MOST_FLOAT:
    raise ValueError(f'{key}={show(value)}: expected {_describe(kind)}')
  return kind(value)


def _describe(kind) -> str:
  names = {int: 'a whole number', float: 'a finite number', str: 'text'}
  names[bool] = 'True or False'
  if kind in names:
    return names[kind]
  parts = typing.get_args(kind)
  if parts[-1] is Ellipsis:
    return f'a tuple, each element {_describe(parts[0])}'
  group = 'a pair' if len(parts) == 2 else 'a group'
  return f'{group} of {" and ".join(map(_describe, parts))}'
