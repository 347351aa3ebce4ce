"""Converts LaTeX and Unicode to plain text, and defines `ParsedAnswer`."""

import fractions
import re
from typing import NamedTuple

from sqlm_jax.game import types
from sqlm_jax.grading import symbols

F = fractions.Fraction
Value = F | str
MAX_LENGTH = 1000  # characters of a canonical answer


class ParseError(ValueError):
  """Raised for a text that cannot be parsed.

  The message is one word. The metrics count the messages.
  """


class NeedsSympy(Exception):
  """Raised for a text that only sympy can handle."""


class ParsedAnswer(NamedTuple):
  """A parsed answer: 'x = 5 cm' has a value, a label and a unit."""

  value: Value
  label: str = ''
  unit: str = ''

  def answer(self) -> types.Answer:
    """Returns the canonical answer."""
    if not self.label and not self.unit:
      return self.value
    label = f'{self.label} = ' if self.label else ''
    return f'{label}{self.value}{" " if self.unit else ""}{self.unit}'


def clean(text: str) -> str:
  """Returns plain text without typesetting.

  Line breaks are kept because they separate statements. `\\\\` and `\\quad` are
  also treated as line breaks.

  Raises:
    ParseError: if the text is empty, contains a character that is not in
      `symbols`, or has several boxes with different contents.
  """
  text = _unwrap(_plain(text))
  text = _unwrap(_boxed(text))
  if not _ALLOWED.fullmatch(text):
    raise ParseError('characters')
  for pattern, new in _LATEX:
    text = pattern.sub(new, text)
  text = _unwrap(text)
  text = _CONTINUED.sub(r' \1', _BREAK.sub('\n', _SPACE.sub(' ', text)))
  if text[:1] in ('=', '≈'):
    text = text[1:].strip()
  if not text:
    raise ParseError('empty')
  if len(text) > MAX_LENGTH:
    raise ParseError('long')
  if _AMBIGUOUS.search(text):
    raise ParseError('syntax')
  return text


_SPACE = re.compile(r'[^\S\n]+')
_BREAK = re.compile(r' ?\n\s*')
_CONTINUED = re.compile(r'\n([=≈])')
_AMBIGUOUS = re.compile(
  '|'.join(
    (
      r'(?:^|[\sA-Za-z)\]}])!=',  # x != 3 is not a factorial
      r'\d\s*\^\s*\{?\s*o\s*(?:\}|(?![A-Za-z]))',  # 45^o may be an angle
      r'(?<![\d.,])\d{1,3}(?:\.\d{3})+,\d',  # 1.234,56
      # The number of an equation or a line: (2) y = 2
      r'(?:^|[\n,;])\s*\(\s*(?:\d+|[a-z])\s*\)\s+[A-Za-z\\]',
      r'^- .*\n- ',
      r'^(?:\d{4}([-/])\d\d?\1\d\d?|\d\d?([-/])\d\d?\2\d{4})$',  # a date
      r'[A-Za-z]\s*\^\s*\{\s*\(\s*(?:\d+|[a-z])\s*\)\s*\}',  # a derivative
      r'^[Nn]/[Aa]$',
    )
  )
)
_SUPERSCRIPTS = re.compile(f'[{"".join(symbols.SUPERSCRIPTS)}]+')
_SUBSCRIPTS = re.compile(f'[{"".join(symbols.SUBSCRIPTS)}]+')
_ROOT_OF_DIGITS = re.compile(r'\\sqrt\s*\d(?:\d|\.\d)')  # LaTeX's root of 2
_ROOT_WITH_INDEX = re.compile(rf'(.?)({_SUPERSCRIPTS.pattern})\s*√')
_UNITS = '|'.join((*symbols.UNIT_WORDS, '円', '元'))
_UPRIGHT = r'\\(?:text|mathrm)\{'
_MICRO = re.compile(  # 5 μm and 5\,\mu\text{m}, but not 5μmg
  rf'(?<=\d)((?:\s|\\[,;:! ]|~|{_UPRIGHT})*)(?:[\u00b5\u03bc]|\\mu\s*)'
  rf'((?:{_UPRIGHT}\s*)?)(?=[msgLl]\s*(?:[/^}}\])$,;.]|\\[)\]]|and|or|\Z))'
)
_TWO_UNITS = re.compile(rf'(?>{_UNITS})(?>{_UNITS})')
_TABLE = str.maketrans(symbols.SIGNS)
_SUPERSCRIPT_TABLE = str.maketrans(symbols.SUPERSCRIPTS)
_SUBSCRIPT_TABLE = str.maketrans(symbols.SUBSCRIPTS)
_ALLOWED = re.compile(rf'[\t-\r\x20-\x7e{symbols.MARKS}]*')
_QUOTES = ('「」', '『』', '【】')


