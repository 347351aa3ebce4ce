"""A step of self-play: first with scripted texts, then with a real model."""

import collections
import functools
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import config_dict

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.engine import groups, learner
from sqlm_jax.game import repetition, types
from sqlm_jax.models import lora
from sqlm_jax.run import build, train_states
from sqlm_jax.selfplay import (
  background_grading,
  kinds,
  prefetch,
  proposing,
  step_types,
)
from sqlm_jax.selfplay import step as step_lib
from sqlm_jax.workdir import rollout_rows

needs_bubblewrap = pytest.mark.skipif(
  shutil.which('bwrap') is None, reason='needs bubblewrap'
)
CHANGES = {
  'mesh.data': 1,
  'random_model.num_layers': 1,
  'task.topics': ('a', 'b'),
  'task.proposer_prompt': 'Ask {topic}: ',
  'task.proposer_stop': ('\n',),
  'task.question_pattern': r'^\d \+ \d$',
  'task.solver_prompt': '{question} = ',
  'task.solver_stop': ('\n',),
  'task.answer_pattern': '',
  'task.checker': 'arithmetic',
  'proposer.num_questions': 4,
  'proposer.group_size': 2,
  'proposer.train_every': 2,
  'proposer.max_tokens': 8,
  'solver.group_size': 4,
  'solver.max_tokens': 4,
  'loss.kl_coef': 0.0,
  'optimizer.solver_updates': 1,
  'optimizer.learning_rate': 0.003,
}
# Four questions: readable, no question, readable, and one that was cut off.
PROPOSALS = [['1 + 1\n', 'why?\n'], ['2 + 2\n', '3 + 3']]
# Three of four answers agree, then all. Each answer is a digit and a stop, so
# there are 16 tokens.
SOLUTIONS = [['2\n', '2\n', '2\n', '3\n'], ['4\n'] * 4]
EMPTY = repetition.Memory()
UNREADABLE = [['why?\n', 'why?\n'], ['what?\n', '3 + 3']]


@functools.cache
def make_parts(**changes) -> build.Parts:
  config = config_lib.from_dict(smoke.get_config())
  return build.build(change(config, CHANGES | changes))


def change(config: config_lib.Config, changes) -> config_lib.Config:
  """Returns a config with other values of some keys."""
  c = config_dict.ConfigDict(config_lib.to_dict(config))
  c.update_from_flattened_dict(changes)
  return config_lib.from_dict(c)


def scripted_sampler(sampler, texts, seen):
  """Returns `texts` as samples; a text without a stop was cut off."""

  def sample(params, prompts, keys, settings, slots, num_prompts, on_ended):
    del keys
    seen.append(params)
    shape = (len(prompts.tokens), len(settings.temperature), slots)
    tokens = np.zeros(shape, np.int32)
    lengths = np.ones(shape[:2], np.int32)
    finished = np.ones(shape[:2], bool)
    for q, group in enumerate(texts):
      for g, text in enumerate(group):
        ids = list(text.encode())
        tokens[q, g, : len(ids)] = ids
        lengths[q, g] = len(ids)
        finished[q, g] = text.endswith(('\n', 'END'))
    for q in range(num_prompts):  # one after the other
      on_ended(np.array([q]), tokens[q : q + 1], lengths[q : q + 1])
    # As for the random model, all 257 tokens are about equally likely.
    logprobs = np.full(shape, -np.log(257), np.float32)
    return groups.Rollout(tokens, logprobs, logprobs, lengths, finished)

  return sampler._replace(sample_tokens=sample)


class Script:
  """A game with scripted texts that records what is sampled and learned."""

  def __init__(
    self, proposals, solutions=(), votes=(), *, metric=1.0, **changes
  ):
    self.parts = make_parts(**changes)
    self.used = {role: [] for role in ('proposer', 'solver', 'voter')}
    self.learned = []  # (name of the state, batch)
    self.kl_batches = []  # one per update
    game = build.make_game(self.parts)
    texts = {'proposer': proposals, 'solver': solutions, 'voter': votes}

    def train_step(state, batch, reference, base, kl_batch, *others):
      del reference, base, others
      self.learned.append((state, batch))
      self.kl_batches.append(kl_batch)
      metrics = {'loss': (metric, 1.0), 'logprob_gap': (0.0, 1.0)}
      return Name(f'{state}+'), metrics

    self.game = game._replace(
      train_step=train_step,
      samplers={
        role: scripted_sampler(game.samplers[role], texts[role], used)
        for role, used in self.used.items()
        if role in game.samplers
      },
    )

  def states(self):
    """Returns a state for each name, which stands for its parameters."""
    names = set(self.parts.state_names.values())
    if self.game.critic:
      names |= {step_types.critic_of(name) for name in names}
    return {name: Name(name) for name in names}

  def play(
    self,
    step=0,
    memory=EMPTY,
    first_round=None,
    *,
    keep_neutral=False,
    **changes,
  ):
    """Plays with a changed config; returns the states and the outcome."""
    game = self.game._replace(
      config=change(self.game.config, changes), keep_neutral=keep_neutral
    )
    states, self.memory, outcome = step_lib.self_play_step(
      step, self.states(), memory, game, first_round
    )
    return states, outcome


class Name(str):
  """Stands for a train state in a script."""

  __slots__ = ()
  step = 0

  @property
  def params(self):
    return str(self)


def assert_finite(metrics):
  assert all(np.isfinite(value) for value in metrics.values()), metrics


def test_a_step_in_numbers():
  _, outcome = Script(PROPOSALS, SOLUTIONS).play()
  assert [q.problem for q in outcome.rounds[0].questions] == [
    types.Problem('1 + 1'),
    types.Problem('why?', ok=False, reason='format'),
    types.Problem('2 + 2'),
    types.Problem('3 + 3', ok=False, reason='unfinished'),
  ]
  # 3 of 4: neither too easy nor too hard. 4 of 4: too easy.
  rewards = [q.proposer_reward for q in outcome.rounds[0].questions]
  assert rewards == [1.0, -1.0, 0.0, -1.0]
  rewards = [q.solver_rewards for q in outcome.rounds[0].questions]
  assert rewards == [(1, 1, 1, 0), (), (1, 1, 1, 1), ()]
  found = {
    key: value
    for key, value in outcome.metrics.items()
    if not key.startswith('time/')
  }
  assert found == {
    'proposer/valid_rate': 2 / 4,
    'proposer/reward': (1 - 1 + 0 - 1) / 4,
    'proposer/distinct_rate': 1.0,
    'gate/format': 1.0,
    'gate/unfinished': 1.0,
    'proposer/contaminated_rate': 1.0,  # 1 + 1 and 2 + 2 are evaluated on
    'solver/reward': 7 / 8,
    'solver/unparsed_rate': 0.0,
    'vote/majority_rate': 1.0,
    'vote/agreement': (3 / 4 + 1) / 2,
    'vote/unanimous_rate': 1 / 2,
    'vote/accuracy': 1.0,
    'vote/num_checked': 2.0,
    # Shares 3/4 and 1/4, and 1.
    'vote/entropy': pytest.approx((math.log(4) - 0.75 * math.log(3)) / 2),
    'vote/margin': (1 / 2 + 1) / 2,
    'solver/answer_share_max': 1 / 2,  # of 4: none of 1 + 1, all of 2 + 2
    'proposer/band_rate': 1 / 2,
    'proposer/wasted_rate': 1 / 2,
    'proposer/leak_rate': 0.0,
    # Every token has probability 1 / 257, up to float32 rounding.
    'sample/proposer/surprisal': pytest.approx(math.log(257), rel=1e-6),
    'sample/solver/surprisal': pytest.approx(math.log(257), rel=1e-6),
    'sample/proposer/tokens': (6 + 5 + 6 + 5) / 4,
    'sample/proposer/finished_rate': 3 / 4,
    'sample/solver/tokens': 2.0,  # padding rows do not count
    'sample/solver/finished_rate': 1.0,
    'sample/solver/logprob_gap': 0.0,
    'train/solver/updates': 1.0,
    'train/solver/loss': 1.0,
  }
  assert {'time/propose', 'time/solve', 'time/grade', 'time/learn'} < set(
    outcome.metrics
  )


