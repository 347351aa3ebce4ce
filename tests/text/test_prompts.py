"""Templates and their placeholders."""

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
    # Other braces are kept, such as those of LaTeX and code.
    (r'\boxed{x} {a}', {'a': '1'}, r'\boxed{x} 1'),
    ('{b} {', {'a': '1'}, '{b} {'),
    ('{{a}}', {'a': '1'}, '{1}'),
    ('{ a } {a:d} {a', {'a': '1'}, '{ a } {a:d} {a'),
    # Placeholders in a value are text.
    ('{a} {b}', {'a': '{b}', 'b': '{a}'}, '{b} {a}'),
    ('{a}', {'a': '{a}'}, '{a}'),
    ('{a}b}', {'a': '{', 'b': '2'}, '{b}'),
    # A value and the surrounding text do not form a placeholder.
    ('{{a}}', {'a': 'b', 'b': '2'}, '{b}'),
    # A name may be a prefix of another name.
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
def test_fill_replaces_each_placeholder(parts, a, b):
  expected = ''.join({'{a}': a, '{b}': b}.get(part, part) for part in parts)
  assert prompts.fill(''.join(parts), a=a, b=b) == expected


@hypothesis.given(st.text(), st.text())
def test_any_template_and_value(template, value):
  filled = prompts.fill(template, a=value)
  assert filled == value.join(template.split('{a}'))