def _plain(text: str) -> str:
  """Converts the Unicode in `symbols` to ASCII and `symbols.MARKS`."""
  text = text.strip()
  if _ROOT_OF_DIGITS.search(text):
    raise ParseError('syntax')
  while text.endswith(('。', '｡', '、', '､')):
    text = text[:-1].strip()
  while len(text) > 1 and text[0] + text[-1] in _QUOTES:
    text = text[1:-1].strip()
  text = _ROOT_WITH_INDEX.sub(_root, text)
  text = _SUPERSCRIPTS.sub(
    lambda match: f'^{{{match[0].translate(_SUPERSCRIPT_TABLE)}}}', text
  )
  text = _SUBSCRIPTS.sub(
    lambda match: f'_{{{match[0].translate(_SUBSCRIPT_TABLE)}}}', text
  )
  if _TWO_UNITS.search(text):
    raise ParseError('word')
  text = _MICRO.sub(r'\1\2u', text)
  for word, new in symbols.WORDS.items():
    text = text.replace(word, new)
  text = text.translate(_TABLE).strip()
  if not text:
    raise ParseError('empty')
  if text[0] == '~' or re.search('~[=<>](?!~)', text):  # approximately
    raise ParseError('syntax')
  return text.replace('\r\n', '\n').replace('\r', '\n')


def _root(match: re.Match) -> str:
  before, index = match.groups()
  if before.isalnum() or before in tuple(')]}'):
    raise ParseError('syntax')  # in 3⁴√16, 4 may be an exponent or an index
  return rf'{before}\sqrt[{index.translate(_SUPERSCRIPT_TABLE)}] '


def _rows(match: re.Match) -> str:
  """Converts a matrix to a list of its rows: [[1, 2], [3, 4]]."""
  if ',' in match[2]:
    raise ParseError('syntax')
  rows = match[2].strip().removesuffix(r'\\').split(r'\\')
  if len({row.count('&') for row in rows}) > 1:
    raise ParseError('syntax')
  return '[' + ', '.join(f'[{row.replace("&", ",")}]' for row in rows) + ']'


def _join_digits(match: re.Match) -> str:
  return ''.join(filter(str.isdigit, match[0]))


def _repeating(match: re.Match) -> str:
  """Converts a repeating decimal to a fraction."""
  if re.search(r'[\d)}\]]\s*\Z', match.string[: match.start()]):
    raise ParseError('syntax')  # 2 0.\overline{3} is not a product
  integer, fixed, repeated = match.groups()
  value = F(int(f'{integer}{fixed}{repeated}') - int(f'0{integer}{fixed}'))
  value /= (10 ** len(repeated) - 1) * 10 ** len(fixed)
  return f'({value})'


def _angle(match: re.Match) -> str:
  """Converts degrees, minutes and seconds of arc to degrees."""
  degrees, minutes, seconds = (part or '0' for part in match.groups())
  return f'({degrees}+{minutes}/60+{seconds}/3600)°'


