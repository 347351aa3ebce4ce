"""Tests of the catalogs of translations."""

import ast
import pathlib
import string

import jinja2
import jinja2.ext
import pytest

from sqlm_jax.reporting import messages

PACKAGE = pathlib.Path(messages.__file__).parent.parent
OTHER_LANGUAGES = [x for x in messages.LANGUAGES if x != messages.ENGLISH]


def texts_of_code(source: str) -> set[str]:
  """Returns the constant texts that a module marks for translation."""
  texts = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Call) and node.args:
      name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
      is_message = name in ('_', 'mark', '_mark')
      if is_message and isinstance(node.args[0], ast.Constant):
        texts.add(node.args[0].value)
  return texts


def texts_of_template(source: str) -> set[str]:
  """Returns the constant texts that a template marks for translation."""
  parsed = jinja2.Environment().parse(source)
  texts = set()
  for _, _, found in jinja2.ext.extract_from_ast(parsed, ('_',)):
    # A tuple of the arguments, with None for what is not a constant text.
    text = found[0] if isinstance(found, tuple) else found
    if text is not None:
      texts.add(text)
  return texts


def used_texts() -> set[str]:
  texts = set()
  for path in PACKAGE.rglob('*.py'):
    texts |= texts_of_code(path.read_text(encoding='utf-8'))
  for path in PACKAGE.rglob('templates/**/*'):
    if path.is_file():
      texts |= texts_of_template(path.read_text(encoding='utf-8'))
  return texts


def fields(text: str) -> set[str]:
  """Returns the names of the fields of a format string."""
  return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_marked_texts_are_found():
  code = "_('a')\nself._('b {n}', n=1)\nmessages.mark('c')\n_(d)\nf('e')"
  assert texts_of_code(code) == {'a', 'b {n}', 'c'}
  template = "{{ _('a') }}{% if x %}{{ _('b {n}', n=x) }}{% endif %}{{ _(d) }}"
  assert texts_of_template(template) == {'a', 'b {n}'}


@pytest.mark.parametrize('language', OTHER_LANGUAGES)
def test_a_catalog_has_a_translation_of_every_text_and_no_other(language):
  catalog, used = messages.catalog(language), used_texts()
  missing = sorted(used - catalog.keys())
  assert not missing, '\n'.join(f'msgid {text!r}' for text in missing)
  assert not catalog.keys() - used


@pytest.mark.parametrize('language', OTHER_LANGUAGES)
def test_translations_have_the_fields_of_the_english_texts(language):
  for text, translation in messages.catalog(language).items():
    assert fields(translation) == fields(text), text


def test_values_are_filled_in_and_are_no_format_strings():
  translate = messages.translator('en')
  assert translate('{n} of {total}', n='{total}', total=3) == '{total} of 3'
  assert translate('a {brace}') == 'a {brace}'


def test_an_unknown_language_is_named():
  with pytest.raises(ValueError, match="language='fr': expected one of en, ja"):
    messages.translator('fr')