def test_questions_of_an_evaluation_set_are_excluded():
  """Neither role learns from 1 + 1, and it has no reward."""
  changes = {
    'evaluation.contaminated': 'exclude',
    'task.test': (('1 + 1', '2'),),
    'task.validation': (('What is 5+5?', '10'),),
  }
  # Only 2 + 2 is answered, and its answers differ.
  script = Script(PROPOSALS, SOLUTIONS[:1], **changes)
  _, outcome = script.play(
    **{'advantage.estimator': 'dr_grpo', 'proposer.train_every': 1}
  )
  first, *_ = outcome.rounds[0].questions
  assert first == types.ScoredQuestion(
    types.refuse(types.Problem('1 + 1'), 'contaminated', reward='nothing'),
    proposer_reward=None,
  )
  assert outcome.metrics['proposer/contaminated_rate'] == 1 / 2
  assert outcome.metrics['gate/contaminated'] == 1
  # The rewards of the other three are -1, 1, -1.
  assert outcome.metrics['proposer/reward'] == pytest.approx(-1 / 3)
  _, (_, batch) = script.learned  # the solver's update, then the proposer's
  # The other question of its group cannot be compared with any question. So one
  # group is left, and the average is over 5, 6 and 5 tokens.
  assert batch.num_groups == 1
  np.testing.assert_allclose(batch.weights[0], 1 / 16, rtol=1e-6)
  assert batch.advantages[0].tolist() == [[1], [-1]]
  assert not np.any(np.asarray(batch.weights)[1:])


def test_the_solver_learns_from_the_group_that_disagrees():
  script = Script(PROPOSALS, SOLUTIONS)
  states, outcome = script.play(**{'advantage.estimator': 'dr_grpo'})
  assert states == {'policy': 'policy+'}
  assert outcome.trained == ('solver',)
  ((_, batch),) = script.learned
  assert batch.num_groups == 1
  # Rewards 1, 1, 1, 0 minus their mean 3/4. Three equal answers become one row.
  assert batch.advantages[0, :, 0].tolist() == [0.25, 0.25, 0.25, -0.75]
  assert batch.counts[0].tolist() == [3, 0, 0, 1]
  # The group that agrees counts in the average: 8 responses of 2 tokens.
  weights = [3 / 16, 0, 0, 1 / 16]
  np.testing.assert_allclose(batch.weights[0], weights, rtol=1e-6)
  assert not np.any(np.asarray(batch.weights)[1:])


def test_with_a_kl_penalty_a_unanimous_group_is_trained_on():
  script = Script(PROPOSALS, SOLUTIONS)
  script.play(keep_neutral=True)
  ((_, batch),) = script.learned
  assert batch.num_groups == 2


@pytest.mark.parametrize(
  'shared, proposers, solvers, solver_after',
  [
    (True, 'policy_critic', 'policy_critic', 'policy_critic++'),
    (False, 'proposer_critic', 'solver_critic', 'solver_critic+'),
  ],
)
def test_values_are_computed_before_any_update(
  shared, proposers, solvers, solver_after
):
  """Each policy has a critic, which learns from the batches of the policy."""
  script = Script(PROPOSALS, SOLUTIONS, **{'policy.shared': shared})
  read, learned = [], []

  def values(texts, params, base):
    del base
    read.append((params, int(texts.num_groups)))
    return np.full(texts.tokens.shape, 0.5, np.float32)

  def update(state, batch, base):
    del base
    learned.append(batch)
    return Name(f'{state}+'), {'loss': (3.0, 1.0)}

  critic = step_types.Critic(values, update, None)
  script.game = script.game._replace(critic=critic)
  states, outcome = script.play(1, keep_neutral=True)
  # There were two readable questions and two topics.
  assert read == [(solvers, 2), (proposers, 2)]
  assert states[solvers] == solver_after
  assert [batch for _, batch in script.learned] == learned
  assert outcome.metrics['critic/solver/loss'] == 3
  solver, proposer = learned
  # The solver also learns from the question whose answers are all equal.
  assert solver.num_groups == 2
  assert solver.value_targets[0, :, :2].tolist() == [[1, 1]] * 3 + [[0, 0]]
  assert solver.value_targets[1, :, :2].tolist() == [[1, 1]] * 4
  # Rewards minus 1/2 for 16 tokens: 14 times 1/2, twice -1/2; mean 3/8, and the
  # unbiased variance is (14/64 + 2 49/64) / 15 = 7/60.
  above, below = 1 / 8 / np.sqrt(7 / 60), -7 / 8 / np.sqrt(7 / 60)
  np.testing.assert_allclose(
    solver.advantages[0, :, :2],
    [[above, above]] * 3 + [[below, below]],
    rtol=1e-4,
  )
  assert proposer.advantages.shape[-1] == proposer.tokens.shape[-1]


def test_the_kl_of_an_update_is_bounded_for_both_roles():
  changes = {'optimizer.max_update_kl': 0.1, 'proposer.train_every': 1}
  script = Script(PROPOSALS, SOLUTIONS, **changes)
  script.play()
  (_, solver_batch), (_, proposer_batch) = script.learned
  for kl_batch, other in zip(
    script.kl_batches, (proposer_batch, solver_batch), strict=True
  ):
    np.testing.assert_array_equal(kl_batch.tokens, other.tokens)


@pytest.mark.parametrize(
  'changes', [{'optimizer.max_update_kl': 0.0}, {'policy.shared': False}]
)
def test_a_role_of_its_own_weights_or_without_a_bound_has_no_kl_batch(changes):
  changes = {
    'optimizer.max_update_kl': 0.1,
    'proposer.train_every': 1,
  } | changes
  script = Script(PROPOSALS, SOLUTIONS, **changes)
  script.play()
  assert script.kl_batches == [None, None]


