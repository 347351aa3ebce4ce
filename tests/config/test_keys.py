"""Tests of the declarations of keys."""

import dataclasses

import pytest

from sqlm_jax.config import keys


@dataclasses.dataclass(frozen=True)
class Inner:
  size: int = keys.key(3, 'Size.', keys.at_least(1))
  free: bool = keys.key(True, 'Free.', may_change=keys.TO_RESUME)


@dataclasses.dataclass(frozen=True)
class Outer:
  name: str = keys.key('a', 'Name.', may_change=keys.TO_EVALUATE)
  inner: Inner = keys.group(Inner, may_change=keys.TO_EVALUATE)
  same: Inner = keys.group(Inner)


def test_a_key_is_as_free_to_change_as_its_group():
  found = {key.name: key.may_change for key in keys.declared(Outer)}
  assert found == {
    'name': keys.TO_EVALUATE,
    'inner.size': keys.TO_EVALUATE,
    'inner.free': keys.TO_RESUME,
    'same.size': keys.NO,
    'same.free': keys.TO_RESUME,
  }


def test_a_declared_key_and_its_default():
  key = next(iter(keys.declared(Inner)))
  assert key[:4] == ('size', int, 3, 'Size.')
  assert key.check.is_valid(1)
  assert not key.check.is_valid(0)
  assert Outer() == Outer(name='a', inner=Inner(size=3, free=True))


@pytest.mark.parametrize(
  'check, valid, invalid, expected',
  [
    (keys.at_least(0), [0, 1], [-1], 'at least 0'),
    (keys.at_most(0), [0, -1.0], [0.1], 'at most 0'),
    (keys.within(0, 1), [0.0, 1.0], [-0.1, 1.1], 'a number from 0 to 1'),
    (keys.above(0), [0.1, 1e9], [0.0], 'a number above 0'),
    (
      keys.above(0, high=1),
      [0.1, 1],
      [0.0, 1.1],
      'a number above 0, at most 1',
    ),
    (keys.below(1), [0, 0.9], [1, -0.1], 'at least 0 and below 1'),
    (keys.matches('a+', 'letters a'), ['a', 'aa'], ['', 'ab'], 'letters a'),
    (
      keys.template('{x}'),
      ['a {x}', (), ('{x}', '{x}{x}')],
      ['x', ('{x}', 'x')],
      'a template with {x}',
    ),
    (keys.regex(), ['', '(a)'], ['('], 'a regular expression'),
    (
      keys.regex(groups=2),
      ['(a)(b)'],
      ['(a)', '('],
      'a regular expression with 2 groups',
    ),
    (
      keys.date(),
      ['', '2024-02-29'],
      ['2023-02-29', '2024-2-9', '20240229', '29 Feb 2024', '2024-02-29 '],
      "a date as YYYY-MM-DD, or ''",
    ),
    (keys.no_empty_string(), [(), ('a',)], [('a', '')], 'no empty string'),
  ],
)
def test_checks(check, valid, invalid, expected):
  assert check.expected == expected
  assert all(check.is_valid(value) for value in valid)
  assert not any(check.is_valid(value) for value in invalid)


def test_the_reward_of_a_schedule_is_a_field():
  check = keys.reward_schedule(Inner)
  assert check.is_valid(())
  assert check.is_valid((('size', 0, 0.0), ('free', 3, 1.5)))
  for point in (('sizes', 0, 0.0), ('size', -1, 0.0), ('size', 0, -0.1)):
    assert not check.is_valid((point,))
  assert 'the reward one of size, free, step' in check.expected
