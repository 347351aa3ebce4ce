"""Content that must not be trained on."""

import random

import pytest

from sqlm_jax.config import schema
from sqlm_jax.game import exclusion
from sqlm_jax.text import extraction

CATASTROPHIC = r'(a|aa)+$'


@pytest.mark.parametrize(
  'text, reason',
  [
    ('call 555-1234', 'phone'),
    ('call 555-12345', ''),
    ('a SECRET plan', 'words'),
    ('a secretary', ''),  # a word inside of another word
    ('Ｓecret', 'words'),  # full width
    ('the new york times', 'words'),
    ('これは秘密です', 'words'),  # no spaces between words
    ('ends with !', 'shout'),
    ('', ''),
  ],
)
def test_the_reason_of_a_text(text, reason):
  exclude = exclusion.make_exclusion(
    (('phone', r'\b\d{3}-\d{4}\b'),),
    ['secret', ' New York ', '秘密', ''],
    (lambda text: 'shout' if '!' in text else None,),
  )
  assert exclude.reason(text) == reason


def test_nothing_is_excluded_by_default():
  exclude = exclusion.make_exclusion((), [''])
  assert exclude.is_empty()
  assert exclude.reason('anything') == ''


def test_a_pattern_that_takes_too_long_excludes_the_text(monkeypatch):
  monkeypatch.setattr(extraction, 'TIME_LIMIT', 0.05)
  warnings = []
  monkeypatch.setattr(
    exclusion.logging, 'warning', lambda *args: warnings.append(args)
  )
  exclude = exclusion.make_exclusion((('slow', CATASTROPHIC),), ())
  text = 'a' * 60 + 'b'
  assert exclude.reason(text) == exclusion.TIMEOUT
  assert exclude.reason(text) == exclusion.TIMEOUT
  assert len(warnings) == 1
  assert exclude.reason('xyz') == ''


def test_values_of_excluded_answers():
  reasons = ('', 'words', '')
  assert exclusion.accepted('abc', reasons) == ['a', 'c']
  assert exclusion.restore([1.0, 0.0], reasons) == (1.0, None, 0.0)
  assert exclusion.accepted('abc', ()) == ['a', 'b', 'c']
  assert exclusion.restore([1.0], ()) == (1.0,)


@pytest.mark.parametrize('pair', [('a b', 'x'), ('', 'x'), ('a', '(')])
def test_names_and_patterns_are_checked(pair):
  (key,) = (key for key in schema.KEYS if key.name == 'exclude.patterns')
  assert key.check.is_valid((('a', 'x'),))
  assert not key.check.is_valid((pair,))


def test_10000_texts_with_planted_strings():
  """None is missed, and no other text is excluded."""
  exclude = exclusion.make_exclusion(
    (('key', r'sk-[0-9a-f]{8}'), ('mail', r'[\w.]+@[\w.]+\.\w+')),
    ['classified', 'top secret'],
  )
  generator = random.Random(0)
  letters = 'abcdefghij 0123456789+-=?.\n'

  def noise():
    return ''.join(generator.choices(letters, k=generator.randrange(80)))

  planted = {
    'key': lambda: f'sk-{generator.randrange(2**32):08x}',
    'mail': lambda: f'x{generator.randrange(99)}@example.org',
    'words': lambda: generator.choice([' Classified ', ' TOP secret ']),
  }
  missed = wrong = num_planted = 0
  for _ in range(10_000):
    name = generator.choice(['', *planted])
    text = noise() + (planted[name]() if name else '') + noise()
    reason = exclude.reason(text)
    num_planted += bool(name)
    missed += bool(name) and not reason
    wrong += not name and bool(reason)
  assert num_planted > 7000
  assert (missed, wrong) == (0, 0)
