"""JSON that people can read, and every program."""

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
    # No encoder takes half a character; a file name may hold one.
    ('\udc80', r'"\udc80"'),
    ('\ud83d', r'"\ud83d"'),
    # The ends of lines, for str.splitlines and for JavaScript.
    ('a\u2028b\u2029c\x85d\x0be', r'"a\u2028b\u2029c\u0085d\u000be"'),
    # What would steer a terminal.
    ('\x1b[2J\x9b2J\u202eabc', r'"\u001b[2J\u009b2J\u202eabc"'),
  ],
)
def test_dumps(value, expected):
  assert json_text.dumps(value) == expected


def test_settings_are_those_of_json():
  assert json_text.dumps({'b': '注', 'a': 1}, indent=2, sort_keys=True) == (
    '{\n  "a": 1,\n  "b": "注"\n}'
  )
  with pytest.raises(ValueError, match='not JSON compliant'):
    json_text.dumps(float('nan'), allow_nan=False)


@hypothesis.given(st.text(st.characters()))
def test_every_text_comes_back(text):
  written = json_text.dumps({text: [text]})
  assert json.loads(written.encode()) == {text: [text]}
  assert len(written.splitlines()) == 1
