"""Files that would hang or exhaust the process that opens them."""

import json
import logging

import pytest

from sqlm_jax.pretrained import tokenizer, trial
from tests.pretrained import test_gguf_tokenizer as gguf_files
from tests.pretrained import test_tokenizer_files as files

CONTENT = '{{ messages[0].content }}'


@pytest.fixture(autouse=True)
def _short_limits(monkeypatch):
  """Shortens the time limits."""
  monkeypatch.setattr(trial, '_LIMITS', {'tokenizer': 8, 'template': 2})


@pytest.mark.parametrize(
  'template, message',
  [
    (
      '{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}'
      '{% endfor %}' + CONTENT,
      'takes more than 2 seconds',
    ),
    ("{{ '%1000000000d'|format(1) }}" + CONTENT, 'takes more than|Memory'),
    ("{{ 'a' * 10**10 }}" + CONTENT, 'needs more than 4 GiB of memory'),
    ('{{ [1] * 10**9 }}' + CONTENT, 'needs more than 4 GiB of memory'),
    ("{{ 'a' * 10**7 }}" + CONTENT, 'writes 10000014 characters'),
    ("{{ raise_exception('no') }}", 'TemplateError: no'),
    (
      '{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}',
      'RecursionError',
    ),
    ("{% include 'other' %}" + CONTENT, 'no loader'),
    ('{% for i in range(10**9) %}{% endfor %}' + CONTENT, 'Range too big'),
    ('{{ lipsum() }}' + CONTENT, 'the same prompt every time'),
    ('{{ range(99999)|random }}' + CONTENT, 'the same prompt every time'),
    ('Say something.', "the user's text in the prompt, but it is m"),
    # Expects content in parts, and drops content that is one text.
    (
      "{% for part in messages[0].content %}{% if part.type == 'text' %}"
      '{{ part.text }}{% endif %}{% endfor %}',
      "the user's text in the prompt, but it is m",
    ),
  ],
)
def test_harmful_templates_are_refused(template, message):
  with pytest.raises(ValueError, match=message):
    trial.try_template(template, {'bos_token': '<s>'})


@pytest.mark.parametrize(
  'template',
  [
    CONTENT,
    files.CHAT,
    "{{ strftime_now('%H:%M:%S') }}" + CONTENT,
    "{% for m in messages %}{% if m.role == 'system' %}"
    "{{ raise_exception('no system') }}{% endif %}{{ m.content }}{% endfor %}",
  ],
)
def test_harmless_templates_are_accepted(template):
  trial.try_template(template, {'bos_token': '<s>'})


def test_errors_name_the_file_of_a_template(tmp_path):
  files.gpt2().save_pretrained(tmp_path)
  (tmp_path / 'chat_template.jinja').write_text("{{ 'a' * 10**10 }}")
  expected = r'chat_template\.jinja: needs more than 4 GiB of memory'
  with pytest.raises(ValueError, match=expected):
    tokenizer.load_tokenizer(tmp_path)
  (tmp_path / 'chat_template.jinja').unlink()
  path = tmp_path / 'tokenizer_config.json'
  config = json.loads(path.read_text()) | {'chat_template': '{{ '}
  path.write_text(json.dumps(config))
  expected = r'tokenizer_config\.json: chat_template: TemplateSyntaxError'
  with pytest.raises(ValueError, match=expected):
    tokenizer.load_tokenizer(tmp_path)


def test_templates_of_gguf_files_are_tried(tmp_path, monkeypatch):
  monkeypatch.setattr(files, 'CHAT', "{{ raise_exception('no') }}")
  path = gguf_files.write_bytes(tmp_path / 'tiny.gguf')
  expected = r'tiny\.gguf: tokenizer\.chat_template: TemplateError: no'
  with pytest.raises(ValueError, match=expected):
    tokenizer.load_tokenizer(path)
  # A trusted file is not tried.
  assert tokenizer.load_tokenizer(path, trusted=True)


