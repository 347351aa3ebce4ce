"""Answers found in a response by a pattern."""

import re

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.text import extraction

TAGGED = '<q>(.*?)</q>'
BOXED = r'\\boxed\{([^{}]*)\}'


@pytest.mark.parametrize(
  'pattern, text, expected',
  [
    (TAGGED, 'think <q>1+1</q>', '1+1'),
    (TAGGED, '<q>1</q> no, <q>2</q>', '2'),  # the last one counts
    (TAGGED, '<q> 2 \n+ 2 </q>', '2 \n+ 2'),  # spans lines; stripped
    (TAGGED, '<q></q>', None),
    (TAGGED, '<q> \n </q>', None),
    (TAGGED, '<q>1</q> <q></q>', None),  # the last one is empty
    (TAGGED, '<q>1', None),
    (TAGGED, '', None),
    (BOXED, r'so \boxed{42}.', '42'),
    (r'\d+', 'a 12 b 34', '34'),  # without a group, the whole match
    ('(?:a|b)', 'ab', 'b'),
    ('x(y)?', 'x', None),  # the group does not participate in the match
    ('x(y)?', 'xy x', None),
    ('(a)(b)', 'ab', 'a'),  # the first group
    ('.*', 'abc', None),  # the last match is empty
    ('(.+)', 'a\nb', 'a\nb'),
  ],
)
def test_find(pattern, text, expected):
  assert extraction.find(pattern, text) == expected


ANSWER = '<answer>(.*?)</answer>'


@pytest.mark.parametrize(
  'pattern, text, expected',
  [
    (
      ANSWER,
      '<think>It goes into the <answer> tags.</think> <answer>5</answer>',
      '5',
    ),
    (ANSWER, '<answer>1<answer>2<answer> 3 </answer>', '3'),
    (ANSWER, '<answer>1</answer> so <answer>2</answer>', '2'),
    (ANSWER, '<answer>5</answer> is in the <answer> tags', '5'),
    (ANSWER, 'use <answer> and </answer>: <answer>5</answer>', '5'),
    (ANSWER, 'the <answer> tags: <answer></answer>', None),
    (ANSWER, 'a < b <answer>a < b</answer>', 'a < b'),
    ('<answer[^>]*>(.*?)</answer>', '<answer> <answer id=1>5</answer>', '5'),
    ('(?i)<answer>(.*?)</answer>', '<ANSWER> <answer>5</Answer>', '5'),
    (r'<answer>\s*(\d+)\s*</answer>', '<answer> <answer> 5 </answer>', '5'),
    (r'<(?:q|question)>(.*?)</', '<question> tags. <question>Why?</', 'Why?'),
    (r'\\boxed\{(.*?)\}', r'in \boxed{ ... \boxed{5}', '5'),
    (r'\[\[(.*?)\]\]', 'in [[ and [[B]]', 'B'),
    (
      r'<code>\n(.*?)</code>',
      'a <code>\nblock: <code>\nx = 1\n</code>',
      'x = 1',
    ),
    (
      'CHOSEN PROBLEM:(.+)$',
      'After CHOSEN PROBLEM: CHOSEN PROBLEM: 1+1',
      '1+1',
    ),
    ('Final answer: (.*)', 'I write Final answer: and Final answer: 5', '5'),
    ('(?:The|the) answer is (.*)', 'The answer is: the answer is 5', '5'),
    ('答え：(.*?)。', '「答え：」と書く。答え：5。', '5'),
    (
      '(?<=<answer>).*?(?=</answer>)',
      'the <answer> tag <answer>5</answer>',
      '5',
    ),
    ('(?s)(?<=<a>)(.*?)(?=</a>)', 'the <a> tag <a>5</a>', '5'),
    ('<a>.*?</a>', 'the <a> tag <a>5</a>', '<a>5</a>'),
    ('(<a>.*?</a>)', 'the <a> tag <a>5</a>', '<a>5</a>'),
    # Similar texts that are not openings.
    (r':\s*(.+)$', 'Answer: 3:45', '3:45'),
    (r':(.*?)$', 'Answer: 3:45', '3:45'),
    (r'=(.*)', 'x = y = 5', 'y = 5'),
    (r'(?<=: )(.+)$', 'Time: noon: 12', 'noon: 12'),
    (r'.(\d+)', ' 123', '123'),
    (r'-?(\d+)', 'it is -123', '123'),
    (r'(\d+)', 'a 123', '123'),
    (r'\s*(\d+)', 'a  123', '123'),
    (r'[A-Z].*', 'Paris is in France', 'Paris is in France'),
    (r'[A-Za-z]+ (.+)', 'foo bar baz', 'bar baz'),
    (r'x(y+)', 'xyy', 'yy'),
    ('(?:<a>)?(.*)', '', None),
  ],
)
def test_the_match_starts_at_the_last_opening(pattern, text, expected):
  assert extraction.find(pattern, text) == expected


@hypothesis.given(
  st.lists(st.sampled_from(['<answer>', '</answer>', 'x', ' ']), max_size=9),
  st.text('0123456789+- ', min_size=1),
)
def test_answers_contain_no_opening_tag(before, answer):
  text = ''.join(before) + f'<answer>{answer}</answer>'
  assert extraction.find(ANSWER, text) == (answer.strip() or None)


def test_many_openings():
  text = '<answer>' * 500
  assert extraction.find(ANSWER, f'{text}5</answer>') == '5'
  assert extraction.find(ANSWER, text) is None


@hypothesis.given(st.text())
def test_any_text_can_be_searched(text):
  answer = extraction.find(TAGGED, text)
  assert answer is None or (answer and answer == answer.strip())


@hypothesis.given(st.text('ab<q>/ \n'), st.text('ab '))
def test_find_returns_the_last_match(before, answer):
  match = extraction.find(r'.*<q>(.*?)</q>', f'{before}<q>{answer}</q>')
  assert match == (answer.strip() or None)


@pytest.mark.parametrize(
  'text, stops, expected',
  [
    ('abc', (), 'abc'),
    ('abc', ('b',), 'a'),
    ('abcb', ('b',), 'a'),
    ('abc', ('c', 'b'), 'a'),  # the first in the text, not in the list of stops
    ('abc', ('bc', 'b'), 'a'),
    ('abc', ('x',), 'abc'),
    ('abc', ('abc',), ''),
    ('abc', ('abcd',), 'abc'),
    ('', ('a',), ''),
    ('5\n\nQ: next', ('\n\n',), '5'),
  ],
)
def test_before_stop(text, stops, expected):
  assert extraction.before_stop(text, stops) == expected


@hypothesis.given(
  st.text('ab'),
  st.lists(st.text('ab', min_size=1, max_size=3), max_size=3).map(tuple),
)
def test_before_stop_agrees_with_re_split(text, stops):
  by_re = re.split('|'.join(stops), text)[0] if stops else text
  assert extraction.before_stop(text, stops) == by_re


def test_a_search_has_a_time_limit(monkeypatch):
  monkeypatch.setattr(extraction, 'TIME_LIMIT', 0.05)
  with pytest.raises(TimeoutError):
    extraction.find('(a|aa)+$', 'a' * 60 + 'b')
