"""A step of self-play: first with scripted texts, then with a real model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import smoke
from sqlm_jax import assemble
from sqlm_jax import config as config_lib
from sqlm_jax.engine import groups
from sqlm_jax.game import types
from sqlm_jax.models import lora
from sqlm_jax.selfplay import step as step_lib

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
  'proposer.questions': 4,
  'proposer.group_size': 2,
  'proposer.train_every': 2,
  'proposer.max_tokens': 8,
  'solver.group_size': 4,
  'solver.max_tokens': 4,
  'loss.kl': 0.0,
  'optimizer.solver_updates': 1,
  'optimizer.learning_rate': 0.003,
}
# Four questions: readable, no question, readable, and one that was cut off.
PROPOSALS = [['1 + 1\n', 'why?\n'], ['2 + 2\n', '3 + 3']]
# Three of four agree; all agree. A digit and a stop token: 16 tokens.
SOLUTIONS = [['2\n', '2\n', '2\n', '3\n'], ['4\n'] * 4]
UNREADABLE = [['why?\n', 'why?\n'], ['what?\n', '3 + 3']]


@functools.cache
def make_parts(**changes) -> assemble.Parts:
  c = smoke.get_config()
  c.update_from_flattened_dict(CHANGES | changes)
  return assemble.build(config_lib.from_dict(c.to_dict()))


def scripted_writer(writer, texts, seen):
  """Writes `texts` instead of what a model would; no stop: not finished."""

  def sample(params, prompts, keys, settings, slots):
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
        finished[q, g] = text.endswith('\n')
    # About those of the random model: 257 tokens, alike.
    logprobs = np.full(shape, -np.log(257), np.float32)
    return groups.Rollout(tokens, logprobs, logprobs, lengths, finished)

  return writer._replace(sample=sample)


class Script:
  """A game with scripted texts; remembers who read and learned what."""

  def __init__(self, proposals, solutions=(), *, metric=1.0, **changes):
    self.parts = make_parts(**changes)
    self.used = {'proposer': [], 'solver': []}
    self.learned = []  # (name of the state, batch)
    game = assemble.make_game(self.parts)
    texts = {'proposer': proposals, 'solver': solutions}

    def train_step(state, batch, reference, base):
      del reference
      self.learned.append((state, batch))
      found = {'loss': (metric, 1.0), 'logprob_gap': (0.0, 1.0)}
      return f'{state}+', found

    self.game = game._replace(
      train_step=train_step,
      writers={
        role: scripted_writer(game.writers[role], texts[role], used)
        for role, used in self.used.items()
      },
    )

  def play(self, step=0, **rules):
    game = self.game._replace(rules=self.game.rules._replace(**rules))
    states = {name: Name(name) for name in set(self.parts.owner.values())}
    return step_lib.self_play_step(step, states, game)


class Name(str):
  """Stands for a train state in a script."""

  __slots__ = ()

  @property
  def params(self):
    return str(self)


def assert_finite(metrics):
  assert all(np.isfinite(value) for value in metrics.values()), metrics


def test_a_step_in_numbers():
  _, outcome = Script(PROPOSALS, SOLUTIONS).play()
  assert [v.problem for v in outcome.verdicts] == [
    types.Problem('1 + 1'),
    types.Problem('why?', ok=False, why_not='format'),
    types.Problem('2 + 2'),
    types.Problem('3 + 3', ok=False, why_not='unfinished'),
  ]
  # 3 of 4: neither too easy nor too hard. 4 of 4: too easy.
  rewards = [v.proposer_reward for v in outcome.verdicts]
  assert rewards == [1.0, -1.0, 0.0, -1.0]
  rewards = [v.solver_rewards for v in outcome.verdicts]
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
    'proposer/unreadable/format': 1.0,
    'proposer/unreadable/unfinished': 1.0,
    'solver/reward': 7 / 8,
    'solver/blank_rate': 0.0,
    'vote/majority_rate': 1.0,
    'vote/agreement': (3 / 4 + 1) / 2,
    'vote/unanimous_rate': 1 / 2,
    'vote/accuracy': 1.0,
    'vote/checked': 2.0,
    'sample/proposer/tokens': (6 + 5 + 6 + 5) / 4,
    'sample/proposer/finished_rate': 3 / 4,
    'sample/solver/tokens': 2.0,  # rows that fill the shape do not count
    'sample/solver/finished_rate': 1.0,
    'sample/solver/logprob_gap': 0.0,
    'train/solver/updates': 1.0,
    'train/solver/loss': 1.0,
  }
  assert {'time/propose', 'time/solve', 'time/judge', 'time/learn'} < set(
    outcome.metrics
  )


def test_the_solver_learns_from_the_group_that_disagrees():
  script = Script(PROPOSALS, SOLUTIONS)
  states, outcome = script.play(estimator='dr_grpo')
  assert states == {'policy': 'policy+'}
  assert outcome.trained == ('solver',)
  ((_, batch),) = script.learned
  assert batch.num_groups == 1
  # Rewards 1, 1, 1, 0 less their mean 3/4.
  expected = [0.25, 0.25, 0.25, -0.75]
  np.testing.assert_array_equal(batch.advantages[0], expected)
  # The group that agrees counts in the average: 8 responses of 2 tokens.
  np.testing.assert_allclose(batch.weights[0], 1 / 16, rtol=1e-6)
  assert not np.any(np.asarray(batch.weights)[1:])


def test_with_a_kl_penalty_a_unanimous_group_is_learned_from():
  script = Script(PROPOSALS, SOLUTIONS)
  script.play(keep_neutral=True)
  ((_, batch),) = script.learned
  assert batch.num_groups == 2


def test_the_proposer_learns_in_every_kth_step():
  trained = [
    Script(PROPOSALS, SOLUTIONS).play(step, train_every=3)[1].trained
    for step in range(6)
  ]
  both, one = ('solver', 'proposer'), ('solver',)
  assert trained == [one, one, both, one, one, both]
  never = Script(PROPOSALS, SOLUTIONS).play(5, train_every=0)
  assert never[1].trained == one


def test_likelihoods_can_weigh_the_votes():
  """Two likely answers outweigh two unlikely ones; equal ones are a tie."""
  script = Script(PROPOSALS, [['7\n', '7\n', '8\n', '8\n']] * 4)
  sample = script.game.writers['solver'].sample

  def likelier(*args, **kwargs):
    rollout = sample(*args, **kwargs)
    logprobs = np.array(rollout.logprobs)
    logprobs[:, 2:] = -0.1
    return rollout._replace(logprobs=logprobs)

  writers = dict(script.game.writers)
  writers['solver'] = writers['solver']._replace(sample=likelier)
  script.game = script.game._replace(writers=writers)
  equal = script.play(weights='equal')[1].verdicts[0]
  assert equal.vote.why_not == 'tie'
  weighed = script.play(weights='likelihood')[1].verdicts[0]
  assert (weighed.vote.answer, weighed.vote.count) == (8, 2)
  assert weighed.solver_rewards == (0, 0, 1, 1)


def test_the_control_is_paid_by_the_checker():
  script = Script(PROPOSALS, [['2\n', '7\n', '7\n', '7\n']] * 4)
  verdict = script.play(solver_reward='true')[1].verdicts[0]
  assert verdict.problem.text == '1 + 1'
  assert verdict.vote.answer == 7
  assert verdict.solver_rewards == (1, 0, 0, 0)


def test_a_proposer_paid_by_how_close_to_half_agree():
  verdicts = (
    Script(PROPOSALS, SOLUTIONS).play(proposer_reward='r_zero')[1].verdicts
  )
  # 3 of 4 agree, unreadable, all agree, unreadable.
  assert [v.proposer_reward for v in verdicts] == [0.5, -1, 0, -1]


def test_the_proposers_questions_are_compared_within_a_topic():
  script = Script(PROPOSALS, SOLUTIONS)
  script.play(1, estimator='dr_grpo')
  _, batch = script.learned[1]
  # Rewards 1, -1 of topic a and 0, -1 of topic b.
  expected = [[1, -1], [0.5, -0.5]]
  np.testing.assert_array_equal(batch.advantages[:2], expected)
  assert batch.num_groups == 2


@pytest.mark.parametrize('keep_neutral', [False, True])
@pytest.mark.parametrize('step', [0, 1])
def test_no_valid_question(step, keep_neutral):
  script = Script(UNREADABLE)
  _, outcome = script.play(step, keep_neutral=keep_neutral)
  assert outcome.solutions is None
  assert not script.used['solver']
  assert 'solver' not in outcome.trained
  assert [v.proposer_reward for v in outcome.verdicts] == [-1.0] * 4
  assert_finite(outcome.metrics)
  assert outcome.metrics['proposer/valid_rate'] == 0
  assert outcome.metrics['proposer/unreadable/format'] == 3
  assert outcome.metrics['proposer/unreadable/unfinished'] == 1
  assert not {'solver/reward', 'vote/agreement'} & set(outcome.metrics)
  # All are as bad: without a penalty the proposer has nothing to learn, and
  # the update that is left out is counted.
  if step == 1 and not keep_neutral:
    assert outcome.metrics['train/proposer/updates'] == 0
    assert not script.learned
  if step == 0:
    assert not script.learned


def test_an_unreadable_question_never_trains_the_solver():
  """Two proposals of four reach the solver's batch: the other rows are 0."""
  script = Script(PROPOSALS, SOLUTIONS)
  script.play(
    keep_neutral=True
  )  # with a penalty everything counted is learned from
  ((_, batch),) = script.learned
  assert int(batch.num_groups) == 2
  width = len('1 + 1 = ')
  rows = np.asarray(batch.prompts.tokens)[:2, :width].astype(np.uint8)
  assert [row.tobytes() for row in rows] == [b'1 + 1 = ', b'2 + 2 = ']
  assert not np.any(np.asarray(batch.weights)[2:])