def test_the_proposer_learns_in_every_kth_step():
  trained = [
    Script(PROPOSALS, SOLUTIONS)
    .play(step, **{'proposer.train_every': 3})[1]
    .trained
    for step in range(6)
  ]
  both, one = ('solver', 'proposer'), ('solver',)
  assert trained == [one, one, both, one, one, both]
  never = Script(PROPOSALS, SOLUTIONS).play(5, **{'proposer.train_every': 0})
  assert never[1].trained == one


def test_grading_in_the_background_changes_nothing():
  script = Script(PROPOSALS, SOLUTIONS)
  _, outcome = script.play()
  readable = step_types.readable_questions(outcome.rounds)
  expected = background_grading.grade_answers(
    [q.problem for q in readable], SOLUTIONS, script.game.task
  )
  assert [q.answers for q in readable] == [g.answers for g in expected]
  assert readable[0].answers == (2, 2, 2, 3)


def test_likelihoods_can_weight_the_votes():
  """Two likely answers outweigh two unlikely ones; otherwise there is a tie."""
  script = Script(PROPOSALS, [['7\n', '7\n', '8\n', '8\n']] * 4)
  sample = script.game.samplers['solver'].sample_tokens

  def likelier(*args, **kwargs):
    rollout = sample(*args, **kwargs)
    logprobs = np.array(rollout.logprobs)
    logprobs[:, 2:] = -0.1
    return rollout._replace(logprobs=logprobs)

  samplers = dict(script.game.samplers)
  samplers['solver'] = samplers['solver']._replace(sample_tokens=likelier)
  script.game = script.game._replace(samplers=samplers)
  equal = script.play(**{'vote.weights': 'equal'})[1].rounds[0].questions[0]
  assert equal.vote.reason == 'tie'
  weighed = (
    script.play(**{'vote.weights': 'likelihood'})[1].rounds[0].questions[0]
  )
  assert (weighed.vote.answer, weighed.vote.count) == (8, 2)
  assert weighed.solver_rewards == (0, 0, 1, 1)


def test_the_control_is_rewarded_by_the_checker():
  script = Script(PROPOSALS, [['2\n', '7\n', '7\n', '7\n']] * 4)
  question = (
    script.play(**{'solver.rewards.majority': 0.0, 'solver.rewards.true': 1.0})[
      1
    ]
    .rounds[0]
    .questions[0]
  )
  assert question.problem.text == '1 + 1'
  assert question.vote.answer == 7
  assert question.solver_rewards == (1, 0, 0, 0)


def test_the_r_zero_reward_of_the_proposer():
  questions = (
    Script(PROPOSALS, SOLUTIONS)
    .play(**{'proposer.rewards.sqlm': 0.0, 'proposer.rewards.r_zero': 1.0})[1]
    .rounds[0]
    .questions
  )
  # 3 of 4 agree, unreadable, all agree, unreadable.
  assert [q.proposer_reward for q in questions] == [0.5, -1, 0, -1]


def test_the_proposers_questions_are_compared_within_a_topic():
  script = Script(PROPOSALS, SOLUTIONS)
  script.play(1, **{'advantage.estimator': 'dr_grpo'})
  _, batch = script.learned[1]
  # Rewards 1, -1 of topic a and 0, -1 of topic b.
  expected = [[1, -1], [0.5, -0.5]]
  np.testing.assert_array_equal(batch.advantages[:2, :, 0], expected)
  assert batch.num_groups == 2


@pytest.mark.parametrize('keep_neutral', [False, True])
@pytest.mark.parametrize('step', [0, 1])
def test_a_step_without_a_readable_question(step, keep_neutral):
  script = Script(UNREADABLE)
  _, outcome = script.play(step, keep_neutral=keep_neutral)
  assert outcome.rounds[0].solutions is None
  assert not script.used['solver']
  assert 'solver' not in outcome.trained
  assert [q.proposer_reward for q in outcome.rounds[0].questions] == [-1.0] * 4
  assert_finite(outcome.metrics)
  assert outcome.metrics['proposer/valid_rate'] == 0
  assert outcome.metrics['gate/format'] == 3
  assert outcome.metrics['gate/unfinished'] == 1
  assert not {'solver/reward', 'vote/agreement'} & set(outcome.metrics)
  # All rewards are equal. Without a KL penalty, the proposer has nothing to
  # learn, and the number of its updates is 0.
  if step == 1 and not keep_neutral:
    assert outcome.metrics['train/proposer/updates'] == 0
    assert not script.learned
  if step == 0:
    assert not script.learned


def test_an_unreadable_question_never_trains_the_solver():
  """Two of four proposals are in the solver's batch; other rows are padding."""
  script = Script(PROPOSALS, SOLUTIONS)
  script.play(keep_neutral=True)  # as with a KL penalty
  ((_, batch),) = script.learned
  assert int(batch.num_groups) == 2
  width = len('1 + 1 = ')
  rows = np.asarray(batch.prompts.tokens)[:2, :width].astype(np.uint8)
  assert [row.tobytes() for row in rows] == [b'1 + 1 = ', b'2 + 2 = ']
  assert not np.any(np.asarray(batch.weights)[2:])


@pytest.mark.parametrize(
  'answers, reason, blanks',
  [
    (['x\n'] * 4, 'unparsed', 1.0),
    (['\n'] * 4, 'unparsed', 1.0),
    (['1\n', '2\n', '3\n', '4\n'], 'singleton', 0.0),
    (['1\n', '1\n', '2\n', '2\n'], 'tie', 0.0),
    (['1\n', 'x\n', '\n', '?\n'], 'singleton', 0.75),
  ],
)
def test_a_vote_without_a_majority(answers, reason, blanks):
  script = Script(PROPOSALS, [answers, answers])
  states, outcome = script.play()
  assert states == {'policy': 'policy'}
  assert outcome.trained == ()
  metrics = outcome.metrics
  assert_finite(metrics)
  assert metrics['solver/unparsed_rate'] == blanks
  assert metrics['solver/reward'] == 0
  assert metrics['vote/majority_rate'] == 0
  assert metrics[f'vote/no_majority/{reason}'] == 2
  assert metrics['train/solver/updates'] == 0
  # Means over no values are left out.
  assert 'vote/agreement' not in metrics
  assert 'vote/accuracy' not in metrics
  assert [q.proposer_reward for q in outcome.rounds[0].questions] == [
    0,
    -1,
    0,
    -1,
  ]


def test_min_agreement():
  _, outcome = Script(PROPOSALS, SOLUTIONS).play(**{'vote.min_agreement': 0.8})
  assert outcome.metrics['vote/no_majority/disagreement'] == 1
  assert outcome.metrics['vote/majority_rate'] == 1 / 2


def test_answers_that_mean_the_same_are_one_vote():
  _, outcome = Script(PROPOSALS, [['2\n', '02\n', '2.0\n', '3\n']] * 2).play()
  votes = [q.vote for q in outcome.rounds[0].questions if q.vote]
  assert votes == [types.Vote(2, 3, 4)] * 2
  # 2 + 2 is not 2, which affects the metric but not the rewards.
  assert outcome.metrics['vote/accuracy'] == 1 / 2
  assert outcome.metrics['solver/reward'] == 3 / 4


