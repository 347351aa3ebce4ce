"""Chat templates: messages to the prompt of a model.

The environment is the one that Hugging Face documents for chat templates. It
is built here and not taken from transformers because a run has one date, which
transformers cannot be told, and because a template from outside is tried in a
process that must start quickly (see `trial`).
"""

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import ext, nodes, sandbox

DATE_FORMAT = '%Y-%m-%d'


class _Generation(ext.Extension):
  """`{% generation %}` marks the model's own text, which nobody asks for."""

  tags = frozenset({'generation'})

  def parse(self, parser):
    line = next(parser.stream).lineno
    body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
    return nodes.Scope(body, lineno=line)


def render(
  template: str,
  variables: Mapping[str, str],
  messages: Sequence[Mapping[str, str]],
  date: str | None = None,
) -> str:
  """Renders messages as a prompt that is open for the model's answer.

  Args:
    template: the Jinja source.
    variables: texts that the template may use, such as `bos_token`.
    messages: mappings with 'role' and 'content'.
    date: what the template is told is today, YYYY-MM-DD; None for today.

  Raises:
    ValueError: if the template is not valid, raises, or needs what it has not.
  """
  try:
    return _compile(template).render(
      messages=[dict(message) for message in messages],
      # transformers defines both, and templates ask whether they are None.
      tools=None,
      documents=None,
      add_generation_prompt=True,
      strftime_now=_moment(date).strftime,
      **variables,
    )
  except MemoryError:
    raise
  # A template is a program: it may raise anything.
  except Exception as error:
    raise ValueError(f'{type(error).__name__}: {error}') from None


def uses_date(template: str | None) -> bool:
  """Returns whether a template may write the date."""
  return 'strftime_now' in (template or '')


def today() -> str:
  """Returns the date of this moment, YYYY-MM-DD."""
  return datetime.datetime.now().strftime(DATE_FORMAT)


def is_date(text: str) -> bool:
  """Returns whether a text is a date, YYYY-MM-DD."""
  try:
    return _moment(text).strftime(DATE_FORMAT) == text
  except ValueError:
    return False


def _moment(date: str | None) -> datetime.datetime:
  return datetime.datetime.strptime(date or today(), DATE_FORMAT)


@functools.lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
  environment = sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[_Generation, ext.loopcontrols],
  )
  environment.filters['tojson'] = _to_json
  environment.globals['raise_exception'] = _raise_exception
  return environment.from_string(template)


def _raise_exception(message: str):
  raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii=False, **options) -> str:
  """Jinja's own filter would escape what HTML forbids."""
  return json.dumps(value, ensure_ascii=ensure_ascii, **options)
