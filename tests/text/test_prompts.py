"""Filling templates."""

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.text import prompts


@pytest.mark.parametrize(
  'template, values, expected',
  [
    ('Solve {question}!', {'question': '1+1'}, 'Solve 1+1!'),
    ('{a}{b}{a}', {'a': '1', 'b': '2'}, '121'),
    ('{a}', {'a': ''}, ''),
    ('', {'a': '1'}, ''),
    ('plain', {}, 'plain'),
    ('plain', {'a': '1'}, 'plain'),
    # Other braces stay, as those of LaTeX and of code.
    (r'\boxed{x} {a}', {'a': '1'}, r'\boxed{x} 1'),
    ('{b} {', {'a': '1'}, '{b} {'),
    ('{{a}}', {'a': '1'}, '{1}'),
    ('{ a } {a:d} {a', {'a': '1'}, '{ a } {a:d} {a'),
    # A placeholder that a model wrote is text.
    ('{a} {b}', {'a': '{b}', 'b': '{a}'}, '{b} {a}'),
    ('{a}', {'a': '{a}'}, '{a}'),
    ('{a}b}', {'a': '{', 'b': '2'}, '{b}'),
    # Nor is one put together from a value and what stands around it.
    ('{{a}}', {'a': 'b', 'b': '2'}, '{b}'),
    # One name may begin with another.
    ('{ab}{a}', {'a': '1', 'ab': '2'}, '21'),
    (r'{a}', {'a': r'\1\g<0>'}, r'\1\g<0>'),
  ],
)
def test_fill(template, values, expected):
  assert prompts.fill(template, **values) == expected


@hypothesis.given(
  st.lists(st.sampled_from(['{a}', '{b}', 'x', ' ', '\n'])),
  st.text('{}ab'),
  st.text('{}ab'),
)
def test_fill_equals_part_by_part(parts, a, b):
  expected = ''.join({'{a}': a, '{b}': b}.get(part, part) for part in parts)
  assert prompts.fill(''.join(parts), a=a, b=b) == expected


@hypothesis.given(st.text(), st.text())
def test_no_text_crashes_it(template, value):
  filled = prompts.fill(template, a=value)
  assert filled == value.join(template.split('{a}'))
