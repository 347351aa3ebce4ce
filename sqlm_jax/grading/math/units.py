"""Parses values with units and currencies."""

import re
from collections.abc import Callable
from typing import NamedTuple, Protocol

from sqlm_jax.grading import answers
from sqlm_jax.grading.math import plain_text, vocabulary


class _IsClose(Protocol):
  """Returns True if a value is a number within `distance` of the target."""

  def __call__(
    self, value: plain_text.Value, target: plain_text.F, distance: plain_text.F
  ) -> bool: ...


class ExpressionParser(NamedTuple):
  """Functions that parse and compare expressions, with or without sympy.

  Both functions raise `plain_text.ParseError` or `plain_text.NeedsSympy`.
  """

  parse: Callable[[str], plain_text.Value]
  is_close: _IsClose


_MIXED = re.compile(r'(-?)(\d+) (\d+)\s*/\s*(\d+)')
_BARE_EXPONENT = re.compile(r'\^\s*-?[\d.]+\s*\Z')
# Unit -> its other names in the singular. Symbols are case-sensitive.
_UNITS = {
  'nm': 'nanometer nanometre',
  'um': 'micrometer micrometre micron',
  'mm': 'millimeter millimetre',
  'cm': 'centimeter centimetre Cm CM',
  'dm': 'decimeter decimetre',
  'm': 'meter metre',
  'km': 'kilometer kilometre Km KM',
  'in': 'inch inche',  # 'inche' is 'inches' without its s
  'ft': 'foot feet',
  'yd': 'yard',
  'mi': 'mile',
  'ug': 'microgram',
  'mg': 'milligram',
  'g': 'gram gramme',
  'kg': 'kilogram kilo Kg KG',
  'tonne': '',
  'lb': 'pound',
  'oz': 'ounce',
  'ml': 'milliliter millilitre mL',
  'ul': 'microliter microlitre uL',
  'cl': 'centiliter centilitre cL',
  'dl': 'deciliter decilitre dL',
  'L': 'liter litre l',
  'gal': 'gallon',
  'us': 'microsecond',
  'ms': 'millisecond',
  's': 'second sec',
  'min': 'minute',
  'h': 'hour hr',
  'day': '',
  'yr': 'year',
  'Hz': 'hertz',
  'kHz': 'kilohertz',
  'MHz': 'megahertz',
  'N': 'newton',
  'J': 'joule',
  'kJ': 'kilojoule',
  'W': 'watt',
  'kW': 'kilowatt',
  'MW': 'megawatt',
  'mW': 'milliwatt',
  'kWh': '',
  'kN': 'kilonewton',
  'MB': 'megabyte',
  'GB': 'gigabyte',
  'V': 'volt',
  'A': 'ampere amp',
  'K': 'kelvin',
  'Pa': 'pascal',
  'kPa': 'kilopascal',
  'MPa': 'megapascal',
  'mol': 'mole',
  'ohm': '',
  'degree': '°',
  'C': 'celsius',
  'F': 'fahrenheit',
  'rad': 'radian',
  '$': 'dollar USD US$ usd buck',
  'cent': '',
  'EUR': 'euro',
  'GBP': '',
  'JPY': 'yen',
  'CNY': 'yuan RMB rmb',
  'INR': 'rupee',
  'KRW': 'won',
  'RUB': 'ruble rouble',
  'mi/h': 'mph',
  'km/h': 'kph kmh',
}
_UNIT_OF = {
  name: unit
  for unit, names in _UNITS.items()
  for name in (unit, *names.split())
}
_POWERS = {'square': 2, 'sq': 2, 'cubic': 3, 'cu': 3, 'squared': 2, 'cubed': 3}
_AFTER = ('squared', 'cubed')
# Words that are not units. Some change the meaning of the preceding number.
_NO_UNITS_TEXT = """
  plus minus times over divided multiplied modulo mod root choose dozen
  dozens score gross half halves third thirds quarter quarters fourth
  fourths fifth fifths sixth sixths seventh eighth eighths ninth ninths
  tenth tenths hundredth hundredths thousandth thousandths hundreds
  thousands millions billions trillions quadrillion hundred thousand million
  billion trillion one two three four five six seven eight nine ten eleven
  twelve twenty point factorial remainder not nor but the than more less
  fewer about around approximately roughly nearly almost exactly least most
  through from with without where when then for all any none true false yes
  wrong right correct incorrect percentage per base undefined infinity
  infinite because since therefore hence thus are was were been being has
  have had does did will would can could should may might must shall this
  that these those there here its they them their she his her you your our
  who whom whose which what why how into onto upon down off out also too
  very just only even still yet again already always never ever often
  sometimes maybe perhaps possibly probably certainly surely however
  although though while until unless except instead otherwise both either
  neither each every some many much few several other another same such own
  first last next and or answer result solution total sum difference product
  quotient equal equals unknown nothing something anything everything
  between among under above below after before during against respectively
  actually simply finally together altogether overall combined
"""
# Numbers and fractions of India and of other languages, also in the plural.
_SCALES_TEXT = """
  lakh lac crore myriad mil mille mila mio mrd mln mlrd milion million
  millionen millione millioni millon millone milione milioni milliard milliarde
  milliarden miliardo miliardi miliard billion billionen billone billiarde
  tausend tausende hundert hunderte cento cien ciento cientos centaine
  millier millar miljoen miljard duizend honderd milhao milhoes bilhao bilhoes
  dutzend douzaine docena dozzina duzia doz dzn fold twofold threefold
  permille permil promille percento porcento porciento pourcent prozent procent
  permyriad bps negative positive inf infty nan
"""
_NO_UNITS = frozenset((_NO_UNITS_TEXT + _SCALES_TEXT).split())
# Words such as xcosx and logn, and letters without a vowel such as mnp.
_JOINED_SYMBOLS = re.compile(
  rf'[a-z]?(?:{"|".join(sorted(vocabulary.FUNCTIONS))})[nxyz]|[^aeiouy]+'
)
_CURRENCY = re.compile(
  r'([-+]?)\s*(\$|(?:US\$|USD|EUR|GBP|JPY|CNY|INR|KRW|RUB)(?![A-Za-z]))\s*'
  r'(-?.*\d.*)',
  re.S,
)
_WORD = r'(?:[°$]|[A-Za-z]+)(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d))?'
_UNIT = rf'(?P<unit>%|per ?cent|{_WORD}(?:(?:\s*[*/]\s*|\s+|(?<=°)){_WORD})*)'
_WITH_UNIT = (  # tried in order: for 5 square meters, and for 2 pi meters
  re.compile(rf'(?P<value>.*?[\d)}}!.\s])\s*{_UNIT}', re.S),
  re.compile(rf'(?P<value>.*[\d)}}!.\s])\s*{_UNIT}', re.S),
)
_UNIT_TOKEN = re.compile(rf'[*/]|{_WORD}')