def test_a_question_over_the_limit_is_unreadable():
  # '1 + 1 = ' has 8 tokens, one more than the limit.
  script = Script(PROPOSALS, **{'sampler.max_prompt_tokens': 7})
  _, outcome = script.play()
  assert outcome.rounds[0].solutions is None
  assert outcome.metrics['gate/too_long'] == 2
  assert [q.proposer_reward for q in outcome.rounds[0].questions] == [-1.0] * 4
  fits = Script(PROPOSALS, SOLUTIONS, **{'sampler.max_prompt_tokens': 8})
  assert 'gate/too_long' not in fits.play()[1].metrics


def test_the_format_control_rewards_every_readable_answer():
  answers = ['1\n', 'x\n', '2\n', '2\n']
  _, outcome = Script(PROPOSALS, [answers] * 2).play(
    **{'solver.rewards.majority': 0.0, 'solver.rewards.format': 1.0}
  )
  assert outcome.rounds[0].questions[0].solver_rewards == (1, 0, 1, 1)


def test_the_random_control_does_not_look_at_answers():
  def rewards(step, solutions, seed=0):
    script = Script(PROPOSALS, solutions)
    _, outcome = script.play(
      step,
      **{
        'solver.rewards.majority': 0.0,
        'solver.rewards.random': 1.0,
        'seed': seed,
      },
    )
    return [q.solver_rewards for q in outcome.rounds[0].questions]

  first = rewards(0, SOLUTIONS)
  assert {r for group in first for r in group} == {0.0, 1.0}
  assert rewards(0, [['x\n'] * 4] * 2) == first
  assert rewards(0, SOLUTIONS) == first
  assert any(rewards(step, SOLUTIONS) != first for step in range(1, 4))
  assert any(rewards(0, SOLUTIONS, seed) != first for seed in range(1, 4))


def test_two_policies_are_trained_by_their_own_role():
  script = Script(PROPOSALS, SOLUTIONS, **{'policy.shared': False})
  states, _ = script.play(0)
  assert states == {'proposer': 'proposer', 'solver': 'solver+'}
  states, _ = script.play(1)
  assert states == {'proposer': 'proposer+', 'solver': 'solver+'}
  assert set(script.used['proposer']) == {'proposer'}
  assert set(script.used['solver']) == {'solver'}


def test_one_policy_is_trained_by_both_roles():
  script = Script(PROPOSALS, SOLUTIONS)
  states, outcome = script.play(1)
  assert states == {'policy': 'policy++'}
  # Only before the first update are the weights those that sampled.
  assert 'sample/solver/logprob_gap' in outcome.metrics
  assert 'sample/proposer/logprob_gap' not in outcome.metrics


@pytest.mark.parametrize('bad', [float('inf'), float('nan')])
def test_a_metric_that_is_not_finite_is_counted_by_name(bad):
  script = Script(PROPOSALS, SOLUTIONS, metric=bad)
  _, outcome = script.play(7)
  assert 'train/solver/loss' not in outcome.metrics
  assert outcome.metrics['train/solver/not_finite/loss'] == 1


def test_two_policies_start_with_equal_states():
  parts = make_parts(**{'policy.shared': False})
  states = train_states.initial_states(parts)
  assert set(states) == {'proposer', 'solver'}
  jax.tree.map(
    np.testing.assert_array_equal, states['proposer'], states['solver']
  )
  # Training donates its state: no array may be in both.
  one, other = (jax.tree.leaves(state) for state in states.values())
  assert not {id(x) for x in one} & {id(x) for x in other}


def test_a_reference_policy_is_loaded_only_for_a_kl_penalty():
  assert build.make_game(make_parts()).initial_params is None
  with_kl = make_parts(**{'loss.kl_coef': 0.01})
  reference = build.make_game(with_kl).initial_params
  expected = with_kl.load_params('float32')
  jax.tree.map(np.testing.assert_array_equal, reference, expected)


def test_with_adapters_the_reference_policy_is_the_base():
  parts = make_parts(**{'loss.kl_coef': 0.01, 'model.lora.rank': 2})
  game = build.make_game(parts)
  assert game.initial_params is game.base_params
  whole = jax.eval_shape(parts.policy.init, jax.random.key(0))
  assert jax.tree.structure(game.base_params) == jax.tree.structure(
    lora.base(whole)
  )


def test_two_policies_of_adapters_share_one_base():
  parts = make_parts(**{'policy.shared': False, 'model.lora.rank': 2})
  states = train_states.initial_states(parts)
  one, other = (states[role].params for role in ('proposer', 'solver'))

  def kernel(tree):
    return tree['layers']['mlp']['up']

  assert kernel(one).keys() == {'lora_a', 'lora_b'}
  assert not np.array_equal(kernel(one)['lora_a'], kernel(other)['lora_a'])
  assert not np.any(kernel(one)['lora_b'])
  game = build.make_game(parts)
  for role in states:
    whole = step_types.params_of(role, states, game)
    assert whole['embedding'] is game.base_params['embedding']
    assert kernel(whole)['lora_a'] is kernel(states[role].params)['lora_a']


def test_a_reward_schedule_applies_to_its_steps():
  schedule = (('r_zero', 0, 0.0), ('r_zero', 2, 1.0))
  rewards = [
    Script(PROPOSALS, SOLUTIONS)
    .play(step, **{'proposer.reward_schedule': schedule})[1]
    .rounds[0]
    .questions[0]
    .proposer_reward
    for step in range(4)
  ]
  # 3 of 4 agree: 1 by the paper, and 1 - 2 (3/4 - 1/2) by R-Zero.
  assert rewards == [1, 1.25, 1.5, 1.5]


def test_a_repeated_question_is_worth_less():
  same = [['1 + 1\n', '1 + 1\n'], ['2 + 2\n', '3 + 3']]
  answers = [['2\n', '2\n', '2\n', '3\n']] * 4
  script = Script(same, answers)
  _, outcome = script.play(**{'proposer.rewards.batch_repeats': 1.0})
  # Two of three readable questions are alike: each resembles 1 of 2 others.
  found = [q.proposer_reward for q in outcome.rounds[0].questions]
  assert found == [0.5, 0.5, 1, -1]


def test_a_question_of_a_rare_kind_is_worth_more():
  asked = []

  def skill(question):
    asked.append(question)
    return 'sum of 1' if '1' in question else 'other'

  script = Script(PROPOSALS, SOLUTIONS)
  script.game = script.game._replace(kinds_of=kinds.KindsOf(skill))
  changes = {'proposer.rewards.coverage': 0.5}
  # Of four earlier questions, three have a 1; so two have a kind on average.
  memory = repetition.Memory(10, ('1 + 3', '1 + 4', '1 + 3', '5 + 5'))
  _, outcome = script.play(memory=memory, **changes)
  found = [q.proposer_reward for q in outcome.rounds[0].questions]
  rare, common = 1 / (1 + 1 / 2), 1 / (1 + 3 / 2)
  assert found == pytest.approx([1 + 0.5 * common, -1, 0.5 * rare, -1])
  assert asked == ['1 + 1', '2 + 2', '1 + 3', '1 + 4', '5 + 5']
  _, outcome = script.play(1, script.memory, **changes)
  assert len(asked) == 5  # the function is called once per question


