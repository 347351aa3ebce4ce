"""Votes on labeled questions are those that training would count."""

import dataclasses

import pytest

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.game import types, vote
from sqlm_jax.run import build, pilot_votes, train_states
from sqlm_jax.selfplay import background_grading, scoring
from tests.selfplay import test_step


def make_parts(**changes) -> build.Parts:
  c = smoke.get_config()
  c.update_from_flattened_dict(
    {
      'mesh.data': 1,
      'random_model.num_layers': 1,
      'task.test': (),
      'task.validation': (),
      'task.solver_stop': ('\n',),
      'task.answer_pattern': '',
      'proposer.num_questions': 2,
      'proposer.group_size': 2,
      'solver.group_size': 4,
      **changes,
    }
  )
  return build.build(config_lib.from_dict(c.to_dict()))


@pytest.fixture(scope='module')
def played():
  """Returns a game whose solver gives scripted answers, and its states.

  Three questions make two batches; the answers are those of the first batch.
  """
  parts = make_parts(**{'exclude.patterns': (('bad', 'bad'),)})
  game = build.make_game(parts)
  answers = [['3\n', '3\n', '4\n', '9\n'], ['5\n', 'bad 5\n', 'x\n', '5\n']]
  sampler = test_step.scripted_sampler(
    game.samplers['solver']._replace(slots=6), answers, []
  )

  def sample(*args, **kwargs):
    settings = args[3]
    if len(settings.temperature) == 4:
      return sampler.sample_tokens(*args, **kwargs)
    greedy = [[group[0]] for group in answers[: len(args[1].tokens)]]
    return test_step.scripted_sampler(sampler, greedy, []).sample_tokens(
      *args, **kwargs
    )

  samplers = game.samplers | {'solver': sampler._replace(sample_tokens=sample)}
  return game._replace(samplers=samplers), train_states.initial_states(parts)


def test_votes_on_labeled_questions(played):
  game, states = played
  examples = [
    types.Example('1 + 2', '3'),
    types.Example('2 + 3', '5'),
    types.Example('2 + 2', '4'),
  ]
  first, second, third = pilot_votes.vote_on(examples, states, game)
  # Two of four answers are 3.
  assert first == ('3', 0.5, True, True, 0.5)
  # The excluded answer does not vote: two of three answers are 5.
  assert second.agreement == pytest.approx(2 / 3)
  assert (second.vote_is_right, second.greedy_is_right) == (True, True)
  # The next batch gets the first answers again: 3, 3, 4 and 9.
  assert third == ('4', 0.5, False, False, 0.25)


def test_shuffled_options_are_compared_with_the_label():
  parts = make_parts(
    **{
      'task.answer_kind': 'choice',
      'task.options': ('odd', 'even'),
      'task.shuffle_options': True,
      'task.solver_prompt': 'A {text_A} B {text_B}: {question} ',
    }
  )
  game, answers = build.make_game(parts), [['A\n', 'x\n'], ['A\n', 'A\n']]
  sampler = game.samplers['solver']._replace(slots=6)

  def sample(*args, **kwargs):
    is_group = len(args[3].temperature) > 1
    scripted = answers if is_group else [['B\n']]
    return test_step.scripted_sampler(sampler, scripted, []).sample_tokens(
      *args, **kwargs
    )

  samplers = game.samplers | {'solver': sampler._replace(sample_tokens=sample)}
  (found,) = pilot_votes.vote_on(
    [types.Example('2 + 2', 'B')],
    train_states.initial_states(parts),
    game._replace(samplers=samplers),
  )
  # The second prompt shows even as A, so two of four answers are right.
  assert found == ('B', 0.5, True, True, 0.5)


@pytest.mark.parametrize(
  'changes, answers, excluded, expected',
  [
    ({}, (3, 3, 4, None), (), (0, 0.5)),
    ({}, (4, 3, 3, None), (), (1, 0.5)),
    ({}, (3, 4, None, None), (), (None, 0.0)),
    ({'ties': 'first'}, (4, 3, 3, 4), (), (0, 0.5)),
    ({}, (None, 3, 4, 4), ('bad', '', '', ''), (2, 2 / 3)),
    # The minimum agreement does not apply; its effect is computed later.
    ({'min_agreement': 0.9}, (3, 3, 4, None), (), (0, 0.5)),
    # Weights 0.1, 0.1, 0.5 and 0.3.
    ({'weights': 'likelihood'}, (3, 3, 4, 4), (), (2, 0.8)),
  ],
)
def test_votes_are_counted_as_in_training(
  played, changes, answers, excluded, expected
):
  config = config_lib.Config()
  vote_config = dataclasses.replace(config.vote, **changes)
  game = played[0]._replace(
    config=dataclasses.replace(config, vote=vote_config)
  )
  graded = background_grading.GradedAnswers(answers, excluded=excluded)
  counted = pilot_votes.count_votes(
    scoring.Answers(graded, [0.1, 0.1, 0.5, 0.3], 4), game
  )
  assert counted == (expected[0], pytest.approx(expected[1]))


def test_the_share_of_a_vote_is_what_the_threshold_is_compared_with():
  answers, weights = (3, 3, 4, 4, None), (0.1, 0.1, 0.5, 0.3, 1.0)
  share = vote.share(answers, 4, weights=weights)
  assert share == pytest.approx(0.4)
  for min_agreement, winner in ((share, 4), (share + 0.01, None)):
    result = vote.majority(
      answers, weights=weights, min_agreement=min_agreement
    )
    assert result.answer == winner


def test_a_labeled_question_may_be_too_long(played):
  game, states = played
  with pytest.raises(ValueError, match=r'max_prompt_tokens=.*too small'):
    pilot_votes.vote_on([types.Example('1' * 9999, '3')], states, game)
