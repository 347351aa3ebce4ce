"""Finding what counts in a response."""

import re

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.text import parsing

TAGGED = '<q>(.*?)</q>'
BOXED = r'\\boxed\{([^{}]*)\}'


@pytest.mark.parametrize(
  'pattern, text, expected',
  [
    (TAGGED, 'think <q>1+1</q>', '1+1'),
    (TAGGED, '<q>1</q> no, <q>2</q>', '2'),  # the last one counts
    (TAGGED, '<q> 2 \n+ 2 </q>', '2 \n+ 2'),  # over lines, stripped
    (TAGGED, '<q></q>', None),
    (TAGGED, '<q> \n </q>', None),
    (TAGGED, '<q>1</q> <q></q>', None),  # the last one is empty
    (TAGGED, '<q>1', None),
    (TAGGED, '', None),
    (BOXED, r'so \boxed{42}.', '42'),
    (r'\d+', 'a 12 b 34', '34'),  # without a group, the whole match
    ('(?:a|b)', 'ab', 'b'),
    ('x(y)?', 'x', None),  # a group that is in no part of the match
    ('x(y)?', 'xy x', None),
    ('(a)(b)', 'ab', 'a'),  # the first group
    ('.*', 'abc', None),  # the last match of it is the empty end
    ('(.+)', 'a\nb', 'a\nb'),
  ],
)
def test_find(pattern, text, expected):
  assert parsing.find(pattern, text) == expected


@hypothesis.given(st.text())
def test_no_text_crashes_find(text):
  found = parsing.find(TAGGED, text)
  assert found is None or (found and found == found.strip())


@hypothesis.given(st.text('ab<q>/ \n'), st.text('ab '))
def test_find_takes_the_last(before, answer):
  found = parsing.find(r'.*<q>(.*?)</q>', f'{before}<q>{answer}</q>')
  assert found == (answer.strip() or None)


@pytest.mark.parametrize(
  'text, stops, expected',
  [
    ('abc', (), 'abc'),
    ('abc', ('b',), 'a'),
    ('abcb', ('b',), 'a'),
    ('abc', ('c', 'b'), 'a'),  # the first in the text, not in the list
    ('abc', ('bc', 'b'), 'a'),
    ('abc', ('x',), 'abc'),
    ('abc', ('abc',), ''),
    ('abc', ('abcd',), 'abc'),
    ('', ('a',), ''),
    ('5\n\nQ: next', ('\n\n',), '5'),
  ],
)
def test_before_stop(text, stops, expected):
  assert parsing.before_stop(text, stops) == expected


@hypothesis.given(
  st.text('ab'),
  st.lists(st.text('ab', min_size=1, max_size=3), max_size=3).map(tuple),
)
def test_before_stop_equals_a_split_by_all_of_them(text, stops):
  by_re = re.split('|'.join(stops), text)[0] if stops else text
  assert parsing.before_stop(text, stops) == by_re