def test_earlier_questions_are_asked_again():
  answers = [*SOLUTIONS, ['7\n', '7\n', '7\n', '8\n']]
  script = Script(PROPOSALS, answers, **{'solver.replay': 1})
  memory = repetition.Memory(20, ('3 + 4',) * 9)
  _, outcome = script.play(1, memory)
  *_, replayed = outcome.rounds[0].questions
  assert replayed.problem == types.Problem('3 + 4', replayed=True)
  assert replayed.vote == types.Vote(7, 3, 4)
  assert replayed.solver_rewards == (1, 1, 1, 0)
  metrics = outcome.metrics
  assert metrics['vote/agreement'] == (3 / 4 + 1) / 2  # of the new questions
  assert metrics['vote/replayed/agreement'] == 3 / 4
  assert metrics['vote/replayed/accuracy'] == 1
  assert metrics['vote/replayed/majority_rate'] == 1
  # It is not remembered as asked once more, and only the solver learns from it.
  assert script.memory.questions == (*memory.questions, '1 + 1', '2 + 2')
  (_, solver), (_, proposer) = script.learned
  assert int(solver.num_groups) == 2  # 2 + 2 has equal rewards
  assert proposer.advantages.shape[:2] == (2, 2)
  # Without earlier questions, or if the evaluation has it, there is none.
  _, first = script.play(1)
  assert len(first.rounds[0].questions) == 4


def test_each_earlier_question_is_asked_again_equally_often():
  """However often the proposer has asked it; the draws repeat after a crash."""
  script = Script(PROPOSALS, SOLUTIONS, **{'solver.replay': 2})
  memory = repetition.Memory(20, ('1 + 1',) * 9 + ('2 + 2', '3 + 3', '4 + 4'))
  drawn = [
    [
      problem.text
      for problem, _ in proposing._replayed_questions(step, memory, script.game)
    ]
    for step in [*range(400), 7]
  ]
  assert drawn[-1] == drawn[7]
  counts = collections.Counter(text for texts in drawn[:-1] for text in texts)
  # Each of four is one of the two with probability 1/2; the deviation is 10.
  assert all(abs(count - 200) < 40 for count in counts.values())
  assert counts.total() == 800
  assert all(len(set(texts)) == 2 for texts in drawn)


def test_a_question_of_an_earlier_step_is_worth_less():
  script = Script(PROPOSALS, SOLUTIONS)
  changes = {'proposer.rewards.history_repeats': 5.0}
  memory = repetition.Memory(size=2)
  _, first = script.play(memory=memory, **changes)
  assert script.memory.questions == ('1 + 1', '2 + 2')  # readable ones
  _, second = script.play(1, script.memory, **changes)
  found = [
    [q.proposer_reward for q in outcome.rounds[0].questions]
    for outcome in (first, second)
  ]
  assert found == [[1, -1, 0, -1], [-1, -1, -1, -1]]


def test_answers_to_variants_of_a_prompt_vote_together():
  variants = {'task.solver_variants': ('Compute {question}: ',)}
  # Two answers to each of two prompts of two questions.
  answers = [['2\n', '2\n'], ['2\n', '3\n'], ['4\n', '4\n'], ['5\n', '6\n']]
  script = Script(PROPOSALS, answers, **variants)
  _, outcome = script.play(**{'advantage.estimator': 'dr_grpo'})
  votes = [q.vote for q in outcome.rounds[0].questions if q.vote]
  assert votes == [types.Vote(2, 3, 4), types.Vote(4, 2, 4)]
  solutions = outcome.rounds[0].solutions
  assert [bytes(ids).decode() for ids in solutions.prompt_ids] == [
    '1 + 1 = ',
    'Compute 1 + 1: ',
    '2 + 2 = ',
    'Compute 2 + 2: ',
  ]
  ((_, batch),) = script.learned
  # Rewards 1, 1, 1, 0 less 3/4, and 1, 1, 0, 0 less 1/2.
  assert batch.advantages[:4, :, 0].tolist() == [
    [0.25, 0.25],
    [0.25, -0.75],
    [0.5, 0.5],
    [-0.5, -0.5],
  ]


def test_answers_to_shuffled_options_are_mapped_back_before_the_vote():
  task = {
    'task.answer_kind': 'choice',
    'task.options': ('odd', 'even'),
    'task.shuffle_options': True,
    'task.solver_prompt': 'A {text_A} B {text_B}: {question} ',
    'task.checker': 'none',
    'task.test': (),
    'task.validation': (),
    'vote.earlier_answers': 2,
    'exclude.patterns': (('bad', '!'),),
  }
  # In the second order, B is odd. Voters see the first order only.
  answers = [['B\n', 'A!\n'], ['A\n', 'A\n'], ['B\n', 'A\n'], ['B\n', 'B\n']]
  script = Script(PROPOSALS, answers, [['A\n', 'B\n']] * 2, **task)
  _, outcome = script.play()
  first, _, second, _ = outcome.rounds[0].questions
  assert first.answers == ('B', None, 'B', 'B')
  assert second.answers == ('B', 'A', 'A', 'A')
  assert first.vote == types.Vote('B', 4, 5)
  assert second.vote == types.Vote('A', 4, 6)
  assert first.solver_rewards == (1, None, 1, 1)
  shares = {
    name: value for name, value in outcome.metrics.items() if '_share/' in name
  }
  # Shown as A: one of 1 + 1, three of 2 + 2, with the voters' two.
  assert shares == {
    'vote/option_share/A': pytest.approx(5 / 11),
    'vote/option_share/B': pytest.approx(6 / 11),
    'vote/position_share/A': pytest.approx(5 / 11),
    'vote/position_share/B': pytest.approx(6 / 11),
  }


def test_extra_answers_vote_and_are_not_trained_on():
  changes = {'task.solver_variants': ('Compute {question}: ',)}
  answers = [['2\n', '2\n'], ['2\n', '3\n'], ['4\n', '3\n'], ['3\n', '4\n']]
  # 2 still wins the first vote. The second is no tie anymore.
  extra = ['3\n', '2\n', '4\n', 'x\n']
  more = [[*group, text] for group, text in zip(answers, extra, strict=True)]
  alone = Script(PROPOSALS, answers, **changes)
  script = Script(PROPOSALS, more, **changes | {'vote.extra_answers': 2})
  _, before = alone.play()
  _, outcome = script.play()
  first, _, second, _ = outcome.rounds[0].questions
  assert first.vote == types.Vote(2, 4, 6)
  assert first.solver_rewards == (1, 1, None, 1, 0, None)
  assert second.vote == types.Vote(4, 3, 6)
  assert second.solver_rewards == (1, 0, None, 0, 1, None)
  assert before.rounds[0].questions[2].solver_rewards == (0, 0, 0, 0)
  # The first question is learned from as if the others had not voted.
  (_, expected), (_, batch) = alone.learned[0], script.learned[0]
  for name in ('tokens', 'old_logprobs'):
    np.testing.assert_array_equal(
      getattr(batch, name)[:2], getattr(expected, name)[:2]
    )
  assert batch.tokens.shape == expected.tokens.shape
  advantages = outcome.advantages['solver'][:2]  # the others are padding
  assert np.isnan(advantages).tolist() == [[False, False, True] * 2] * 2
  np.testing.assert_array_equal(
    advantages[0, [0, 1, 3, 4]], before.advantages['solver'][0]
  )
  rows = rollout_rows.to_rows(outcome, seed=0, show=str)
  solver = [row for row in rows if row['role'] == 'solver']
  assert [row['trained_on'] for row in solver] == [True, True, False] * 4
  assert [row['reward'] for row in solver[:3]] == [1, 1, None]
  assert solver[2]['advantage'] is None


