import pytest

from sqlm_jax.game import question_kinds


@pytest.mark.parametrize(
  'question, kinds',
  [
    ('7 + 4', {'7', '4', '7 +', '+ 4'}),
    ('What is 12?', {'12', 'what is', 'is 12', '12 ?'}),
    ('Why', {'why'}),
    ('', set()),
  ],
)
def test_kinds_of_words(question, kinds):
  assert question_kinds.of_words(question) == kinds


def test_rare_kinds_count_more():
  # Kind a: 3 earlier questions, b: 1, so 2 on average.
  earlier = [{'a', 'b'}, {'a'}, {'a'}, set()]
  asked = [{'a'}, {'b'}, {'a', 'b'}, {'c'}, {'a', 'c'}, set()]
  a, b = 1 / (1 + 3 / 2), 1 / (1 + 1 / 2)
  assert question_kinds.rarities(asked, earlier) == pytest.approx(
    [a, b, (a + b) / 2, 1, (a + 1) / 2, 0]
  )
  # Kinds that are asked equally often, however often, count 1/2.
  even = [{'a', 'b'}] * 7
  assert question_kinds.rarities([{'a'}, {'b'}], even) == (0.5, 0.5)
  assert question_kinds.rarities([{'a'}, set()], []) == (1.0, 0.0)


def test_coverage_is_the_share_of_seen_kinds():
  kinds = question_kinds.Kinds(limit=4)
  assert kinds.coverage({'a'}) is None
  kinds = kinds.add({'a', 'b'})
  assert kinds.coverage({'a', 'b', 'c'}) == 1.0
  kinds = kinds.add({'c'})
  assert kinds.coverage({'a'}) == pytest.approx(1 / 3)
  # The fourth fits; a fifth is not remembered, and those seen stay.
  kinds = kinds.add({'e', 'd'})
  assert kinds.seen == {'a', 'b', 'c', 'd'}
  assert kinds.add({'f'}) == kinds
  assert kinds.coverage({'e', 'f'}) == 0.0
