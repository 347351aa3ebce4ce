"""Orders: their quantities, and the sentence forms of the splits."""

import pytest

from sqlm_jax.datasets import orders


@pytest.mark.parametrize('split', orders.FORMS)
def test_quantities(split):
  """The function that reads quantities agrees with the generator."""
  rows = list(orders.orders(split))
  assert rows == list(orders.orders(split))
  for question, answer in rows:
    assert orders.quantity(question) == answer
    # The labels are digits, and the questions contain none.
    assert 2 <= int(answer) <= 99
    assert not any(character.isdigit() for character in question)


@pytest.mark.parametrize('split', orders.FORMS)
def test_no_sentence_form_is_in_two_splits(split):
  for other in orders.FORMS:
    for question, _ in orders.orders(other):
      assert orders.has_form(question, split) == (other == split), question


@pytest.mark.parametrize(
  'number, words',
  [(2, 'two'), (13, 'thirteen'), (20, 'twenty'), (74, 'seventy-four')],
)
def test_numbers_in_words(number, words):
  assert orders.in_words(number) == words


@pytest.mark.parametrize(
  'order, expected',
  [
    ('Please bring Sixty-four sacks.', '64'),
    ('Please bring sixty four sacks.', '64'),
    ('Please bring sixty, four times.', None),
    ('Fourteen of them.', '14'),
    ('Someone should bring tenders and weights.', None),
    ('Bring twenty or thirty sacks.', None),
    ('Bring twenty sacks of 5 pounds.', None),
    ('Bring two hundred sacks.', None),
    ('Bring two dozen sacks.', None),
    ('Bring two and a half sacks.', None),
    ('', None),
  ],
)
def test_reading_a_quantity(order, expected):
  assert orders.quantity(order) == expected