def test_one_variant_that_does_not_fit_makes_a_question_unreadable():
  variants = {
    'task.solver_variants': ('Compute {question}: ',),
    'sampler.max_prompt_tokens': 10,
  }
  _, outcome = Script(PROPOSALS, **variants).play()
  assert outcome.metrics['gate/too_long'] == 2


def test_an_earlier_solver_votes_and_is_not_rewarded():
  earlier = {'vote.earlier_answers': 3, 'vote.earlier_every': 2}
  script = Script(
    PROPOSALS,
    [['2\n', '2\n', '3\n', '3\n']] * 2,
    [['3\n', '3\n', 'x\n']] * 2,
    **earlier,
  )
  states, outcome = script.play()
  question = outcome.rounds[0].questions[0]
  # 2 2 3 3 is a tie. With 3, 3 and an unparsed vote, 3 has four of seven votes.
  assert question.vote == types.Vote(3, 4, 7)
  assert question.voter_answers == (3, 3, None)
  assert question.solver_rewards == (0, 0, 1, 1)
  assert question.proposer_reward == 1
  assert script.used['voter'] == ['earlier']
  assert states == {'policy': 'policy+', 'earlier': 'earlier'}
  # Only the solver's own answers are learned from.
  ((_, batch),) = script.learned
  assert batch.counts[0].sum() == 4


def test_the_current_solver_becomes_the_earlier_one():
  parts = make_parts(**{'vote.earlier_answers': 2, 'vote.earlier_every': 2})
  states = train_states.initial_states(parts)
  assert states['earlier'].opt_state == ()
  game = build.make_game(parts)
  samplers = Script(
    PROPOSALS, SOLUTIONS, [['2\n', '2\n']] * 2, **{'vote.earlier_answers': 2}
  ).game.samplers
  config = change(game.config, {'proposer.train_every': 0})
  game = game._replace(samplers=samplers, config=config)
  kept = []
  for step in range(2):
    states, _, _ = step_lib.self_play_step(step, states, EMPTY, game)
    kept.append(jax.device_get(states))

  def same(one, other):
    return all(
      np.array_equal(a, b)
      for a, b in zip(
        jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True
      )
    )

  assert not same(kept[0]['earlier'], kept[0]['policy'])
  assert same(kept[1]['earlier'], kept[1]['policy'])
  assert int(kept[1]['earlier'].step) == 2


@pytest.mark.parametrize('shared', [True, False])
def test_a_moving_average_of_the_solver_votes(shared):
  changes = {
    'policy.average_decay': 0.75,
    'policy.shared': shared,
    'vote.earlier_answers': 2,
  }
  parts = make_parts(**changes)
  states = train_states.initial_states(parts)
  start = jax.device_get(states['average'])
  script = Script(PROPOSALS, SOLUTIONS, [['2\n', '2\n']] * 2, **changes)
  game = build.make_game(parts)._replace(samplers=script.game.samplers)
  states, _, _ = step_lib.self_play_step(0, states, EMPTY, game)
  solver = states[game.state_names['solver']]
  jax.tree.map(
    lambda average, old, new: np.testing.assert_allclose(
      average, 0.75 * old + 0.25 * new, atol=1e-7
    ),
    states['average'].params,
    start.params,
    jax.device_get(solver.params),
  )
  assert states['average'].opt_state == ()
  assert int(states['average'].step) == int(solver.step) > 0
  names = game.state_names
  evaluated = [
    step_types.evaluated_state(role, names, 0.75) for role in step_types.ROLES
  ]
  assert evaluated == (['average'] * 2 if shared else ['proposer', 'average'])
  assert game.state_names['voter'] == 'average'


def test_the_kl_refers_to_the_moving_average():
  changes = {'loss.kl_coef': 0.1, 'policy.average_decay': 0.5}
  game = build.make_game(make_parts(**changes))
  states = {
    name: learner.TrainState(step=0, params=name, opt_state=())
    for name in ('policy', 'average')
  }
  assert step_types.reference_params(states, game) is game.initial_params
  changes['loss.kl_reference'] = 'average'
  game = build.make_game(make_parts(**changes))
  assert game.initial_params is None
  assert step_types.reference_params(states, game) == 'average'


def test_given_questions_replace_the_proposer():
  script = Script([], [['2\n', '2\n', '2\n', '3\n']] * 4)
  questions = ('1 + 1', '2 + 2', 'why?', '3 + 3', '4 + 4')
  script.game = script.game._replace(questions=questions)
  states, outcome = script.play(1)
  # A step takes four questions and starts over after the last; step 1 begins
  # with the fifth.
  assert [q.problem.text for q in outcome.rounds[0].questions] == [
    '4 + 4',
    '1 + 1',
    '2 + 2',
    'why?',
  ]
  assert outcome.rounds[0].proposals is None
  assert not script.used['proposer']
  assert outcome.trained == ('solver',)
  assert states == {'policy': 'policy+'}
  assert 'sample/proposer/tokens' not in outcome.metrics


def test_rounds_continue_until_enough_questions_have_different_rewards():
  script = Script(PROPOSALS, SOLUTIONS)
  _, outcome = script.play(**{'solver.max_rounds': 3})
  # One of two questions per round has different rewards, so there are three
  # rounds, the maximum.
  assert len(outcome.rounds) == 3
  assert outcome.trained_on == {0, 2, 4}
  assert outcome.metrics['sample/rounds'] == 3
  assert outcome.metrics['proposer/valid_rate'] == 6 / 12
  ((_, batch),) = script.learned
  assert batch.num_groups == 3
  # The groups that agree do not count in the average: 12 answers of 2 tokens.
  assert batch.counts[:3].sum(axis=1).tolist() == [4, 4, 4]
  expected = np.asarray(batch.counts[:3]) / 24
  np.testing.assert_allclose(batch.weights[:3], expected, rtol=1e-6)