@pytest.mark.parametrize(
  'answers, why_not, blanks',
  [
    (['x\n'] * 4, 'blank', 1.0),
    (['\n'] * 4, 'blank', 1.0),
    (['1\n', '2\n', '3\n', '4\n'], 'singleton', 0.0),
    (['1\n', '1\n', '2\n', '2\n'], 'tie', 0.0),
    (['1\n', 'x\n', '\n', '?\n'], 'singleton', 0.75),
  ],
)
def test_a_vote_that_nobody_wins(answers, why_not, blanks):
  script = Script(PROPOSALS, [answers, answers])
  states, outcome = script.play()
  assert states == {'policy': 'policy'}
  assert outcome.trained == ()
  metrics = outcome.metrics
  assert_finite(metrics)
  assert metrics['solver/blank_rate'] == blanks
  assert metrics['solver/reward'] == 0
  assert metrics['vote/majority_rate'] == 0
  assert metrics[f'vote/nobody/{why_not}'] == 2
  assert metrics['train/solver/updates'] == 0
  # No mean over nothing.
  assert 'vote/agreement' not in metrics
  assert 'vote/accuracy' not in metrics
  assert [v.proposer_reward for v in outcome.verdicts] == [0, -1, 0, -1]


def test_least_agreement():
  _, outcome = Script(PROPOSALS, SOLUTIONS).play(min_agreement=0.8)
  assert outcome.metrics['vote/nobody/disagreement'] == 1
  assert outcome.metrics['vote/majority_rate'] == 1 / 2