def with_unit(text: str, parser: ExpressionParser) -> plain_text.ParsedAnswer:
  """Parses 5 cm, $12.50, 50 percent, or an expression without a unit."""
  if match := _CURRENCY.fullmatch(text):
    sign, unit, rest = match.groups()
    if per := re.fullmatch(r'(.*\d)\s+per\s+([a-z]+)', rest):  # $5 per hour
      return with_unit(f'{sign}{per[1]} {unit} per {per[2]}', parser)
    if has_symbols(rest):
      raise plain_text.ParseError('word')
    value = _value(sign + rest, parser)
    return plain_text.ParsedAnswer(value, unit=_UNIT_OF[unit])
  for pattern in _WITH_UNIT:
    match = pattern.fullmatch(text)
    if match is None or not _is_quantity(match['value']):
      continue
    if match['unit'].lower() in ('%', 'percent', 'per cent', 'pct'):
      if _BARE_EXPONENT.search(match['value']):  # 2^50%
        raise plain_text.ParseError('syntax')
      return plain_text.ParsedAnswer(
        _percent(_value(match['value'], parser), parser)
      )
    is_apart = text[match.start('unit') - 1].isspace()
    if unit := _unit(match['unit'], max_unknown=int(is_apart)):
      if unit == 'degree' and re.search('[A-Za-z]', match['value']):
        break  # in \sin 30°, the degrees belong to the angle
      return plain_text.ParsedAnswer(_value(match['value'], parser), unit=unit)
  if '°' in text:
    return _angle(text, parser)
  return plain_text.ParsedAnswer(_value(text, parser))


def _angle(text: str, parser: ExpressionParser) -> plain_text.ParsedAnswer:
  """Parses \\sin 30°, which is a number, and 30° + 15°, which has a unit."""
  try:
    return plain_text.ParsedAnswer(parser.parse(text))
  except plain_text.ParseError as error:
    if str(error) != 'degrees':
      raise
  value = parser.parse(f'({text})/(1°)')
  if isinstance(value, str) and not value.isalpha():
    value = f'({value})'  # otherwise in b**2 °, the degrees belong to the 2
  return plain_text.ParsedAnswer(value, unit='degree')