def test_a_row_names_the_weights_that_sampled_its_round():
  """The first round may be sampled before the last update."""
  script = Script(PROPOSALS, SOLUTIONS)
  first_round = prefetch.Prefetcher(script.game).first_round(
    0, script.states(), EMPTY, look_ahead=True
  )
  first_round = first_round._replace(policy_steps={'proposer': 1, 'solver': 2})
  _, outcome = script.play(first_round=first_round, **{'solver.max_rounds': 3})
  rows = rollout_rows.to_rows(outcome, seed=0, show=str)
  for role, first in (('proposer', 1), ('solver', 2)):
    steps = [row['policy_step'] for row in rows if row['role'] == role]
    assert steps == [first] * (len(steps) // 3) + [0] * (len(steps) // 3 * 2)


def test_a_row_has_topic_advantage_and_the_verdict_of_the_checker():
  """Training uses only votes, and the checker knows that 2 + 2 is not 5."""
  solutions = [['2\n', '2\n', '2\n', '3\n'], ['5\n'] * 3 + ['why\n']]
  script = Script(PROPOSALS, solutions)
  _, outcome = script.play(
    1, **{'advantage.estimator': 'dr_grpo', 'proposer.train_every': 1}
  )
  rows = rollout_rows.to_rows(
    outcome, seed=0, show=str, task=script.game.task, topics=('a', 'b')
  )
  columns = ('topic', 'reward', 'advantage', 'right')
  values = [tuple(row.get(name) for name in columns) for row in rows]
  # Rewards less the mean of their group.
  assert values == [
    ('a', 1, 1, None),
    ('a', -1, -1, None),
    ('b', 1, 1, None),
    ('b', -1, -1, None),
    *[('a', 1, 0.25, True)] * 3,
    ('a', 0, -0.75, False),
    *[('b', 1, 0.25, False)] * 3,
    ('b', 0, -0.75, False),
  ]


def test_no_more_rounds_than_necessary():
  telling = [['2\n', '2\n', '2\n', '3\n']] * 4
  four = [['1 + 1\n', '2 + 2\n'], ['3 + 3\n', '4 + 4\n']]
  _, outcome = Script(four, telling).play(1, **{'solver.max_rounds': 3})
  assert len(outcome.rounds) == 1
  assert outcome.trained_on == {0, 1, 2, 3}
  # Surplus questions of the last round are not learned from.
  _, outcome = Script(four[:1] + PROPOSALS[1:], telling).play(
    **{'solver.max_rounds': 3}
  )
  assert len(outcome.rounds) == 2
  assert outcome.trained_on == {0, 1, 2, 3}


def test_the_next_step_is_sampled_before_this_one_is_learned_from():
  script = Script(PROPOSALS, SOLUTIONS)
  prefetcher = prefetch.Prefetcher(script.game)
  first_round = prefetcher.first_round(
    0, script.states(), EMPTY, look_ahead=True
  )
  assert script.used['proposer'] == script.used['solver'] == ['policy'] * 2
  states, outcome = script.play(0, first_round=first_round)
  assert states == {'policy': 'policy+'}
  assert {'time/propose', 'time/solve'} < outcome.metrics.keys()
  # The next step is not sampled again, and equals that of a run without
  # prefetching.
  first_round = prefetcher.first_round(1, states, EMPTY, look_ahead=False)
  _, outcome = script.play(1, first_round=first_round)
  assert len(script.used['proposer']) == len(script.used['solver']) == 2
  alone = Script(PROPOSALS, SOLUTIONS).play(1)[1]
  assert outcome.rounds[0].questions == alone.rounds[0].questions
  assert outcome.trained == alone.trained == ('solver', 'proposer')
  assert prefetcher.first_round(2, states, EMPTY, look_ahead=False) is None


def test_a_failure_ahead_stops_grading_the_current_round(monkeypatch):
  """The failure occurs while the next step is sampled."""
  script = Script(PROPOSALS, SOLUTIONS)
  prefetcher = prefetch.Prefetcher(script.game)
  canceled, propose = [], proposing.propose
  monkeypatch.setattr(
    background_grading.BackgroundGrader,
    'cancel',
    lambda grader: canceled.append(grader),
  )

  def interrupted(step, *args):
    if step == 1:
      raise KeyboardInterrupt
    return propose(step, *args)

  monkeypatch.setattr(proposing, 'propose', interrupted)
  with pytest.raises(KeyboardInterrupt):
    prefetcher.first_round(0, script.states(), EMPTY, look_ahead=True)
  assert len(canceled) == 1
  prefetcher.cancel()  # nothing is held
  assert len(canceled) == 1


def test_a_prefetcher_drops_what_it_holds():
  script = Script(PROPOSALS, SOLUTIONS)
  prefetcher = prefetch.Prefetcher(script.game)
  prefetcher.first_round(0, script.states(), EMPTY, look_ahead=True)
  prefetcher.cancel()
  prefetcher.cancel()  # nothing is held any more
  assert (
    prefetcher.first_round(1, script.states(), EMPTY, look_ahead=False) is None
  )


def test_rounds_have_different_samples():
  parts = make_parts()
  game = build.make_game(parts)
  states = train_states.initial_states(parts)
  first, second = (proposing.propose(0, n, states, EMPTY, game) for n in (0, 1))
  assert first.proposals.texts != second.proposals.texts


def test_positive_advantages_of_the_solver_have_a_weight():
  """Rewards 1, 1, 1, 0 minus their mean; those of the proposer are 1, -1."""
  changes = {'advantage.estimator': 'dr_grpo', 'proposer.train_every': 1}
  batches = {}
  for weight in (1.0, 0.5, 0.0):
    script = Script(PROPOSALS, SOLUTIONS)
    _, outcome = script.play(**changes | {'advantage.positive_weight': weight})
    (_, solver), *others = script.learned
    assert solver.num_groups == 1
    found = solver.advantages[0, :, 0].tolist()
    assert found == [0.25 * weight] * 3 + [-0.75]
    assert outcome.advantages['solver'][0].tolist() == found
    batches[weight] = [batch.advantages.tolist() for _, batch in others]
  # The proposer has no weight.
  assert batches[0.0] == batches[0.5] == batches[1.0] != []


def test_rounds_without_a_readable_question():
  script = Script(UNREADABLE)
  _, outcome = script.play(**{'solver.max_rounds': 2})
  assert len(outcome.rounds) == 2
  assert outcome.trained == ()
  assert_finite(outcome.metrics)


CODE = {
  'task.test': (),
  'task.validation': (),
  'task.answer_kind': 'code',
  'task.question_pattern': '',
  'task.proposer_stop': ('END',),
  'task.solver_stop': ('END',),
  'tests.min_count': 2,
  'tests.program': 'print({answer})',
  'solver.rewards.majority': 0.0,
  'solver.rewards.tests': 1.0,
  'proposer.max_tokens': 64,
  'solver.max_tokens': 64,
  'task.checker': 'none',
}
DOUBLE = 'Double it.\n1 => 2\n3 => 6\nEND'


@needs_bubblewrap
def test_programs_are_rewarded_by_the_tests_they_pass():
  proposals = [[DOUBLE, 'Say one.\n1 => 1\n2 => 1\nEND'], ['why?END', DOUBLE]]
  answers = [
    ['2 * int(input())END', '2END', '1 +END', 'END'],
    ['2 * int(input())END'] * 4,
  ]
  script = Script(proposals, answers, **CODE)
  _, outcome = script.play(**{'advantage.estimator': 'dr_grpo'})
  first, second, third, fourth = outcome.rounds[0].questions
  assert first.problem.text == 'Double it.'
  assert first.problem.tests == (('1', '2'), ('3', '6'))
  # All tests, one of two, no program, no answer.
  assert first.solver_rewards == (1, 0.5, 0, 0)
  assert first.proposer_reward == 1
  assert second.problem.reason == 'constant_output'
  assert third.problem.reason == 'few_tests'
  assert fourth.solver_rewards == (1, 1, 1, 1)
  assert fourth.proposer_reward == 0
  assert [q.proposer_reward for q in (second, third)] == [-1, -1]
  metrics = outcome.metrics
  assert_finite(metrics)
  # 8 programs, 2 tests each: 3 and 8 pass. Of 4 tests, 2 are passed by all.
  assert metrics['tests/pass_rate'] == 11 / 16
  assert metrics['tests/passed_by_none'] == 0
  assert metrics['tests/passed_by_all'] == 2 / 4
  assert metrics['tests/error'] == 4
  assert metrics['solver/unparsed_rate'] == 1 / 8
  assert not {key for key in metrics if key.startswith('vote/')}
  ((_, batch),) = script.learned
  assert batch.num_groups == 1
  expected = [0.625, 0.125, -0.375, -0.375]
  assert batch.advantages[0, :, 0].tolist() == expected


@needs_bubblewrap
def test_a_wrong_test_rewards_the_proposer_unless_it_is_left_out():
  wrong = 'Double it.\n1 => 2\n3 => 7\n4 => 8\nEND'
  proposals = [[wrong, 'why?END'], ['why?END', 'why?END']]
  answers = [['2 * int(input())END'] * 4]
  script = Script(proposals, answers, **CODE)
  for unsolved, expected in (('count', 1), ('leave_out', 0)):
    _, outcome = script.play(**{'tests.unsolved': unsolved})
    assert outcome.rounds[0].questions[0].proposer_reward == expected
    assert outcome.metrics['tests/passed_by_none'] == 1 / 3


# The following tests use the real learner. Scripted texts have one shape, so it
# is compiled once.
@functools.cache
def real_game() -> step_types.GameSetup:
  return build.make_game(make_parts())


def learn_scripted(states, step=0, solutions=SOLUTIONS):
  """Plays a step with scripted texts and the real update."""
  samplers = Script(PROPOSALS, solutions).game.samplers
  game = real_game()
  config = change(game.config, {'proposer.train_every': 0})
  game = game._replace(samplers=samplers, config=config)
  states, _, outcome = step_lib.self_play_step(
    step, states, repetition.Memory(), game
  )
  return states, outcome


@jax.jit
def next_logprobs(params):
  """Returns the log-probabilities of the token after '1 + 1 = '."""
  policy = make_parts().policy
  tokens = jnp.array([list(b'1 + 1 = ')])
  hidden, _ = policy.forward(params, tokens, jnp.array([8]))
  return jax.nn.log_softmax(policy.logits(params, hidden[0, -1:]))[0]


def test_the_answer_of_the_majority_becomes_more_likely():
  states = train_states.initial_states(make_parts())
  before = next_logprobs(states['policy'].params)
  states, outcome = learn_scripted(states)
  after = next_logprobs(states['policy'].params)
  assert outcome.trained == ('solver',)
  assert int(states['policy'].step) == 1
  assert 'train/solver/kl' not in outcome.metrics
  gain = after - before
  assert gain[ord('2')] > 0.01  # three of four
  assert gain[ord('3')] < -0.01  # the minority answer
  assert (
    gain[ord('2')] > gain[ord('5')] > gain[ord('3')]
  )  # 5 was never an answer


def test_a_step_with_nothing_to_learn_keeps_the_weights_bit_for_bit():
  states = train_states.initial_states(make_parts())
  before = jax.device_get(states)
  blank = [['x\n'] * 4] * 2
  states, outcome = learn_scripted(states, solutions=blank)
  assert outcome.trained == ()
  jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(states))