def test_answers_that_mean_the_same_are_one_vote():
  _, outcome = Script(PROPOSALS, [['2\n', '02\n', '2.0\n', '3\n']] * 2).play()
  votes = [v.vote for v in outcome.verdicts if v.vote]
  assert votes == [types.Vote(2, 3, 4)] * 2
  # 2 + 2 is not 2: the diagnosis sees it, the reward does not.
  assert outcome.metrics['vote/accuracy'] == 1 / 2
  assert outcome.metrics['solver/reward'] == 3 / 4


def test_a_question_over_the_limit_is_unreadable():
  # '1 + 1 = ' has 8 tokens, one more than there is room for.
  script = Script(PROPOSALS, **{'sampler.max_prompt_tokens': 7})
  _, outcome = script.play()
  assert outcome.solutions is None
  assert outcome.metrics['proposer/unreadable/too_long'] == 2
  assert [v.proposer_reward for v in outcome.verdicts] == [-1.0] * 4
  fits = Script(PROPOSALS, SOLUTIONS, **{'sampler.max_prompt_tokens': 8})
  assert 'proposer/unreadable/too_long' not in fits.play()[1].metrics


def test_the_format_control_pays_every_readable_answer():
  answers = ['1\n', 'x\n', '2\n', '2\n']
  _, outcome = Script(PROPOSALS, [answers] * 2).play(solver_reward='format')
  assert outcome.verdicts[0].solver_rewards == (1, 0, 1, 1)


