"""Units and currencies behind, or in front of, a value."""

import re
from collections.abc import Callable

from sqlm_jax.verify import expressions, notation

Leaf = Callable[[str], notation.Value]  # reads an expression, or raises
_MIXED = re.compile(r'(-?)(\d+) (\d+)\s*/\s*(\d+)')
# Unit -> its other names, singular. A unit that is not here is its own name.
_UNITS = {
  'mm': 'millimeter millimetre',
  'cm': 'centimeter centimetre',
  'm': 'meter metre',
  'km': 'kilometer kilometre',
  'in': 'inch inche',  # as 'inches' without its s
  'ft': 'foot feet',
  'yd': 'yard',
  'mi': 'mile',
  'mg': 'milligram',
  'g': 'gram gramme',
  'kg': 'kilogram kilo',
  'lb': 'pound',
  'oz': 'ounce',
  'ml': 'milliliter millilitre mL',
  'L': 'liter litre l',
  'gal': 'gallon',
  'ms': 'millisecond',
  's': 'second sec',
  'min': 'minute',
  'h': 'hour hr',
  'day': '',
  'yr': 'year',
  'Hz': 'hertz',
  'N': 'newton',
  'J': 'joule',
  'W': 'watt',
  'V': 'volt',
  'A': 'ampere amp',
  'K': 'kelvin',
  'Pa': 'pascal',
  'degree': 'deg',
  'C': 'celsius',
  'F': 'fahrenheit',
  'rad': 'radian',
  '$': 'dollar USD usd buck',
  'EUR': 'euro',
  'GBP': '',
  'JPY': 'yen',
  'INR': 'rupee',
  'mi/h': 'mph',
  'km/h': 'kph kmh',
}
_UNIT_OF = {
  name: unit
  for unit, names in _UNITS.items()
  for name in (unit, *names.split())
}
_POWER_WORDS = {'square': '^2', 'sq': '^2', 'cubic': '^3', 'cu': '^3'}
_CURRENCY = re.compile(r'(-?)\s*(\$|USD|EUR|GBP|JPY|INR)\s*(-?.*\d.*)')
_WORD = r'[A-Za-z]+(?:\^\{?\d\}?)?'
_UNIT = rf'(?P<unit>%|\$|{_WORD}(?:(?:\s*/\s*|\s+){_WORD})*)'
_WITH_UNIT = (  # 5 square meters, and then 2 pi meters
  re.compile(rf'(?P<value>.*?[\d)}}!.\s])\s*{_UNIT}'),
  re.compile(rf'(?P<value>.*[\d)}}!.\s])\s*{_UNIT}'),
)


def with_unit(text: str, leaf: Leaf) -> notation.Reading:
  """5 cm, $12.50, 50 percent, or an expression without a unit."""
  if match := _CURRENCY.fullmatch(text):
    sign, unit, rest = match.groups()
    return notation.Reading(_value(sign + rest, leaf), unit=_UNIT_OF[unit])
  for pattern in _WITH_UNIT:
    match = pattern.fullmatch(text)
    if match is None or _letters(match['value']):
      continue
    if match['unit'].lower() in ('%', 'percent', 'pct'):
      return notation.Reading(_percent(_value(match['value'], leaf), leaf))
    if unit := _unit(match['unit']):
      return notation.Reading(_value(match['value'], leaf), unit=unit)
  return notation.Reading(_value(text, leaf))


def _percent(value: notation.Value, leaf: Leaf) -> notation.Value:
  return (
    value / 100 if isinstance(value, notation.F) else leaf(f'({value})/100')
  )


def _letters(text: str) -> bool:
  """Whether there are symbols in it, which makes a unit a factor: 2x m."""
  text = re.sub(r'\\[A-Za-z]+', ' ', text)
  return any(
    word not in expressions.FUNCTIONS and word not in expressions.CONSTANTS
    for word in re.findall('[A-Za-z]+', text)
  )


def _unit(text: str) -> str | None:
  """One name for 'square meters' and 'm^2', None for what is no unit."""
  power, found = '', []
  for word in re.findall(rf'/|{_WORD}|\$', text):
    if word.lower() in _POWER_WORDS:
      power = _POWER_WORDS[word.lower()]
    elif word in ('/', 'per'):
      found.append('/')
    else:
      name, _, exponent = word.partition('^')
      if (name := _unit_word(name)) is None:
        return None
      exponent = f'^{exponent.strip("{}")}' if exponent else power
      found.append(name + exponent)
      power = ''
  if found[:1] == ['degree'] and len(found) > 1:
    del found[0]  # of Celsius
  return ' '.join(found).replace(' / ', '/') or None


def _unit_word(word: str) -> str | None:
  for name in (word, word.lower(), word.lower().removesuffix('s')):
    if name in _UNIT_OF:
      return _UNIT_OF[name]
  if (
    word in expressions.FUNCTIONS
    or word in expressions.CONSTANTS
    or expressions.is_product(word)
  ):
    return None
  return word.lower().removesuffix('s') if len(word) > 2 else None


def _value(text: str, leaf: Leaf) -> notation.Value:
  """A mixed number, 3 1/2, or what `leaf` reads."""
  if match := _MIXED.fullmatch(text.strip()):
    sign, whole, above, below = match.groups()
    if int(below):
      value = int(whole) + notation.F(int(above), int(below))
      return -value if sign else value
  return leaf(text.strip())