def test_weights_that_are_not_finite_skip_the_update():
  states = train_states.initial_states(make_parts())
  params = jax.tree.map(lambda x: jnp.full_like(x, jnp.inf), states['policy'])
  _, outcome = learn_scripted({'policy': params}, step=3)
  assert outcome.metrics['train/solver/skipped_rate'] == 1
  assert outcome.metrics['train/solver/not_finite/loss'] == 1


def play_for_real(**changes):
  """Plays a step with the random model, which ends half of its texts early."""
  stop = tuple(map(chr, range(128)))
  parts = make_parts(
    **{
      'task.proposer_stop': stop,
      'task.question_pattern': '',
      'task.solver_prompt': '{question} is a number: ',
      'task.answer_pattern': '.',
      'task.answer_kind': 'text',
      'proposer.max_tokens': 6,
      'loss.kl_coef': 0.01,
    }
    | changes
  )
  states = train_states.initial_states(parts)
  before = jax.device_get(states)
  states, _, outcome = step_lib.self_play_step(
    0, states, repetition.Memory(), build.make_game(parts)
  )
  return before, jax.device_get(states), outcome


@pytest.fixture(scope='module')
def real_step():
  return play_for_real()


def test_a_real_step(real_step):
  before, after, outcome = real_step
  metrics = outcome.metrics
  assert_finite(metrics)
  assert 0 < metrics['proposer/valid_rate'] <= 1
  assert outcome.trained == ('solver',)
  assert after['policy'].step == before['policy'].step + 1
  assert metrics['train/solver/updates'] == 1
  # A fresh model of 257 tokens is nearly uniform: log 257 = 5.55.
  assert metrics['train/solver/entropy'] == pytest.approx(5.55, abs=0.7)
  # The loss is computed before the first update, where the KL is 0 up to
  # rounding.
  assert abs(metrics['train/solver/kl']) < 1e-6
  assert metrics['train/solver/clip_fraction'] == 0
  unequal = [
    (a != b).any()
    for a, b in zip(
      jax.tree.leaves(before['policy'].params),
      jax.tree.leaves(after['policy'].params),
      strict=True,
    )
  ]
  assert all(unequal)


def test_sampler_and_learner_agree_about_log_probabilities(real_step):
  # The limit of docs/algorithm.md for float32.
  assert real_step[2].metrics['sample/solver/logprob_gap'] < 1e-4


def test_sampled_in_bfloat16_and_learned_in_float32():
  """The difference appears in the metrics and in the ratio of the loss."""
  before, after, outcome = play_for_real(**{'sampler.dtype': 'bfloat16'})
  assert 1e-4 < outcome.metrics['sample/solver/logprob_gap'] < 0.05
  assert outcome.trained == ('solver',)
  for states in (before, after):
    assert {x.dtype for x in jax.tree.leaves(states['policy'].params)} == {
      jnp.dtype('float32')
    }


def test_texts_are_the_decoded_tokens(real_step):
  solutions = real_step[2].rounds[0].solutions
  for tokens, lengths, texts in zip(
    solutions.rollout.tokens,
    solutions.rollout.lengths,
    solutions.texts,
    strict=False,
  ):
    for ids, length, text in zip(tokens, lengths, texts, strict=True):
      assert make_parts().tokens.decode(ids[:length].tolist()) == text