_SYSTEMS = (
  r'cases|dcases|aligned|align\*?|alignat\*?|array|gathered|gather\*?|split|'
  r'equation\*?|eqnarray\*?'
)
_RELATIONS = '[=<>≠≈∈]'
_LATEX = tuple(
  (re.compile(pattern, re.S), new)
  for pattern, new in (
    (r'\\begin\{([pb]matrix)\}((?:(?!\\begin).)*?)\\end\{\1\}', _rows),
    (r'\\left\s*\\\{\s*\\begin\{matrix\}((?:(?!\\begin).)*?)\\end\{matrix\}'
     r'\s*\\right\s*\.?', r'\n\1\n'),
    (rf'(?:\\left\s*)?(?:\\\{{\s*)?\\begin\{{({_SYSTEMS})\}}'
     r'(?:\s*\{[lcr\s]*\})?((?:(?!\\begin).)*?)\\end\{\1\}'
     r'(?:\s*\\right\s*\.)?', r'\n\2\n'),
    (r'\$\$([^$]+)\$\$', r'\n\1\n'),
    (r'\$([^$]*[^$\s])\$(?!\d)', r' \1 '),  # $5$ cm, but not $5,$6
    (r"\^\s*\{\s*\\prime\s*\\prime\s*\}", "''"),
    (r"\^\s*\{?\s*\\prime\s*\}?", "'"),
    (r'(?:\{\s*\})?\^\s*(?:\{\s*(?:\\circ|\\degree|°)\s*\}|\\circ(?![A-Za-z])'
     r'|\\degree(?![A-Za-z])|°)', '°'),
    (r'\\[dt]?frac\s*\{\s*\\(?:text|mathrm)\s*\{([^{}]*)\}\s*\}'
     r'\s*\{\s*\\(?:text|mathrm)\s*\{([^{}]*)\}\s*((?:\^\s*\{?\d\}?)?)\s*\}',
     r' \1/\2\3 '),
    *[(r'\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|math(?:rm|bf|it|sf|tt|normal)'
       r'|operatorname\*?|[mh]box|boldsymbol|bm)\s*\{((?:[^{}]|\{[^{}]*\})*)\}',
       r' \1 ')] * 2,
    (r'\\mathbb\s*\{?\s*R\s*\}?', ' (-oo, oo) '),
    (r'\\\\(?:\[-?[\d.]+ ?[a-z]{2}\])?|\\(?:newline|q?quad)(?![A-Za-z])',
     '\n'),
    (r'\\[()]', ' '),
    (r'\\[\[\]]', '\n'),
    (r'(?<![\d.,])[1-9]\d{0,2}(?:(?:\{,\}|,\\!|\\[,! ])\s?\d{3})+(?!\d)',
     _join_digits),
    (r'(?<![A-Za-z)])(\d*)\.(\d*)\\overline\s*\{(\d+)\}', _repeating),
    (r'\\([A-Za-z]+)',
     lambda match: symbols.MACROS.get(match[1], match[0])),
    (r'\\[,;:! ]|~', ' '),
    (r'\\([%$&{}])', r'\1'),
    (rf'&\s*(?={_RELATIONS})|(?<={_RELATIONS})\s*&', ' '),
    (r'(?<![A-Za-z\\])deg(?:rees?)?(?![A-Za-z])', '°'),
    (r'(?<=\S)\.[ \t]*\n', '\n'),
    (r"(?<![\d.])(\d+)\s*°\s*(\d+(?:\.\d+)?)\s*'(?!')"
     r"(?:\s*(\d+(?:\.\d+)?)\s*(?:''|\"))?", _angle),
    *((rf'(?<=\d)\s+{word}(?![A-Za-z])', f'*{value}')
      for word, value in (('hundred', 100), ('thousand', 10**3),
                          ('million', 10**6), ('billion', 10**9),
                          ('trillion', 10**12))),
  )
)  # fmt: skip
_WRAPPERS = (
  re.compile(r'\$\$(.+)\$\$', re.S),
  re.compile(r'\$([^$]+)\$', re.S),
  re.compile(r'\\\((.+)\\\)', re.S),
  re.compile(r'\\\[(.+)\\\]', re.S),
  re.compile(r'\*\*(.+)\*\*', re.S),
  re.compile(r'`(.+)`', re.S),
)


_BOX = re.compile(r'\\f?box(?:ed)?\s*\{')
_WORD_BETWEEN = r'(?:and|or|\\text\s*\{\s*(?:and|or)\s*\})'
_SPACE_BETWEEN = r'(?:[\s$]|\\q?quad|\\[()\[\]\\])*'
_BETWEEN_BOXES = re.compile(
  rf'{_SPACE_BETWEEN}(?:[,;]{_SPACE_BETWEEN}{_WORD_BETWEEN}?|{_WORD_BETWEEN})'
  rf'{_SPACE_BETWEEN}'
)


