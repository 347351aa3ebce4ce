"""Readable JSON that every program can parse."""

import json

import hypothesis
import pytest
from hypothesis import strategies as st

from sqlm_jax.text import json_text


@pytest.mark.parametrize(
  'value, expected',
  [
    ('注文', '"注文"'),
    (
      {'質問': ['炉の温度は？', 1, None]},
      '{"質問": ["炉の温度は？", 1, null]}',
    ),
    ('é ё ไทย 한국어 🙂', '"é ё ไทย 한국어 🙂"'),
    ('"\n\\', r'"\"\n\\"'),
    # Lone surrogates cannot be encoded, but a file name may contain them.
    ('\udc80', r'"\udc80"'),
    ('\ud83d', r'"\ud83d"'),
    # Line separators of str.splitlines and JavaScript.
    ('a\u2028b\u2029c\x85d\x0be', r'"a\u2028b\u2029c\u0085d\u000be"'),
    # Terminal control sequences.
    ('\x1b[2J\x9b2J\u202eabc', r'"\u001b[2J\u009b2J\u202eabc"'),
  ],
)
def test_dumps(value, expected):
  assert json_text.dumps(value) == expected


def test_options_of_json_dumps():
  assert json_text.dumps({'b': '注', 'a': 1}, indent=2, sort_keys=True) == (
    '{\n  "a": 1,\n  "b": "注"\n}'
  )
  with pytest.raises(ValueError, match='not JSON compliant'):
    json_text.dumps(float('nan'), allow_nan=False)


@hypothesis.given(st.text(st.characters()))
def test_any_text_round_trips_on_one_line(text):
  written = json_text.dumps({text: [text]})
  assert json.loads(written.encode()) == {text: [text]}
  assert len(written.splitlines()) == 1