def _percent(
  value: plain_text.Value, parser: ExpressionParser
) -> plain_text.Value:
  if isinstance(value, plain_text.F):
    return value / 100
  return parser.parse(f'({value})/100')


def _is_quantity(text: str) -> bool:
  """Returns True if the text before a unit may be its value."""
  return not (
    '°' in text or has_symbols(text) or text.rstrip()[-1:] in '+-*/^('
  )


def has_symbols(text: str) -> bool:
  """Returns True if a text has symbols; in 2x m, m is then a factor."""
  return any(
    word not in vocabulary.FUNCTIONS
    and word not in vocabulary.CONSTANTS
    and word not in ('frac', 'binom')
    for word in re.findall('[A-Za-z]+', text)
  )


def _unit(text: str, *, max_unknown: int) -> str | None:
  """Returns a unit in normal form, None if the text is not a unit.

  'square meters' and 'm^2' have the same normal form.

  Args:
    text: the words after a value.
    max_unknown: the number of words that may be counted things. It is 0 if the
      value touches the first word, because 2pir is a product.
  """
  exponents: dict[str, int] = {}
  sign, power, unknown, last = 1, 1, 0, ''
  for token in _UNIT_TOKEN.findall(text):
    word, _, exponent = (part.strip() for part in token.partition('^'))
    if word in ('/', 'per'):
      sign = -1
    elif word == '*':
      pass
    elif word.lower() in _AFTER and last:
      exponents[last] *= _POWERS[word.lower()]
    elif word.lower() in _POWERS:
      power = _POWERS[word.lower()]
    else:
      name, is_known = _unit_word(word)
      unknown += not is_known
      if name is None or unknown > max_unknown:
        return None
      power = int(exponent.strip('{ }')) if exponent else power
      exponents[name] = exponents.get(name, 0) + sign * power
      sign, power, last = 1, 1, name
  if sign != 1 or power != 1 or 0 in exponents.values():
    return None
  if 'degree' in exponents and exponents.keys() & {'C', 'F', 'K'}:
    del exponents['degree']  # degrees Celsius
  return _unit_text(exponents) or None


def _unit_text(exponents: dict[str, int]) -> str:
  above = [
    name + (f'^{power}' if power != 1 else '')
    for name, power in sorted(exponents.items())
    if power > 0
  ]
  below = [
    name + (f'^{-power}' if power != -1 else '')
    for name, power in sorted(exponents.items())
    if power < 0
  ]
  if not above:
    return ' '.join(
      f'{name}^{power}' for name, power in sorted(exponents.items())
    )
  return '/'.join([' '.join(above), *below])


def _unit_word(word: str) -> tuple[str | None, bool]:
  """Returns the name of a unit, and True if the unit is in the table."""
  if word in _UNIT_OF:
    return _UNIT_OF[word], True
  lower = word.lower()
  for name in (lower, lower.removesuffix('s')):
    if name in _UNIT_OF and len(name) > 1 and _is_word(word):
      return _UNIT_OF[name], True
  if not _is_word(word):
    return None, False
  name = lower
  while name.endswith('s') and len(name) > 3:
    name = name[:-1]
  is_other = (
    {lower, name, name.removesuffix('s')} & (_NO_UNITS | _UNIT_OF.keys())
    or name in vocabulary.FUNCTIONS | vocabulary.CONSTANTS | vocabulary.SYMBOLS
    or vocabulary.is_product(name)
    or _JOINED_SYMBOLS.fullmatch(lower)
  )
  return (None if is_other else name), False


def _is_word(word: str) -> bool:
  """Returns True for a word, in contrast to a symbol such as mHz."""
  return len(word) > 2 and (word.islower() or word.isupper() or word.istitle())


def _value(text: str, parser: ExpressionParser) -> plain_text.Value:
  """Parses a mixed number such as 3 1/2, or an expression."""
  if match := _MIXED.fullmatch(text.strip()):
    sign, integer, above, below = match.groups()
    if int(above) < int(below):
      value = int(integer) + plain_text.F(int(above), int(below))
      return -value if sign else value
  return parser.parse(text.strip())


def _number(text: str) -> plain_text.F:
  """Parses a plain number; raises `NeedsSympy` if it may be an expression."""
  number = answers.number(text)
  if number is None:
    vocabulary.tokens(text)
    raise plain_text.NeedsSympy
  return number


def _is_close(
  value: plain_text.Value, target: plain_text.F, distance: plain_text.F
) -> bool:
  if not isinstance(value, plain_text.F):
    raise plain_text.NeedsSympy
  return abs(value - target) <= distance


WITHOUT_SYMPY = ExpressionParser(_number, _is_close)
