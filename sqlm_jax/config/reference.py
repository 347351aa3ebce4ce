"""Writes docs/config.md, the reference page of all config keys.

python -m sqlm_jax.config.reference > docs/config.md
"""

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sqlm_jax.config import keys, parse, schema

if TYPE_CHECKING:
  from _typeshed import DataclassInstance

_INTRODUCTION = """\
# Config keys

This page lists every config key. It is generated from `sqlm_jax/config/` by
`python -m sqlm_jax.config.reference`, and a test compares the two.

A config is a Python file with a function `get_config()`. It takes all keys with
their defaults from `configs/default.py`, and changes some of them. The command
line can change any key again:

    python -m sqlm_jax.main --config=configs/quickstart.py \\
      --workdir=runs/other --config.solver.group_size=16 \\
      --config.task.topics="('Sums up to 18',)"

If a value is not allowed, the program ends before it loads a model. The message
names the key, its value and the allowed values.

The last column is for a workdir that already has a run. Keys with `to resume`
may have another value when the run is resumed or evaluated, and keys with `to
evaluate` when it is evaluated (`--mode=eval`). To change any other key, use a
new workdir.
"""
_HEADER = """\
| key | type | default | meaning | allowed values | may change |
|---|---|---|---|---|---|
"""


def page() -> str:
  """Returns the page in Markdown."""
  sections = [_section('', schema.Config), *_groups(schema.Config)]
  return '\n'.join([_INTRODUCTION, *sections])


def _groups(cls: 'type[DataclassInstance]', prefix: str = '') -> Iterator[str]:
  for field in dataclasses.fields(cls):
    group = keys.group_of(field)
    if group is not None:
      name = prefix + field.name
      yield _section(name, group)
      yield from _groups(group, f'{name}.')


def _section(name: str, cls: type) -> str:
  """Returns the keys that are directly in a group."""
  rows = [
    _row(key) for key in schema.KEYS if key.name.rpartition('.')[0] == name
  ]
  title = f'`{name}`' if name else 'Keys without a group'
  return f'## {title}\n\n{inspect.getdoc(cls)}\n\n{_HEADER}{"".join(rows)}'


def _row(key: keys.Key) -> str:
  cells = (
    f'`{key.name}`',
    _type(key.type),
    f'`{key.default!r}`',
    key.doc,
    _allowed(key),
    key.may_change,
  )
  escaped = (cell.replace('|', r'\|') for cell in cells)
  return f'| {" | ".join(escaped)} |\n'


def _type(kind: Any) -> str:
  if typing.get_origin(kind) is typing.Literal:
    return '`str`'
  name = str(kind) if isinstance(kind, types.GenericAlias) else kind.__name__
  return f'`{name}`'


def _allowed(key: keys.Key) -> str:
  if typing.get_origin(key.type) is typing.Literal:
    return parse.describe(key.type)
  return key.check.expected if key.check else ''


if __name__ == '__main__':
  sys.stdout.write(page())
