"""Chat templates, compared with transformers."""

import datetime

import pytest
import tokenizers
import transformers
from tokenizers import models

from sqlm_jax.pretrained import chat
from tests.pretrained import test_tokenizer_files as files

VARIABLES = {'bos_token': '<s>', 'eos_token': '</s>', 'image_token': '<image>'}
GEMMA = (
  "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
  "{{ raise_exception('System role not supported') }}{% endif %}"
  '{% for message in messages %}'
  "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
  "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
  "{{ '<start_of_turn>' + message['role'] + '\n' + message['content'] | trim"
  " + '<end_of_turn>\n' }}{% endfor %}"
  '{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}'
)
TEMPLATES = [
  files.CHAT,
  GEMMA,
  # Blocks remove their line and the white space before them.
  'a\n  {% if true %}\n  b\n  {% endif %}\n{{- messages[0].content -}}\n c \n',
  '{{ messages|tojson }}{{ messages[0]|tojson(indent=2) }}é<&"',
  '{% if tools is defined and tools is none and documents is none %}none'
  '{% endif %}{{ image_token }}{{ pad_token }}',
  '{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}'
  '{% if not m.content %}{% continue %}{% endif %}{{ m.content }}{% endfor %}',
  '{% set ns = namespace(n=0) %}{% for m in messages %}'
  '{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}',
  '{% macro turn(m) %}{{ m.role }}: {{ m.content }}{% endmacro %}'
  '{% for m in messages %}{{ turn(m) }}{% endfor %}',
  '{% for m in messages %}{% generation %}{% set x = m.content %}{{ x }}'
  '{% endgeneration %}{{ x }}{% endfor %}',
  "{{ messages[0].content.split('2')[-1].strip() }}{{ messages[-1:] }}",
]


@pytest.mark.parametrize('template', TEMPLATES)
def test_prompts_agree_with_transformers(template):
  reference = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizers.Tokenizer(models.BPE()),
    bos_token='<s>',
    eos_token='</s>',
    extra_special_tokens={'image_token': '<image>'},
  )
  expected = reference.apply_chat_template(
    files.MESSAGES,
    chat_template=template,
    tokenize=False,
    add_generation_prompt=True,
  )
  assert chat.render(template, VARIABLES, files.MESSAGES) == expected


def test_dates_in_templates():
  template = "{{ strftime_now('%d %b %Y, %H:%M') }}"
  assert chat.uses_date(template)
  assert (
    chat.render(template, {}, [], date='2024-02-29') == '29 Feb 2024, 00:00'
  )
  now = datetime.datetime.now()
  today = chat.render("{{ strftime_now('%Y-%m-%d') }}", {}, [])
  assert today in (now.strftime('%Y-%m-%d'), chat.today())
  assert not chat.uses_date(files.CHAT)
  assert not chat.uses_date(None)


@pytest.mark.parametrize(
  'template, message',
  [
    (GEMMA, 'TemplateError: System role not supported'),
    ('{{ ', 'TemplateSyntaxError: '),
    ('{% include "other" %}', 'TypeError: no loader'),
    ('{{ messages.append(1) }}', 'SecurityError: '),
    ("{{ ''.__class__.__mro__ }}", 'SecurityError: '),
    ('{% for i in range(10**9) %}{% endfor %}', 'OverflowError: Range too big'),
    ('{{ nothing.at.all }}', "UndefinedError: 'nothing' is undefined"),
    ('{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}', 'RecursionError: '),
  ],
)
def test_errors_in_templates(template, message):
  messages = [{'role': 'system', 'content': 'Be kind.'}]
  with pytest.raises(ValueError, match=message):
    chat.render(template, {}, messages)
