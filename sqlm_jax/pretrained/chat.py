"""Chat templates, which turn messages into a prompt.

The Jinja environment is the one that Hugging Face documents for chat templates.
transformers is not used for two reasons: it has no way to set the date, and a
run has one date; and a template is tried in a process that must start quickly
(see `trial`).
"""

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.parser
from jinja2 import ext, nodes, sandbox

DATE_FORMAT = '%Y-%m-%d'


class _Generation(ext.Extension):
  """Ignores `{% generation %}`, which marks text that the model generates."""

  tags = {'generation'}  # noqa: RUF012  its type in Jinja is a set

  def parse(self, parser: jinja2.parser.Parser) -> nodes.Node:
    line = next(parser.stream).lineno
    body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
    return nodes.Scope(body, lineno=line)


def render(
  template: str,
  variables: Mapping[str, str],
  messages: Sequence[Mapping[str, str]],
  *,
  date: str | None = None,
) -> str:
  """Renders messages as a prompt that is open for the model's answer.

  Args:
    template: the Jinja source.
    variables: strings that the template may use, such as `bos_token`.
    messages: mappings with 'role' and 'content'.
    date: the date that the template sees, YYYY-MM-DD; None for today.

  Raises:
    ValueError: if the template is not valid, raises an error, or uses a
      variable that is missing.
  """
  try:
    return _compile(template).render(
      messages=[dict(message) for message in messages],
      # transformers defines both, and templates compare them with None.
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
  """Returns True if a template may write the date."""
  return 'strftime_now' in (template or '')


def today() -> str:
  """Returns today's date, YYYY-MM-DD."""
  return datetime.datetime.now().strftime(DATE_FORMAT)


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
  return environment.from_string(
    template, globals={'raise_exception': _raise_exception}
  )


def _raise_exception(message: str) -> NoReturn:
  raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
  """Writes JSON without the HTML escapes of Jinja's own filter."""
  return json.dumps(value, ensure_ascii=ensure_ascii, **options)
