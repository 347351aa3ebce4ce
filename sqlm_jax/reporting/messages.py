"""Texts of reports and pages in several languages.

Templates and modules call `_('English text')`, where `_` is a translator. The
translations are in locale/<language>.po, the format of GNU gettext, which
editors for translators can open. A test checks that the catalogs are complete.
"""

import functools
import importlib.resources
from typing import Any, Protocol

import polib

ENGLISH = 'en'
LANGUAGES = (ENGLISH, 'ja')


class Translate(Protocol):
  """Translates a text and fills in its values."""

  def __call__(self, text: str, /, **values: Any) -> str:
    """Returns the translation of a text.

    Args:
      text: English text, a format string if there are values.
      **values: values of the fields of the text, by name.
    """


def translator(language: str) -> Translate:
  """Returns a function that translates English texts.

  A text without a translation stays English.

  Args:
    language: one of `LANGUAGES`.

  Raises:
    ValueError: if there is no such language.
  """
  if language not in LANGUAGES:
    raise ValueError(f'{language=}: expected one of {", ".join(LANGUAGES)}')
  translations = catalog(language)

  def translate(text: str, /, **values: Any) -> str:
    text = translations.get(text, text)
    return text.format(**values) if values else text

  return translate


def mark(text: str) -> str:
  """Returns its argument; marks a constant that is translated where it is used.

  The test of the catalogs finds the texts of `_` and of this function.
  """
  return text


@functools.cache
def catalog(language: str) -> dict[str, str]:
  """Returns the translations by English text; {} for English."""
  if language == ENGLISH:
    return {}
  package = importlib.resources.files('sqlm_jax.reporting')
  file = package / f'locale/{language}.po'
  entries = polib.pofile(file.read_text(encoding='utf-8'))
  return {entry.msgid: entry.msgstr for entry in entries if entry.msgstr}
