"""Splits an expression into tokens and lists the words that it may contain."""

import re
from typing import NamedTuple

from sqlm_jax.grading import symbols
from sqlm_jax.grading.math import plain_text

INVERSES = {  # function -> the name of its inverse, as in \sin^{-1}
  name: f'arc{name}' for name in ('sin', 'cos', 'tan', 'cot', 'sec', 'csc')
} | {f'{name}h': f'a{name}h' for name in ('sin', 'cos', 'tan')}
# sympy prints asin, Abs and factorial.
SYNONYMS = {
  **{f'a{name}': f'arc{name}' for name in INVERSES if not name.endswith('h')},
  **{f'{arc}{name}': f'a{name}'
     for arc in ('arc', 'ar') for name in ('sinh', 'cosh', 'tanh')},
  'Abs': 'abs',
}  # fmt: skip
FUNCTIONS = {
  'sqrt', 'cbrt', 'abs', 'exp', 'ln', 'log', 'factorial',
  *INVERSES, *INVERSES.values(), *SYNONYMS,
}  # fmt: skip
SYMBOLS = symbols.GREEK
CONSTANTS = {'pi', 'e', 'i', 'oo', 'infinity'}
_TWO_ARGUMENTS = {'frac', 'binom'}
# Products such as in y = mx + b and e^{ix}; my is a word, and px a unit.
_WITH_FACTOR = {f'{a}{x}' for a in 'ikmnqrt' for x in 'xyz'} - {'my'}
_MACROS = FUNCTIONS | SYMBOLS | _TWO_ARGUMENTS | {'pi'}

SUBSCRIPT = r'\s*_\s*(?:\d+|[A-Za-z]|\{\s*[A-Za-z0-9]+\s*\})'
_TOKEN = re.compile(
  r'\s*(?:(?P<number>(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?)'
  rf'|(?P<macro>\\?)(?P<word>[A-Za-z]+)(?P<below>{SUBSCRIPT})?'
  r'|(?P<sign>\*\*|[-+*/^!|(){}\[\]_°]))\s*'
)


class Token(NamedTuple):
  kind: str  # 'number', 'word', 'sign' or 'end'
  text: str


END = Token('end', '')


def is_product(word: str) -> bool:
  """Returns True if adjacent letters are factors, as in 2xy."""
  return word in _WITH_FACTOR or (len(word) < 4 and set(word) <= set('abcxyz'))


def tokens(text: str) -> list[Token]:
  """Splits an expression into tokens.

  Raises:
    plain_text.ParseError: if a sign, word or macro is unknown.
  """
  result, position = [], 0
  while position < len(text):
    match = _TOKEN.match(text, position)
    if match is None:
      raise plain_text.ParseError('syntax')
    position = match.end()
    if word := match['word']:
      if match['macro'] and word not in _MACROS:
        raise plain_text.ParseError('macro')
      below = plain_subscript(match['below'] or '')
      if text.startswith('^', position) and not below and _ends_in_e(word):
        result += _words(word[:-1], '')  # the x of xe^x
        word = 'e'
      result += _words(word, below)
    else:
      kind = 'number' if match['number'] else 'sign'
      result.append(Token(kind, match[kind].replace('**', '^')))
  return result


def _ends_in_e(word: str) -> bool:
  """Returns True if a word is a product of letters and e, as in xe^x."""
  letters = word[:-1]
  is_known = word in FUNCTIONS | SYMBOLS
  is_factor = len(letters) == 1 or is_product(letters)
  return word[-1] == 'e' and bool(letters) and is_factor and not is_known


def plain_subscript(text: str) -> str:
  """Normalizes a subscript: '_ {1}' becomes '_1', '_{max}' is unchanged."""
  plain = re.sub(r'[\s{}]', '', text)
  if len(plain) > 2 and not plain[1:].isdigit():
    return f'_{{{plain[1:]}}}'
  return plain


def _words(word: str, below: str) -> list[Token]:
  if word == 'log' and below:
    inside = Token('sign', '{'), _term(below[1:]), Token('sign', '}')
    return [Token('word', word), Token('sign', '_'), *inside]
  if below and (word in FUNCTIONS or word in _TWO_ARGUMENTS):
    raise plain_text.ParseError('syntax')
  if (
    word in FUNCTIONS
    or word in CONSTANTS
    or word in SYMBOLS
    or word in _TWO_ARGUMENTS
  ):
    return [Token('word', SYNONYMS.get(word, word) + below)]
  if len(word) > 1 and not is_product(word):
    raise plain_text.ParseError('word')
  *factors, last = word
  return [Token('word', factor) for factor in (*factors, last + below)]


def _term(text: str) -> Token:
  if len(text) > 1 and not text.isdigit():
    raise plain_text.ParseError('syntax')
  return Token('number' if text.isdigit() else 'word', text)
