"""LaTeX and Unicode to plain ASCII, and what an answer is read into."""

import fractions
import re
from typing import NamedTuple

from sqlm_jax.game import types

F = fractions.Fraction
Value = F | str
LONGEST = 1000  # characters of an answer


class Unreadable(ValueError):
  """The text is no mathematics; the message is a word to count."""


class TooHard(Exception):
  """The text needs sympy."""


class Reading(NamedTuple):
  """An answer: 'x = 5 cm' has a value, a label and a unit."""

  value: Value
  label: str = ''
  unit: str = ''

  def answer(self) -> types.Answer:
    """The canonical answer."""
    if not self.label and not self.unit:
      return self.value
    label = f'{self.label} = ' if self.label else ''
    return f'{label}{self.value}{" " if self.unit else ""}{self.unit}'


def _rows(match: re.Match) -> str:
  """A matrix as a list of its rows: [[1, 2], [3, 4]]."""
  rows = match[1].strip().removesuffix(r'\\').split(r'\\')
  return '[' + ', '.join(f'[{row.replace("&", ",")}]' for row in rows) + ']'


_SIGNS = {
  **{chr(0xFF01 + i): chr(0x21 + i) for i in range(94)},  # full width
  '−': '-', '–': '-', '×': '*', '·': '*', '⋅': '*', '∙': '*',
  '÷': '/', '⁄': '/', '∕': '/', '²': '^2', '³': '^3', 'π': ' pi ',
  '√': ' sqrt ', '∞': ' oo ', '≤': '<=', '≥': '>=', '°': ' degrees ',
  '±': ' \\pm ', '€': ' EUR ', '£': ' GBP ', '¥': ' JPY ', '₹': ' INR ',
  '∪': ' or ', '∈': '=', '≈': '=', '½': ' 1/2', '¼': ' 1/4', '¾': ' 3/4',
  '⅓': ' 1/3', '⅔': ' 2/3',
  '\u00a0': ' ', '\u202f': ' ', '\u2009': ' ', '\u3000': ' ',
}  # fmt: skip
_TABLE = str.maketrans(_SIGNS)
_COMMANDS = {  # of LaTeX, in plain text; what is not here stays
  'left': '', 'right': '', 'big': '', 'Big': '', 'bigl': '', 'bigr': '',
  'displaystyle': ' ', 'quad': ' ', 'qquad': ' ', 'in': '=', 'approx': '=',
  'cdot': '*', 'times': '*', 'ast': '*', 'lvert': '|', 'rvert': '|',
  'le': '<=', 'leq': '<=', 'leqslant': '<=', 'ge': '>=', 'geq': '>=',
  'geqslant': '>=', 'dfrac': r'\frac', 'tfrac': r'\frac', 'cfrac': r'\frac',
  'cup': ' or ', 'lt': '<', 'gt': '>', 'div': '/', 'infty': ' oo ',
  'lbrace': '{', 'rbrace': '}', 'degree': ' degrees ', 'percent': '%',
}  # fmt: skip
_LATEX = tuple(
  (re.compile(pattern, re.S), new)
  for pattern, new in (
    (r'(?<=\d)(?:\\[,!]|\{,\})(?=\d{3})', ''),  # 56\,088
    (r'\$([^$]*[^$\s])\$(?!\d)', r' \1 '),  # $5$ cm, but not $5,$6
    (r'\^\s*\{?\s*\\circ\s*\}?', ' degrees '),
    (r'\\begin\{[pb]matrix\}(.*)\\end\{[pb]matrix\}', _rows),
    (r'\\(?:text|math|operatorname|mbox)[a-z]*\s*\{([^{}]*)\}', r' \1 '),
    (r'\\([A-Za-z]+)', lambda match: _COMMANDS.get(match[1], match[0])),
    (r'\\[,;:! ]|~', ' '),
    (r'\\([%$#&{}])', r'\1'),
    (r'(?<=\d)\s+thousand(?![a-z])', '*1000'),
    (r'(?<=\d)\s+million(?![a-z])', '*1000000'),
    (r'(?<=\d)\s+billion(?![a-z])', '*1000000000'),
  )
)
_WRAPPERS = (
  re.compile(r'\$\$(.+)\$\$', re.S),
  re.compile(r'\$([^$]+)\$', re.S),
  re.compile(r'\\\((.+)\\\)', re.S),
  re.compile(r'\\\[(.+)\\\]', re.S),
  re.compile(r'\*\*(.+)\*\*', re.S),
  re.compile(r'`(.+)`', re.S),
)


def clean(text: str) -> str:
  """One line of ASCII without what only typesets."""
  text = text.strip().translate(_TABLE)
  if not text:
    raise Unreadable('empty')
  if not text.isascii() or re.search(r'[\x00-\x08\x0e-\x1f\x7f]', text):
    raise Unreadable('characters')
  text = _unwrap(_boxed(text))
  for pattern, new in _LATEX:
    text = pattern.sub(new, text)
  text = ' '.join(_unwrap(text).split()).removeprefix('=')
  if not text:
    raise Unreadable('empty')
  if len(text) > LONGEST:
    raise Unreadable('long')
  return text


def _boxed(text: str) -> str:
  """What stands in the last \\boxed{}, or all of it if there is none."""
  start = max(text.rfind('\\boxed{'), text.rfind('\\fbox{'))
  if start < 0:
    return text
  start = text.index('{', start)
  end = closing(text, start)
  return text[start + 1 : end] if end is not None else text


def _unwrap(text: str) -> str:
  before = None
  while text != before:
    before, text = text, text.strip()
    if text.endswith(('.', ',', ';')) and not text.endswith('..'):
      text = text[:-1]
    for wrapper in _WRAPPERS:
      if match := wrapper.fullmatch(text):
        text = match[1]
  return text


def closing(text: str, start: int) -> int | None:
  """Where the bracket that opens at `start` closes. (1, 2] is a pair, too."""
  depth = 0
  for place in range(start, len(text)):
    depth += (text[place] in '([{') - (text[place] in ')]}')
    if not depth:
      return place
  return None
