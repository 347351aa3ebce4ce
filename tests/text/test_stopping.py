"""Stop tables compared with a search in the text."""

import functools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from sqlm_jax.pretrained import tokenizer
from sqlm_jax.selfplay import responses
from sqlm_jax.text import stopping

BYTES = tuple(bytes([i]) for i in range(256))


def states(table, tokens):
  """Returns the state after each token."""
  state, result = 0, []
  for token in tokens:
    state = table[state, token]
    result.append(state)
  return result


def stops(table, tokens):
  return [state == stopping.STOPPED for state in states(table, tokens)]


def stops_by_search(vocabulary, ids, strings, tokens):
  """Returns for each token whether the text has reached a stop."""
  text, seen, stopped = b'', False, []
  for token in tokens:
    text += vocabulary[token]
    seen = seen or token in ids
    stopped.append(seen or any(s.encode() in text for s in strings))
  return stopped


@pytest.mark.parametrize(
  'text, strings, end',
  [
    ('aaab', ['aab'], 4),  # restarts at the second a
    ('aabaab', ['aabaa'], 5),
    ('abab', ['abb', 'ba'], 3),
    (
      'abcd',
      ['abce', 'bcd'],
      4,
    ),  # one string fails, and another within it continues
    ('abcd', ['abcde', 'c'], 3),  # one string within another, incomplete string
    ('a\n\nb', ['\n\n'], 3),
    ('ab', ['b', 'b'], 2),  # the same string twice
    ('xyz', ['a'], None),
    ('xyz', [], None),
    ('é', ['é'], 2),  # two bytes
    ('è', ['é'], None),  # the first byte is the same
  ],
)
def test_stops_where_a_string_is_complete(text, strings, end):
  tokens = text.encode()
  table = stopping.stop_table(BYTES, [], strings)
  expected = [end is not None and i >= end for i in range(1, len(tokens) + 1)]
  assert stops(table, tokens) == expected


@pytest.mark.parametrize(
  'vocabulary, strings, tokens, expected',
  [
    # Across three tokens, within a token, and across two tokens.
    ([b'xa', b'a', b'by'], ['aab'], [0, 1, 2], [0, 0, 1]),
    ([b'xaaby'], ['aab'], [0, 0], [1, 1]),
    ([b'aa', b'b'], ['aab'], [0, 0, 1], [0, 0, 1]),
    # A token without bytes changes nothing.
    ([b'a', b'', b'b'], ['ab'], [0, 1, 2], [0, 0, 1]),
  ],
)
def test_tokens_of_several_bytes(vocabulary, strings, tokens, expected):
  table = stopping.stop_table(vocabulary, [], strings)
  assert stops(table, tokens) == [bool(x) for x in expected]


TEXTS = st.text('ab', min_size=1, max_size=5)


@hypothesis.given(
  st.lists(st.text('abc', max_size=4), min_size=1, max_size=6),
  st.lists(st.sampled_from(['aab', 'aba', 'abab', 'bc', 'é']) | TEXTS),
  st.sets(st.integers(0, 5), max_size=1),
  st.lists(st.integers(0, 99), max_size=20),
)
def test_agrees_with_a_search_in_the_text(vocabulary, strings, ids, tokens):
  vocabulary = [text.encode() for text in vocabulary]
  ids = [i for i in ids if i < len(vocabulary)]
  tokens = [token % len(vocabulary) for token in tokens]
  table = stopping.stop_table(vocabulary, ids, strings)
  expected = stops_by_search(vocabulary, ids, strings, tokens)
  assert stops(table, tokens) == expected


@hypothesis.given(
  st.lists(st.binary(max_size=3), min_size=1, max_size=4),
  st.lists(st.text('aé€', min_size=1, max_size=3), max_size=3),
  st.lists(st.integers(0, 99), max_size=12),
)
def test_tokens_may_be_parts_of_characters(pieces, strings, tokens):
  vocabulary = [*pieces, b'a', b'\xc3', b'\xa9', b'\xe2\x82', b'\xac']
  tokens = [token % len(vocabulary) for token in tokens]
  table = stopping.stop_table(vocabulary, [], strings)
  expected = stops_by_search(vocabulary, [], strings, tokens)
  assert stops(table, tokens) == expected


def test_stop_ids_stop_in_every_state():
  table = stopping.stop_table([b'a', b'b', b''], [2], ['aab'])
  assert (table[:, 2] == stopping.STOPPED).all()
  assert stops(table, [2]) == [True]
  assert stops(table, [0, 0, 2]) == [False, False, True]
  assert stops(table, [2, 0, 0]) == [True, True, True]  # remains stopped


@pytest.mark.parametrize(
  'strings, rows',
  [
    ([], 16),  # the initial and the stopped state
    (['a' * 15], 16),  # and 14 prefixes
    (['a' * 16], 32),
    (['ab', 'ac'], 16),
    (['a' * 255], 256),  # 254 prefixes, the maximum
  ],
)
def test_size_and_padding(strings, rows):
  table = stopping.stop_table([b'a', b'b', b''], [], strings)
  assert table.shape == (rows, 3)
  assert table.dtype == np.uint8
  # States: initial, stopped, and the distinct prefixes of the strings.
  live = 2 + len({s[:n] for s in strings for n in range(1, len(s))})
  assert (table[live:] == stopping.STOPPED).all()
  assert table.max() < live


def test_longest_allowed_string():
  table = stopping.stop_table(BYTES, [], ['a' * 255])
  assert stops(table, b'a' * 255) == [False] * 254 + [True]
  assert not any(stops(table, b'a' * 254 + b'b' + b'a' * 254))


def test_errors():
  with pytest.raises(ValueError, match='found an empty string'):
    stopping.stop_table([b'a'], [], ['b', ''])
  with pytest.raises(ValueError, match='256 bytes in total: expected at most'):
    stopping.stop_table([b'a'], [], ['a' * 256])
  with pytest.raises(IndexError):
    stopping.stop_table([b'a'], [1], [])


def test_special_tokens_as_stop_strings():
  """A special token is matched by its id, because it adds no text."""
  tokens = tokenizer.byte_tokenizer()
  (end,) = tokens.special
  special = {end: '<|user|>', 300: '<|lost|>'}
  tokens = tokens._replace(special=special, stop_ids=())
  make = functools.partial(
    responses.make_settings, tokens, temperatures=[1.0], top_p=1.0, limit=4
  )
  assert make(stop_strings=['<|user|>']).stop_table[0, end] == stopping.STOPPED
  assert make(stop_strings=['user']).stop_table[0, end] != stopping.STOPPED
  make(stop_strings=['<|lost|>'])  # the embedding has no row for it
