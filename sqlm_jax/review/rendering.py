"""Templates, values of requests, and formats that all pages share."""

from collections.abc import Callable
from typing import Any, NamedTuple
from urllib import parse

import jinja2
from etils import epath
from starlette import requests, responses

from sqlm_jax.config import schema
from sqlm_jax.reporting import messages
from sqlm_jax.review import curves, decisions

PAGE_SIZE = 50
_CLIPPED = 2000  # characters of a text that are shown at first
MAX_SEARCH = 200  # characters of a text to search for


class Site(NamedTuple):
  """The run and the settings that all pages share.

  Attributes:
    workdir: Directory of the run.
    config: Config of the run.
    templates: Templates of the pages.
    reviewer: Default name of the reviewer.
  """

  workdir: epath.Path
  config: schema.Config
  templates: jinja2.Environment
  reviewer: str = ''


Page = Callable[[Site, requests.Request], responses.Response]


def make_templates(language: str = messages.ENGLISH) -> jinja2.Environment:
  """Returns the templates, which escape everything that they insert.

  Args:
    language: One of `messages.LANGUAGES`.
  """
  templates = jinja2.Environment(
    loader=jinja2.PackageLoader('sqlm_jax.review'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  shared: dict[str, Any] = {
    '_': messages.translator(language),
    'language': language,
    'width': curves.WIDTH,
    'height': curves.HEIGHT,
    'max_reviewer': decisions.MAX_REVIEWER,
    'max_search': MAX_SEARCH,
  }
  templates.globals.update(shared)
  templates.filters.update(
    clip=_clip,
    merged=lambda values, **changes: values | changes,
    number=_number,
    percent=_percent,
    query=parse.urlencode,
  )
  return templates


def render(
  site: Site, name: str, *, status: int = 200, **values: Any
) -> responses.HTMLResponse:
  template = site.templates.get_template(name)
  title = site.workdir.name or str(site.workdir)
  text = template.render(title=title, config=site.config, **values)
  # A model may write half of a surrogate pair, which UTF-8 cannot encode.
  data = text.encode('utf-8', 'replace')
  return responses.HTMLResponse(data, status)


def number_of(text: str | None, *, default: Any) -> Any:
  """Returns a nonnegative integer of a request, or the default."""
  is_number = text is not None and text.isascii() and text.isdecimal()
  return int(text) if is_number and len(text) < 16 else default


def _clip(text: str | None, full: bool = False) -> str:
  """Returns the beginning of a long text."""
  text = text or ''
  if full or len(text) <= _CLIPPED:
    return text
  return f'{text[:_CLIPPED]} …'


def _number(value: Any) -> str:
  if value is None:
    return '–'
  return f'{value:.3g}' if isinstance(value, float) else str(value)


def _percent(value: float | None) -> str:
  return '–' if value is None else f'{100 * value:.0f}%'