# A box that is preceded or followed by these is a part of an expression. A dash
# after a word, two stars and a tag are typesetting.
_OPERATORS = (
  r'\\(?:cdot|times|ast|div|pm|mp|sqrt(?:\s*\[[^\]]*\])?|frac|pi|neg|lnot|not|'
  r'neq?|leq?(?:slant)?|lt|geq?(?:slant)?|gt|notin|cup|cap|setminus|circ|degree|'
  r'(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|ln|log|exp)(?![A-Za-z])|[\^_|<>≠∪±°]'
)
_BEFORE_BOX = re.compile(
  rf'(?:{_OPERATORS}|(?<![A-Za-z]{{2}} )(?<!\*)[-+*/])[\s$]*\Z'
  r'|(?:\d|(?<![A-Za-z\\])[A-Za-z]|\))\Z'
  r'|(?<!\\)[\[(]\s*\Z'
)
_BRACE_BEFORE_BOX = re.compile(
  r'(?:\\(?:text[a-z]*|math[a-z]*|mbox|emph|underline|textcolor\{[a-z]+\})\s*'
  r'|\A|[\s$])\{\s*\Z'
)
_AFTER_BOX = re.compile(
  rf'(?:[\s$]|\\[,;:! ]|\\text\s*\{{)*(?:{_OPERATORS}|\\?%|'
  r'per ?cent|(?:hundred|thousand|[mbtr]+illion|dozen)(?![a-z])'
  r'|[-+*/]\s*(?:[\d({]|\\[a-z]|[B-HJ-Zb-z](?![A-Za-z])))'
  r'|\d|\(|[A-Za-z](?![A-Za-z])'
)
_TAG = re.compile(r'</?[a-z|][^<>]*>', re.I)
_MARK = re.compile(r'^[ \t]*[>*+] +\Z', re.M)  # Markdown


def _continues(before: str, after: str) -> bool:
  """Returns True if a box between two texts is a part of an expression."""
  before, after = _MARK.sub('', _TAG.sub(' ', before)), _TAG.sub(' ', after)
  if before.endswith('(') and after.startswith(')'):
    before, after = before[:-1], after[1:]
  if before.rstrip().endswith('{'):
    return not _BRACE_BEFORE_BOX.search(before)
  return bool(_BEFORE_BOX.search(before) or _AFTER_BOX.match(after))


def _boxed(text: str) -> str:
  r"""Returns the content of \boxed{}, or the text if there is no box.

  Several boxes are joined if there are only joiners between them.

  Raises:
    ParseError: if a box is a part of an expression, or if the boxes cannot be
      joined.
  """
  starts, contents, ends = [], [], [0]
  for match in _BOX.finditer(text):
    if match.start() < ends[-1]:
      continue  # a box in a box
    end = closing(text, match.end() - 1)
    if end is None:
      return text
    if _continues(text[: match.start()], text[end + 1 :]):
      raise ParseError('boxes')
    starts.append(match.start())
    contents.append(_boxed(text[match.end() : end].strip()))
    ends.append(end + 1)
  if len(set(contents)) < 2:
    return contents[0] if contents else text
  joined = contents[0]
  for start, end, content in zip(
    starts[1:], ends[1:-1], contents[1:], strict=True
  ):
    between = text[end:start]
    if not _BETWEEN_BOXES.fullmatch(between):
      raise ParseError('boxes')
    joined += f' {between.replace("$", " ")} {content}'
  return joined


def _unwrap(text: str) -> str:
  """Removes dollars, stars and final punctuation around the text."""
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
  """Returns the index of the bracket that closes the one at `start`, or None.

  A bracket may be closed by another kind of bracket, as in (1, 2].
  """
  depth = 0
  for position in range(start, len(text)):
    depth += (text[position] in '([{') - (text[position] in ')]}')
    if not depth:
      return position
  return None
