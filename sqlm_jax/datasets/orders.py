"""Orders in words, each with one quantity in words from 2 to 99.

'Add twenty-four sacks of flour to our usual delivery.' has the answer 24.

The splits have different sentence forms. The forms of `labels` are those of the
prompts in configs/orders.py, the forms of `validation` and `test` are in no
prompt, and no form is in two splits.
"""

import itertools
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

_SEED = 'sqlm_jax/orders/1'

ONES = [
  'zero',
  'one',
  'two',
  'three',
  'four',
  'five',
  'six',
  'seven',
  'eight',
  'nine',
  'ten',
  'eleven',
  'twelve',
  'thirteen',
  'fourteen',
  'fifteen',
  'sixteen',
  'seventeen',
  'eighteen',
  'nineteen',
]
TENS = [
  'twenty',
  'thirty',
  'forty',
  'fifty',
  'sixty',
  'seventy',
  'eighty',
  'ninety',
]

# By split: sentence forms, and the number of orders per form.
FORMS = {
  'labels': (
    (
      'We need {number} {goods} by {day}.',
      'Please send {number} {goods} to the {place}.',
      'The {place} would like {number} {goods}.',
      'Can you deliver {number} {goods} on {day}?',
    ),
    12,
  ),
  'validation': (
    (
      'This is an order for {number} {goods}.',
      'Could someone bring {number} {goods} to the {place} before {day}?',
      'We are placing an order: {number} {goods}.',
      'Our {place} has asked for {number} {goods} this time.',
      'Starting on {day}, we want {number} {goods} a week.',
    ),
    12,
  ),
  'test': (
    (
      'Put us down for {number} {goods}, to arrive on {day}.',
      'The {place} is running low: {number} {goods}, if you can.',
      'Add {number} {goods} to our usual delivery.',
      'Kindly ship {number} {goods} to the address below.',
      'I would be glad to have {number} {goods} before {day}.',
      'The quantity is {number}, and the article is {goods}.',
      'According to our count, we are {number} {goods} short.',
      'Charge {number} {goods} to our account and send them at once.',
      'Reserve {number} {goods} in our name until {day}.',
      '{Number} {goods} would be enough for the {place}.',
      'As agreed on the phone, {number} {goods} go to the {place}.',
      'Regarding the {goods}: make it {number}, not more.',
    ),
    20,
  ),
}
GOODS = (
  'sacks of flour',
  'reams of paper',
  'cans of paint',
  'rubber hoses',
  'light bulbs',
  'steel brackets',
  'bottles of cleaner',
  'packs of labels',
  'pairs of gloves',
  'wooden pallets',
  'ink cartridges',
  'coils of wire',
  'bags of salt',
  'tubes of grease',
  'filing cabinets',
  'bundles of rods',
)
PLACES = ('bakery', 'office', 'garage', 'laboratory', 'clinic', 'depot')
DAYS = ('Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday')


class Order(NamedTuple):
  """An order and the quantity in it, in digits."""

  question: str
  answer: str


def in_words(number: int) -> str:
  """Returns a number below 100 in words, such as 'twenty-four'."""
  if number < 20:
    return ONES[number]
  tens, ones = divmod(number, 10)
  return TENS[tens - 2] + (f'-{ONES[ones]}' if ones else '')


_NUMBERS = {in_words(number): number for number in range(100)}
# Longer names first, so that 'sixty-four' is not read as 'sixty'.
_NUMBER = re.compile(
  r'\b(' + '|'.join(sorted(_NUMBERS, key=len, reverse=True)) + r')\b',
  re.IGNORECASE,
)
# Words and digits that change the number next to them, or are another number.
_OTHER = re.compile(
  r'\d|\b(hundred|thousand|million|dozen|half)', re.IGNORECASE
)


def quantity(order: str) -> str | None:
  """Returns the only number in words of an order, as digits.

  Returns None if there is no such number, if there are several, or if another
  part of the order is a number, such as '5' or 'a dozen'. A hyphen may be
  missing: 'twenty four' is 24.
  """
  tens = '|'.join(TENS)
  joined = re.sub(rf'(?i)\b({tens}) (?={"|".join(ONES[1:10])})', r'\1-', order)
  found = _NUMBER.findall(joined)
  if len(found) != 1 or _OTHER.search(joined):
    return None
  return str(_NUMBERS[found[0].lower()])


def orders(split: str) -> Iterator[Order]:
  """Yields the distinct orders of a split, cycling through its forms."""
  draw, seen = random.Random(f'{_SEED}/{split}'), set()
  forms, size = FORMS[split]
  for form in itertools.islice(itertools.cycle(forms), len(forms) * size):
    while True:
      number = draw.randrange(2, 100)
      words = in_words(number)
      text = form.format(
        number=words,
        Number=words.capitalize(),
        goods=draw.choice(GOODS),
        place=draw.choice(PLACES),
        day=draw.choice(DAYS),
      )
      if text not in seen:
        break
    seen.add(text)
    yield Order(text, str(number))


def has_form(order: str, split: str) -> bool:
  """Returns True if an order has a sentence form of a split."""
  gap = '.+'
  return any(
    re.fullmatch(
      re.sub(r'\\\{\w+\\\}', gap, re.escape(form)), order, re.IGNORECASE
    )
    for form in FORMS[split][0]
  )


class Orders(tfds.core.GeneratorBasedBuilder):
  """Builder of orders with the splits test, validation and labels."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      features=tfds.features.FeaturesDict(
        {
          'question': tfds.features.Text(),
          'answer': tfds.features.Text(),
        }
      ),
      license='Apache-2.0',
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> Mapping[str, Iterator[tuple[int, dict[str, Any]]]]:
    del dl_manager  # nothing is downloaded
    return {split: self._generate_examples(orders(split)) for split in FORMS}

  def _generate_examples(
    self, rows: Iterable[Order]
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for i, order in enumerate(rows):
      yield i, order._asdict()