def test_the_random_control_does_not_look_at_answers():
  def rewards(step, solutions, seed=0):
    script = Script(PROPOSALS, solutions)
    _, outcome = script.play(step, solver_reward='random', seed=seed)
    return [v.solver_rewards for v in outcome.verdicts]

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
  # Only the first update meets the weights that sampled.
  assert 'sample/solver/logprob_gap' in outcome.metrics
  assert 'sample/proposer/logprob_gap' not in outcome.metrics


@pytest.mark.parametrize('bad', [float('inf'), float('nan')])
def test_a_metric_that_is_not_finite_ends_the_run_by_name(bad):
  script = Script(PROPOSALS, SOLUTIONS, metric=bad)
  with pytest.raises(
    FloatingPointError, match=rf'train/solver/loss={bad} in step 7'
  ):
    script.play(7)


def test_two_policies_are_two_states_with_the_same_start():
  parts = make_parts(**{'policy.shared': False})
  states = assemble.initial_states(parts)
  assert set(states) == {'proposer', 'solver'}
  jax.tree.map(
    np.testing.assert_array_equal, states['proposer'], states['solver']
  )
  # Training donates its state: no array may be in both.
  one, other = (jax.tree.leaves(state) for state in states.values())
  assert not {id(x) for x in one} & {id(x) for x in other}


def test_a_reference_is_held_only_for_a_penalty():
  assert assemble.make_game(make_parts()).reference_params is None
  with_kl = make_parts(**{'loss.kl': 0.01})
  reference = assemble.make_game(with_kl).reference_params
  expected = with_kl.load_params('float32')
  jax.tree.map(np.testing.assert_array_equal, reference, expected)


def test_with_adapters_the_reference_is_the_base_itself():
  parts = make_parts(**{'loss.kl': 0.01, 'model.lora.rank': 2})
  game = assemble.make_game(parts)
  assert game.reference_params is game.base_params
  whole = jax.eval_shape(parts.policy.init, jax.random.key(0))
  assert jax.tree.structure(game.base_params) == jax.tree.structure(
    lora.base(whole)
  )


