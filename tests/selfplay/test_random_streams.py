"""The numbers of the random streams, which determine the samples of a run."""

from sqlm_jax.selfplay import random_streams

Stream = random_streams.Stream


def test_the_numbers_of_the_streams_stay():
  """A resumed run continues with the keys of the version that started it."""
  assert {stream.name: stream.value for stream in Stream} == {
    'PROPOSER': 0,
    'SOLVER': 1,
    'EVALUATION': 2,
    'INTERACTIVE': 3,
    'VOTER': 4,
    'PROBE': 5,
    'ANCHOR': 6,
  }
  assert random_streams.key_path(7, 5, Stream.VOTER) == (7, 5, 4)
  assert random_streams.key_path(7, 5, Stream.SOLVER, round_index=2) == (
    7,
    5,
    17,
  )


def test_no_two_streams_share_a_key_path():
  paths = [
    random_streams.key_path(0, 0, stream, round_index=round_index)
    for stream in Stream
    for round_index in range(3)
  ]
  assert len(set(paths)) == len(paths)


def test_coins_differ_by_question_and_repeat():
  first, again, other = (
    random_streams.coin(0, 0, round_index=0, question=question).random()
    for question in (1, 1, 2)
  )
  assert first == again != other
