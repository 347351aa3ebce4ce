"""Declares config keys: each with its default, its meaning and its check.

A key is a field of a frozen dataclass, and a group of keys is a field whose
type is such a dataclass. The type of a key is `int`, `float`, `bool`, `str`, a
tuple of these types, or `Literal` with the allowed strings.
"""

import dataclasses
import datetime
import math
import re
import typing
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import regex as regex_lib

if TYPE_CHECKING:
  from _typeshed import DataclassInstance

# The purposes for which the value of a key may differ from that of a stored
# run: none, to evaluate it, or to resume or evaluate it.
MayChange = Literal['no', 'to evaluate', 'to resume']
NO: MayChange = 'no'
TO_EVALUATE: MayChange = 'to evaluate'
TO_RESUME: MayChange = 'to resume'


class Check(NamedTuple):
  """A condition on the value of one key.

  Attributes:
    is_valid: Returns True for an allowed value of the key's type.
    expected: Describes the allowed values; completes 'expected ...'.
  """

  is_valid: Callable[[Any], bool]
  expected: str


class Key(NamedTuple):
  """A declared key, as it is checked and documented."""

  name: str  # with the names of its groups, such as 'loss.kl_coef'
  type: Any
  default: Any
  doc: str
  check: Check | None
  may_change: MayChange


def key(
  default: Any,
  doc: str,
  check: Check | None = None,
  *,
  may_change: MayChange = NO,
) -> Any:
  """Returns a dataclass field that declares a key.

  Args:
    default: Default value.
    doc: Meaning of the key, in Markdown on one line.
    check: Condition on its value, in addition to its type. Conditions on
      several keys are in `checks`.
    may_change: Purposes for which a run may be continued with another value,
      in addition to those of its group.
  """
  metadata = {'doc': doc, 'check': check, 'may_change': may_change}
  return dataclasses.field(default=default, metadata=metadata)


def group(cls: type, *, may_change: MayChange = NO) -> Any:
  """Returns a dataclass field for a group of keys, with their defaults."""
  return dataclasses.field(default=cls(), metadata={'may_change': may_change})


def group_of(field: dataclasses.Field) -> 'type[DataclassInstance] | None':
  """Returns the dataclass of a field that is a group, None for a key."""
  kind = field.type
  is_group = isinstance(kind, type) and dataclasses.is_dataclass(kind)
  return kind if is_group else None


def declared(
  cls: 'type[DataclassInstance]',
  prefix: str = '',
  *,
  may_change: MayChange = NO,
) -> Iterator[Key]:
  """Yields the keys of a dataclass and of its groups, in order."""
  levels = typing.get_args(MayChange)
  for field in dataclasses.fields(cls):
    name = prefix + field.name
    change = max(may_change, field.metadata['may_change'], key=levels.index)
    nested = group_of(field)
    if nested is not None:
      yield from declared(nested, f'{name}.', may_change=change)
    else:
      doc, check = field.metadata['doc'], field.metadata['check']
      yield Key(name, field.type, field.default, doc, check, change)


def at_least(minimum: float) -> Check:
  return Check(lambda x: x >= minimum, f'at least {minimum}')


def at_most(maximum: float) -> Check:
  return Check(lambda x: x <= maximum, f'at most {maximum}')


def within(low: float, high: float) -> Check:
  return Check(lambda x: low <= x <= high, f'a number from {low} to {high}')


def above(low: float, *, high: float = math.inf) -> Check:
  expected = f'a number above {low}'
  if high < math.inf:
    expected += f', at most {high}'
  return Check(lambda x: low < x <= high, expected)


def below(high: float) -> Check:
  return Check(lambda x: 0 <= x < high, f'at least 0 and below {high}')


def matches(pattern: str, expected: str) -> Check:
  """Requires text that matches a regular expression as a whole."""
  return Check(lambda x: re.fullmatch(pattern, x) is not None, expected)


def template(field: str) -> Check:
  """Requires a template, or several, with a field such as '{question}'."""
  return Check(
    lambda x: all(field in text for text in ([x] if type(x) is str else x)),
    f'a template with {field}',
  )


def regex(*, groups: int = 0) -> Check:
  """Requires a regular expression with at least this number of groups."""

  def is_valid(pattern: str) -> bool:
    try:
      return regex_lib.compile(pattern).groups >= groups
    except regex_lib.error:
      return False

  suffix = f' with {groups} groups' if groups else ''
  return Check(is_valid, f'a regular expression{suffix}')


def functions() -> Check:
  """Requires names 'module:function'."""
  return Check(
    lambda names: all(_is_function(name) for name in names),
    'names module:function',
  )


def weighted_functions() -> Check:
  """Requires pairs of a name 'module:function' and a weight."""
  return Check(
    lambda pairs: all(_is_function(name) for name, _ in pairs),
    'pairs of a name module:function and a weight',
  )


def _is_function(name: str) -> bool:
  return re.fullmatch(r'[\w.]+:\w+', name) is not None


def date() -> Check:
  """Requires a date as YYYY-MM-DD, or ''."""

  def is_valid(text: str) -> bool:
    try:
      return not text or datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
      return False

  return Check(is_valid, "a date as YYYY-MM-DD, or ''")


def no_empty_string() -> Check:
  return Check(all, 'no empty string')


def reward_schedule(terms: 'type[DataclassInstance]') -> Check:
  """Requires points (reward, step, weight).

  Args:
    terms: Dataclass whose fields are the names of the rewards.
  """
  names = [field.name for field in dataclasses.fields(terms)]
  return Check(
    lambda points: all(
      name in names and step >= 0 and weight >= 0
      for name, step, weight in points
    ),
    f'points (reward, step, weight), the reward one of {", ".join(names)}, '
    'step and weight at least 0',
  )