def test_two_policies_of_adapters_share_one_base():
  parts = make_parts(**{'policy.shared': False, 'model.lora.rank': 2})
  states = assemble.initial_states(parts)
  one, other = (states[role].params for role in ('proposer', 'solver'))
  kernel = lambda tree: tree['layers']['mlp']['up']
  assert kernel(one).keys() == {'lora_a', 'lora_b'}
  assert not np.array_equal(kernel(one)['lora_a'], kernel(other)['lora_a'])
  assert not np.any(kernel(one)['lora_b'])
  game = assemble.make_game(parts)
  for role in states:
    whole = step_lib.params_of(role, states, game)
    assert whole['embedding'] is game.base_params['embedding']
    assert kernel(whole)['lora_a'] is kernel(states[role].params)['lora_a']


# From here on with the real learner: scripted texts have one shape, so it is
# compiled once.
@functools.cache
def real_game() -> step_lib.Game:
  return assemble.make_game(make_parts())


def learn_scripted(states, step=0, solutions=SOLUTIONS):
  """A step with scripted texts and the real update."""
  writers = Script(PROPOSALS, solutions).game.writers
  game = real_game()._replace(writers=writers)
  game = game._replace(rules=game.rules._replace(train_every=0))
  return step_lib.self_play_step(step, states, game)


@jax.jit
def next_logprobs(params):
  """Of the token after '1 + 1 = '."""
  policy = make_parts().policy
  tokens = jnp.array([list(b'1 + 1 = ')])
  hidden, _ = policy.forward(params, tokens, jnp.array([8]))
  return jax.nn.log_softmax(policy.logits(params, hidden[0, -1:]))[0]


def test_the_answer_of_the_majority_becomes_more_likely():
  states = assemble.initial_states(make_parts())
  before = next_logprobs(states['policy'].params)
  states, outcome = learn_scripted(states)
  after = next_logprobs(states['policy'].params)
  assert outcome.trained == ('solver',)
  assert int(states['policy'].step) == 1
  assert 'train/solver/kl' not in outcome.metrics
  gain = after - before
  assert gain[ord('2')] > 0.01  # three of four
  assert gain[ord('3')] < -0.01  # the one that disagreed
  assert gain[ord('2')] > gain[ord('5')] > gain[ord('3')]  # nobody's answer


def test_a_step_without_a_lesson_leaves_the_weights_bit_for_bit():
  states = assemble.initial_states(make_parts())
  before = jax.device_get(states)
  blank = [['x\n'] * 4] * 2
  states, outcome = learn_scripted(states, solutions=blank)
  assert outcome.trained == ()
  jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(states))


def test_weights_that_are_not_finite_end_the_run():
  states = assemble.initial_states(make_parts())
  params = jax.tree.map(lambda x: jnp.full_like(x, jnp.inf), states['policy'])
  with pytest.raises(
    FloatingPointError, match=r'(train|sample)/solver/\w+=\S+ in step 3'
  ):
    learn_scripted({'policy': params}, step=3)


@pytest.fixture(scope='module')
def real_step():
  """Sampled by the random model, which ends half of all texts at a token."""
  stop = tuple(map(chr, range(128)))
  parts = make_parts(
    **{
      'task.proposer_stop': stop,
      'task.question_pattern': '',
      'task.solver_prompt': '{question} is a number: ',
      'task.answer_pattern': '.',
      'task.answer_kind': 'text',
      'proposer.max_tokens': 6,
      'loss.kl': 0.01,
    }
  )
  states = assemble.initial_states(parts)
  before = jax.device_get(states)
  states, outcome = step_lib.self_play_step(
    0, states, assemble.make_game(parts)
  )
  return before, jax.device_get(states), outcome


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
  # One update from the reference: no distance yet, to float32 rounding.
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
  # The limit of the brief for float32.
  assert real_step[2].metrics['sample/solver/logprob_gap'] < 1e-4


def test_texts_are_what_the_tokens_say(real_step):
  written = real_step[2].solutions
  for tokens, lengths, texts in zip(
    written.rollout.tokens, written.rollout.lengths, written.texts, strict=False
  ):
    for ids, length, text in zip(tokens, lengths, texts, strict=True):
      assert make_parts().tokens.decode(ids[:length].tolist()) == text