def test_unused_harmful_templates_cause_a_warning(
  tmp_path, monkeypatch, caplog
):
  """A run with task.style='plain' does not use the template."""
  caplog.set_level(logging.WARNING)
  files.gpt2().save_pretrained(tmp_path)
  (tmp_path / 'chat_template.jinja').write_text('{{ ')
  tokens = tokenizer.load_tokenizer(tmp_path, needs_chat=False)
  assert 'chat_template.jinja: TemplateSyntaxError' in caplog.text
  tokens.save(tmp_path / 'out')
  config = json.loads((tmp_path / 'out' / 'tokenizer_config.json').read_text())
  assert config['chat_template'] == '{{ '
  caplog.clear()
  monkeypatch.setattr(files, 'CHAT', "{{ raise_exception('no') }}")
  path = gguf_files.write_bytes(tmp_path / 'tiny.gguf')
  assert tokenizer.load_tokenizer(path, needs_chat=False)
  assert 'tiny.gguf: tokenizer.chat_template: TemplateError: no' in caplog.text


def replace(pattern: dict, content: str) -> dict:
  return {'type': 'Replace', 'pattern': pattern, 'content': content}


def doubling_tokenizer(letter: str) -> dict:
  """Returns a tokenizer that doubles a letter a hundred times."""
  rule = replace({'String': letter}, letter * 2)
  return {'type': 'Sequence', 'normalizers': [rule] * 100}


@pytest.mark.parametrize(
  'changed, message',
  [
    ({'normalizer': doubling_tokenizer('a')}, 'takes more than|memory'),
    # Not only English letters are tried.
    ({'normalizer': doubling_tokenizer('語')}, 'takes more than|memory'),
    # The library panics on an empty match.
    ({'normalizer': replace({'Regex': ''}, 'x')}, 'index out of bounds'),
    ({'normalizer': replace({'Regex': '('}, 'x')}, 'unmatched parenthesis'),
    (
      {
        'pre_tokenizer': {
          'type': 'Split',
          'pattern': {'Regex': '(x+x+)+y'},
          'behavior': 'Isolated',
          'invert': False,
        }
      },
      'retry-limit|takes more than',
    ),
    ({'normalizer': {'type': 'NoSuch'}}, 'did not match'),
    ({'model': {'type': 'BPE', 'vocab': {'a': 4 * 10**9}, 'merges': []}}, ''),
    (
      {
        'decoder': {
          'type': 'Sequence',
          'decoders': [
            {
              'type': 'ByteLevel',
              'add_prefix_space': False,
              'trim_offsets': False,
              'use_regex': False,
            },
            replace({'String': 'T'}, 'X'),
          ],
        }
      },
      "decoder: expected the text of the tokens, 'The dog",
    ),
  ],
)
def test_harmful_tokenizers_are_refused(tmp_path, changed, message):
  files.gpt2().save_pretrained(tmp_path)
  path = tmp_path / 'tokenizer.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | changed))
  with pytest.raises(ValueError, match=rf'{tmp_path}.*({message})'):
    tokenizer.load_tokenizer(tmp_path)


@pytest.mark.parametrize(
  'changed',
  [
    # The library panics if the stride is longer than the text.
    {
      'truncation': {
        'direction': 'Right',
        'max_length': 2,
        'strategy': 'LongestFirst',
        'stride': 5,
      }
    },
    {
      'padding': {
        'strategy': {'Fixed': 10**12},
        'direction': 'Right',
        'pad_to_multiple_of': None,
        'pad_id': 0,
        'pad_type_id': 0,
        'pad_token': 'a',
      }
    },
  ],
)
def test_settings_for_batches_are_harmless(tmp_path, changed):
  files.gpt2().save_pretrained(tmp_path)
  expected = tokenizer.load_tokenizer(tmp_path).encode('the thing is')
  path = tmp_path / 'tokenizer.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | changed))
  assert tokenizer.load_tokenizer(tmp_path).encode('the thing is') == expected
