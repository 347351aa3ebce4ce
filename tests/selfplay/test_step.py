"""A step of self-play: first with scripted texts, then with a real model."""

import functools
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.engine import groups
from sqlm_jax.game import repetition, types
from sqlm_jax.models import lora
from sqlm_jax.run import build, train_states
from sqlm_jax.selfplay import background_grading
from sqlm_jax.selfplay import rounds as rounds_lib
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
# Three of four agree; all agree. A digit and a stop token: 16 tokens.
SOLUTIONS = [['2\n', '2\n', '2\n', '3\n'], ['4\n'] * 4]
EMPTY = repetition.Memory()
UNREADABLE = [['why?\n', 'why?\n'], ['what?\n', '3 + 3']]


@functools.cache
def make_parts(**changes) -> build.Parts:
  c = smoke.get_config()
  c.update_from_flattened_dict(CHANGES | changes)
  return build.build(config_lib.from_dict(c.to_dict()))


def scripted_writer(writer, texts, seen):
  """Writes `texts` instead of what a model would; no stop: not finished."""

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
    # About those of the random model: 257 tokens, alike.
    logprobs = np.full(shape, -np.log(257), np.float32)
    return groups.Rollout(tokens, logprobs, logprobs, lengths, finished)

  return writer._replace(sample=sample)


class Script:
  """A game with scripted texts; remembers who read and learned what."""

  def __init__(
    self, proposals, solutions=(), votes=(), *, metric=1.0, **changes
  ):
    self.parts = make_parts(**changes)
    self.used = {role: [] for role in ('proposer', 'solver', 'voter')}
    self.learned = []  # (name of the state, batch)
    game = build.make_game(self.parts)
    texts = {'proposer': proposals, 'solver': solutions, 'voter': votes}

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
        if role in game.writers
      },
    )

  def play(self, step=0, memory=EMPTY, asked=None, look_ahead=False, **rules):
    """Plays with other rules; returns the states and the outcome."""
    before = self.game.rules
    scoring = {k: v for k, v in rules.items() if k in before.scoring._fields}
    rest = {k: v for k, v in rules.items() if k not in scoring}
    after = before._replace(scoring=before.scoring._replace(**scoring), **rest)
    names = set(self.parts.owner.values())
    if self.game.critic:
      names |= {rounds_lib.critic_of(name) for name in names}
    states = {name: Name(name) for name in names}
    states, self.memory, outcome = step_lib.self_play_step(
      step,
      states,
      memory,
      self.game._replace(rules=after),
      asked,
      look_ahead=look_ahead,
    )
    return states, outcome


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
  assert [v.problem for v in outcome.rounds[0].verdicts] == [
    types.Problem('1 + 1'),
    types.Problem('why?', ok=False, reason='format'),
    types.Problem('2 + 2'),
    types.Problem('3 + 3', ok=False, reason='unfinished'),
  ]
  # 3 of 4: neither too easy nor too hard. 4 of 4: too easy.
  rewards = [v.proposer_reward for v in outcome.rounds[0].verdicts]
  assert rewards == [1.0, -1.0, 0.0, -1.0]
  rewards = [v.solver_rewards for v in outcome.rounds[0].verdicts]
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
    'proposer/contaminated_rate': 1.0,  # 1 + 1 and 2 + 2 are evaluated on
    'solver/reward': 7 / 8,
    'solver/unparsed_rate': 0.0,
    'vote/majority_rate': 1.0,
    'vote/agreement': (3 / 4 + 1) / 2,
    'vote/unanimous_rate': 1 / 2,
    'vote/accuracy': 1.0,
    'vote/num_checked': 2.0,
    # Every token has one probability of 257, to float32 rounding.
    'sample/proposer/surprisal': pytest.approx(math.log(257), rel=1e-6),
    'sample/solver/surprisal': pytest.approx(math.log(257), rel=1e-6),
    'sample/proposer/tokens': (6 + 5 + 6 + 5) / 4,
    'sample/proposer/finished_rate': 3 / 4,
    'sample/solver/tokens': 2.0,  # rows that fill the shape do not count
    'sample/solver/finished_rate': 1.0,
    'sample/solver/logprob_gap': 0.0,
    'train/solver/updates': 1.0,
    'train/solver/loss': 1.0,
  }
  assert {'time/propose', 'time/solve', 'time/grade', 'time/learn'} < set(
    outcome.metrics
  )


def test_questions_of_an_evaluation_set_are_excluded():
  """Neither role learns from 1 + 1, and nobody is paid for it."""
  changes = {
    'evaluation.contaminated': 'exclude',
    'task.test': (('1 + 1', '2'),),
    'task.validation': (('What is 5+5?', '10'),),
  }
  # Only 2 + 2 is answered, and its answers differ.
  script = Script(PROPOSALS, SOLUTIONS[:1], **changes)
  _, outcome = script.play(estimator='dr_grpo', train_every=1)
  first, *_ = outcome.rounds[0].verdicts
  assert first == types.Verdict(
    types.Problem('1 + 1', ok=False, reason='contaminated'),
    proposer_reward=None,
  )
  assert outcome.metrics['proposer/contaminated_rate'] == 1 / 2
  assert outcome.metrics['proposer/unreadable/contaminated'] == 1
  # Of the other three: -1, 1, -1.
  assert outcome.metrics['proposer/reward'] == pytest.approx(-1 / 3)
  _, (_, batch) = script.learned  # the solver's, and this
  # Its neighbour has nobody to be compared with: one group is left, and the
  # average is over the 5, 6 and 5 tokens of the other three.
  assert batch.num_groups == 1
  np.testing.assert_allclose(batch.weights[0], 1 / 16, rtol=1e-6)
  assert batch.advantages[0].tolist() == [[1], [-1]]
  assert not np.any(np.asarray(batch.weights)[1:])


def test_the_solver_learns_from_the_group_that_disagrees():
  script = Script(PROPOSALS, SOLUTIONS)
  states, outcome = script.play(estimator='dr_grpo')
  assert states == {'policy': 'policy+'}
  assert outcome.trained == ('solver',)
  ((_, batch),) = script.learned
  assert batch.num_groups == 1
  # Rewards 1, 1, 1, 0 less their mean 3/4; the three are equal, and are one.
  assert batch.advantages[0, :, 0].tolist() == [0.25, 0.25, 0.25, -0.75]
  assert batch.counts[0].tolist() == [3, 0, 0, 1]
  # The group that agrees counts in the average: 8 responses of 2 tokens.
  weights = [3 / 16, 0, 0, 1 / 16]
  np.testing.assert_allclose(batch.weights[0], weights, rtol=1e-6)
  assert not np.any(np.asarray(batch.weights)[1:])


def test_with_a_kl_penalty_a_unanimous_group_is_learned_from():
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
def test_values_are_those_before_any_update(
  shared, proposers, solvers, solver_after
):
  """The critic of a role's owner, and the batches that its policy has."""
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

  critic = rounds_lib.Critic(values, update, None, 0.0, 1.0, 1.0)
  script.game = script.game._replace(critic=critic)
  states, outcome = script.play(1, keep_neutral=True)
  # Two questions were readable; two topics were asked.
  assert read == [(solvers, 2), (proposers, 2)]
  assert states[solvers] == solver_after
  assert [batch for _, batch in script.learned] == learned
  assert outcome.metrics['critic/solver/loss'] == 3
  solver, proposer = learned
  # Also from the question that all answered alike.
  assert solver.num_groups == 2
  assert solver.value_targets[0, :, :2].tolist() == [[1, 1]] * 3 + [[0, 0]]
  assert solver.value_targets[1, :, :2].tolist() == [[1, 1]] * 4
  # Rewards less 1/2 of 16 tokens: 14 times 1/2, twice -1/2; mean 3/8, and the
  # unbiased variance is (14/64 + 2 49/64) / 15 = 7/60.
  above, below = 1 / 8 / np.sqrt(7 / 60), -7 / 8 / np.sqrt(7 / 60)
  np.testing.assert_allclose(
    solver.advantages[0, :, :2],
    [[above, above]] * 3 + [[below, below]],
    rtol=1e-4,
  )
  assert proposer.advantages.shape[-1] == proposer.tokens.shape[-1]


def test_the_proposer_learns_in_every_kth_step():
  trained = [
    Script(PROPOSALS, SOLUTIONS).play(step, train_every=3)[1].trained
    for step in range(6)
  ]
  both, one = ('solver', 'proposer'), ('solver',)
  assert trained == [one, one, both, one, one, both]
  never = Script(PROPOSALS, SOLUTIONS).play(5, train_every=0)
  assert never[1].trained == one


def test_reading_ahead_changes_nothing(monkeypatch):
  ahead = Script(PROPOSALS, SOLUTIONS).play()[1]
  monkeypatch.setattr(background_grading.Ahead, 'add', lambda self, texts: None)
  plain = Script(PROPOSALS, SOLUTIONS).play()[1]
  assert ahead.rounds[0].verdicts == plain.rounds[0].verdicts
  assert ahead.rounds[0].verdicts[0].answers == (2, 2, 2, 3)


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
  equal = script.play(weights='equal')[1].rounds[0].verdicts[0]
  assert equal.vote.reason == 'tie'
  weighed = script.play(weights='likelihood')[1].rounds[0].verdicts[0]
  assert (weighed.vote.answer, weighed.vote.count) == (8, 2)
  assert weighed.solver_rewards == (0, 0, 1, 1)


def test_the_control_is_paid_by_the_checker():
  script = Script(PROPOSALS, [['2\n', '7\n', '7\n', '7\n']] * 4)
  verdict = script.play(solver_rewards={'true': 1.0})[1].rounds[0].verdicts[0]
  assert verdict.problem.text == '1 + 1'
  assert verdict.vote.answer == 7
  assert verdict.solver_rewards == (1, 0, 0, 0)


def test_a_proposer_paid_by_how_close_to_half_agree():
  verdicts = (
    Script(PROPOSALS, SOLUTIONS)
    .play(proposer_rewards={'r_zero': 1.0})[1]
    .rounds[0]
    .verdicts
  )
  # 3 of 4 agree, unreadable, all agree, unreadable.
  assert [v.proposer_reward for v in verdicts] == [0.5, -1, 0, -1]


def test_the_proposers_questions_are_compared_within_a_topic():
  script = Script(PROPOSALS, SOLUTIONS)
  script.play(1, estimator='dr_grpo')
  _, batch = script.learned[1]
  # Rewards 1, -1 of topic a and 0, -1 of topic b.
  expected = [[1, -1], [0.5, -0.5]]
  np.testing.assert_array_equal(batch.advantages[:2, :, 0], expected)
  assert batch.num_groups == 2


@pytest.mark.parametrize('keep_neutral', [False, True])
@pytest.mark.parametrize('step', [0, 1])
def test_no_valid_question(step, keep_neutral):
  script = Script(UNREADABLE)
  _, outcome = script.play(step, keep_neutral=keep_neutral)
  assert outcome.rounds[0].solutions is None
  assert not script.used['solver']
  assert 'solver' not in outcome.trained
  assert [v.proposer_reward for v in outcome.rounds[0].verdicts] == [-1.0] * 4
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
  'answers, reason, blanks',
  [
    (['x\n'] * 4, 'unparsed', 1.0),
    (['\n'] * 4, 'unparsed', 1.0),
    (['1\n', '2\n', '3\n', '4\n'], 'singleton', 0.0),
    (['1\n', '1\n', '2\n', '2\n'], 'tie', 0.0),
    (['1\n', 'x\n', '\n', '?\n'], 'singleton', 0.75),
  ],
)
def test_a_vote_that_nobody_wins(answers, reason, blanks):
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
  # No mean over nothing.
  assert 'vote/agreement' not in metrics
  assert 'vote/accuracy' not in metrics
  assert [v.proposer_reward for v in outcome.rounds[0].verdicts] == [
    0,
    -1,
    0,
    -1,
  ]


def test_least_agreement():
  _, outcome = Script(PROPOSALS, SOLUTIONS).play(min_agreement=0.8)
  assert outcome.metrics['vote/no_majority/disagreement'] == 1
  assert outcome.metrics['vote/majority_rate'] == 1 / 2


def test_answers_that_mean_the_same_are_one_vote():
  _, outcome = Script(PROPOSALS, [['2\n', '02\n', '2.0\n', '3\n']] * 2).play()
  votes = [v.vote for v in outcome.rounds[0].verdicts if v.vote]
  assert votes == [types.Vote(2, 3, 4)] * 2
  # 2 + 2 is not 2: the diagnosis sees it, the reward does not.
  assert outcome.metrics['vote/accuracy'] == 1 / 2
  assert outcome.metrics['solver/reward'] == 3 / 4


def test_a_question_over_the_limit_is_unreadable():
  # '1 + 1 = ' has 8 tokens, one more than there is room for.
  script = Script(PROPOSALS, **{'sampler.max_prompt_tokens': 7})
  _, outcome = script.play()
  assert outcome.rounds[0].solutions is None
  assert outcome.metrics['proposer/unreadable/too_long'] == 2
  assert [v.proposer_reward for v in outcome.rounds[0].verdicts] == [-1.0] * 4
  fits = Script(PROPOSALS, SOLUTIONS, **{'sampler.max_prompt_tokens': 8})
  assert 'proposer/unreadable/too_long' not in fits.play()[1].metrics


def test_the_format_control_pays_every_readable_answer():
  answers = ['1\n', 'x\n', '2\n', '2\n']
  _, outcome = Script(PROPOSALS, [answers] * 2).play(
    solver_rewards={'format': 1.0}
  )
  assert outcome.rounds[0].verdicts[0].solver_rewards == (1, 0, 1, 1)


def test_the_random_control_does_not_look_at_answers():
  def rewards(step, solutions, seed=0):
    script = Script(PROPOSALS, solutions)
    _, outcome = script.play(step, solver_rewards={'random': 1.0}, seed=seed)
    return [v.solver_rewards for v in outcome.rounds[0].verdicts]

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
def test_a_metric_that_is_not_finite_is_counted_by_name(bad):
  script = Script(PROPOSALS, SOLUTIONS, metric=bad)
  _, outcome = script.play(7)
  assert 'train/solver/loss' not in outcome.metrics
  assert outcome.metrics['train/solver/not_finite/loss'] == 1


def test_two_policies_are_two_states_with_the_same_start():
  parts = make_parts(**{'policy.shared': False})
  states = train_states.initial_states(parts)
  assert set(states) == {'proposer', 'solver'}
  jax.tree.map(
    np.testing.assert_array_equal, states['proposer'], states['solver']
  )
  # Training donates its state: no array may be in both.
  one, other = (jax.tree.leaves(state) for state in states.values())
  assert not {id(x) for x in one} & {id(x) for x in other}


def test_a_reference_is_held_only_for_a_penalty():
  assert build.make_game(make_parts()).reference_params is None
  with_kl = make_parts(**{'loss.kl_coef': 0.01})
  reference = build.make_game(with_kl).reference_params
  expected = with_kl.load_params('float32')
  jax.tree.map(np.testing.assert_array_equal, reference, expected)


def test_with_adapters_the_reference_is_the_base_itself():
  parts = make_parts(**{'loss.kl_coef': 0.01, 'model.lora.rank': 2})
  game = build.make_game(parts)
  assert game.reference_params is game.base_params
  whole = jax.eval_shape(parts.policy.init, jax.random.key(0))
  assert jax.tree.structure(game.base_params) == jax.tree.structure(
    lora.base(whole)
  )


def test_two_policies_of_adapters_share_one_base():
  parts = make_parts(**{'policy.shared': False, 'model.lora.rank': 2})
  states = train_states.initial_states(parts)
  one, other = (states[role].params for role in ('proposer', 'solver'))
  kernel = lambda tree: tree['layers']['mlp']['up']
  assert kernel(one).keys() == {'lora_a', 'lora_b'}
  assert not np.array_equal(kernel(one)['lora_a'], kernel(other)['lora_a'])
  assert not np.any(kernel(one)['lora_b'])
  game = build.make_game(parts)
  for role in states:
    whole = rounds_lib.params_of(role, states, game)
    assert whole['embedding'] is game.base_params['embedding']
    assert kernel(whole)['lora_a'] is kernel(states[role].params)['lora_a']


def test_a_weight_of_the_schedule_holds_in_its_step():
  schedule = (('r_zero', 0, 0.0), ('r_zero', 2, 1.0))
  rewards = [
    Script(PROPOSALS, SOLUTIONS)
    .play(step, proposer_schedule=schedule)[1]
    .rounds[0]
    .verdicts[0]
    .proposer_reward
    for step in range(4)
  ]
  # 3 of 4 agree: 1 by the paper, and 1 - 2 (3/4 - 1/2) by R-Zero.
  assert rewards == [1, 1.25, 1.5, 1.5]


def test_a_repeated_question_is_worth_less():
  same = [['1 + 1\n', '1 + 1\n'], ['2 + 2\n', '3 + 3']]
  answers = [['2\n', '2\n', '2\n', '3\n']] * 4
  script = Script(same, answers)
  _, outcome = script.play(
    proposer_rewards={'sqlm': 1.0, 'batch_repeats': 1.0},
  )
  # Two of three asked questions are alike: each resembles 1 of 2 others.
  found = [v.proposer_reward for v in outcome.rounds[0].verdicts]
  assert found == [0.5, 0.5, 1, -1]


def test_what_was_asked_before_is_worth_less_and_never_less_than_nothing():
  script = Script(PROPOSALS, SOLUTIONS)
  rewards = {'sqlm': 1.0, 'history_repeats': 5.0}
  memory = repetition.Memory(size=2)
  _, first = script.play(memory=memory, proposer_rewards=rewards)
  assert script.memory.questions == ('1 + 1', '2 + 2')  # readable ones
  _, second = script.play(1, script.memory, proposer_rewards=rewards)
  found = [
    [v.proposer_reward for v in outcome.rounds[0].verdicts]
    for outcome in (first, second)
  ]
  assert found == [[1, -1, 0, -1], [-1, -1, -1, -1]]


def test_answers_to_variants_of_a_prompt_vote_together():
  variants = {'task.solver_variants': ('Compute {question}: ',)}
  # Two answers to each of two prompts of two questions.
  answers = [['2\n', '2\n'], ['2\n', '3\n'], ['4\n', '4\n'], ['5\n', '6\n']]
  script = Script(PROPOSALS, answers, **variants)
  _, outcome = script.play(estimator='dr_grpo')
  votes = [v.vote for v in outcome.rounds[0].verdicts if v.vote]
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


def test_one_variant_that_does_not_fit_makes_a_question_unreadable():
  variants = {
    'task.solver_variants': ('Compute {question}: ',),
    'sampler.max_prompt_tokens': 10,
  }
  _, outcome = Script(PROPOSALS, **variants).play()
  assert outcome.metrics['proposer/unreadable/too_long'] == 2


def test_an_earlier_solver_votes_and_is_not_paid():
  earlier = {'vote.earlier_answers': 3, 'vote.earlier_every': 2}
  script = Script(
    PROPOSALS,
    [['2\n', '2\n', '3\n', '3\n']] * 2,
    [['3\n', '3\n', 'x\n']] * 2,
    **earlier,
  )
  states, outcome = script.play()
  verdict = outcome.rounds[0].verdicts[0]
  # 2 2 3 3 is a tie; with 3 3 and a blank there are four of seven for 3.
  assert verdict.vote == types.Vote(3, 4, 7)
  assert verdict.votes == (3, 3, None)
  assert verdict.solver_rewards == (0, 0, 1, 1)
  assert verdict.proposer_reward == 1
  assert script.used['voter'] == ['earlier']
  assert states == {'policy': 'policy+', 'earlier': 'earlier'}
  # Only the solver's own answers are learned from.
  ((_, batch),) = script.learned
  assert batch.counts[0].sum() == 4


def test_todays_solver_becomes_the_earlier_one():
  parts = make_parts(**{'vote.earlier_answers': 2, 'vote.earlier_every': 2})
  states = train_states.initial_states(parts)
  assert states['earlier'].opt_state == ()
  game = build.make_game(parts)
  writers = Script(
    PROPOSALS, SOLUTIONS, [['2\n', '2\n']] * 2, **{'vote.earlier_answers': 2}
  ).game.writers
  game = game._replace(
    writers=writers, rules=game.rules._replace(train_every=0)
  )
  kept = []
  for step in range(2):
    states, _, _ = step_lib.self_play_step(step, states, EMPTY, game)
    kept.append(jax.device_get(states))
  same = lambda one, other: all(
    np.array_equal(a, b)
    for a, b in zip(
      jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True
    )
  )
  assert not same(kept[0]['earlier'], kept[0]['policy'])
  assert same(kept[1]['earlier'], kept[1]['policy'])
  assert int(kept[1]['earlier'].step) == 2


def test_questions_written_beforehand():
  script = Script([], [['2\n', '2\n', '2\n', '3\n']] * 4)
  questions = ('1 + 1', '2 + 2', 'why?', '3 + 3', '4 + 4')
  script.game = script.game._replace(questions=questions)
  states, outcome = script.play(1)
  # Four a step, from the start again behind the last; step 1 begins with 5.
  assert [v.problem.text for v in outcome.rounds[0].verdicts] == [
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


def test_more_rounds_until_enough_questions_tell_answers_apart():
  script = Script(PROPOSALS, SOLUTIONS)
  _, outcome = script.play(rounds=3)
  # One of two questions a round tells: three rounds of at most four needed.
  assert len(outcome.rounds) == 3
  assert outcome.learned == {0, 2, 4}
  assert outcome.metrics['sample/rounds'] == 3
  assert outcome.metrics['proposer/valid_rate'] == 6 / 12
  ((_, batch),) = script.learned
  assert batch.num_groups == 3
  # The groups that agree do not count in the average: 12 answers of 2 tokens.
  assert batch.counts[:3].sum(axis=1).tolist() == [4, 4, 4]
  expected = np.asarray(batch.counts[:3]) / 24
  np.testing.assert_allclose(batch.weights[:3], expected, rtol=1e-6)


def test_a_row_names_the_weights_that_sampled_its_round():
  """The first round alone may have been sampled a step ahead."""
  _, outcome = Script(PROPOSALS, SOLUTIONS).play(rounds=3)
  rows = rollout_rows.rollout_rows(
    outcome,
    seed=0,
    sampled_by={'proposer': 1, 'solver': 1},
    policy_steps={'proposer': 5, 'solver': 5},
    show=str,
  )
  for role in ('proposer', 'solver'):
    found = [row['policy_step'] for row in rows if row['role'] == role]
    assert found == [1] * (len(found) // 3) + [5] * (len(found) // 3 * 2)


def test_no_more_rounds_than_it_takes():
  telling = [['2\n', '2\n', '2\n', '3\n']] * 4
  four = [['1 + 1\n', '2 + 2\n'], ['3 + 3\n', '4 + 4\n']]
  _, outcome = Script(four, telling).play(1, rounds=3)
  assert len(outcome.rounds) == 1
  assert outcome.learned == {0, 1, 2, 3}
  # What is left over of a round is not learned from.
  _, outcome = Script(four[:1] + PROPOSALS[1:], telling).play(rounds=3)
  assert len(outcome.rounds) == 2
  assert outcome.learned == {0, 1, 2, 3}


def test_the_next_step_is_asked_before_this_one_is_learned_from():
  script = Script(PROPOSALS, SOLUTIONS)
  states, outcome = script.play(0, look_ahead=True)
  assert states == {'policy': 'policy+'}
  assert script.used['proposer'] == script.used['solver'] == ['policy'] * 2
  # Nobody is asked again, and verdicts are those of a step on its own.
  _, then = script.play(1, asked=outcome.coming)
  assert len(script.used['proposer']) == len(script.used['solver']) == 2
  assert then.coming is None
  alone = Script(PROPOSALS, SOLUTIONS).play(1)[1]
  assert then.rounds[0].verdicts == alone.rounds[0].verdicts
  assert then.trained == alone.trained == ('solver', 'proposer')


def test_rounds_draw_other_samples():
  parts = make_parts()
  game = build.make_game(parts)
  states = train_states.initial_states(parts)
  first, second = (step_lib.propose(0, n, states, game) for n in (0, 1))
  assert first.texts != second.texts


def test_rounds_without_a_readable_question():
  script = Script(UNREADABLE)
  _, outcome = script.play(rounds=2)
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
def test_programs_are_paid_by_the_tests_they_pass():
  proposals = [[DOUBLE, 'Say one.\n1 => 1\n2 => 1\nEND'], ['why?END', DOUBLE]]
  answers = [
    ['2 * int(input())END', '2END', '1 +END', 'END'],
    ['2 * int(input())END'] * 4,
  ]
  script = Script(proposals, answers, **CODE)
  _, outcome = script.play(estimator='dr_grpo')
  first, second, third, fourth = outcome.rounds[0].verdicts
  assert first.problem.text == 'Double it.'
  assert first.problem.tests == (('1', '2'), ('3', '6'))
  # All tests, one of two, no program, no answer.
  assert first.solver_rewards == (1, 0.5, 0, 0)
  assert first.proposer_reward == 1
  assert second.problem.reason == 'constant_output'
  assert third.problem.reason == 'few_tests'
  assert fourth.solver_rewards == (1, 1, 1, 1)
  assert fourth.proposer_reward == 0
  assert [v.proposer_reward for v in (second, third)] == [-1, -1]
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
def test_a_wrong_test_pays_the_proposer_unless_it_is_left_out():
  wrong = 'Double it.\n1 => 2\n3 => 7\n4 => 8\nEND'
  proposals = [[wrong, 'why?END'], ['why?END', 'why?END']]
  answers = [['2 * int(input())END'] * 4]
  script = Script(proposals, answers, **CODE)
  for unsolved, expected in (('count', 1), ('leave_out', 0)):
    _, outcome = script.play(unsolved=unsolved)
    assert outcome.rounds[0].verdicts[0].proposer_reward == expected
    assert outcome.metrics['tests/passed_by_none'] == 1 / 3


# From here on with the real learner: scripted texts have one shape, so it is
# compiled once.
@functools.cache
def real_game() -> rounds_lib.Game:
  return build.make_game(make_parts())


def learn_scripted(states, step=0, solutions=SOLUTIONS):
  """A step with scripted texts and the real update."""
  writers = Script(PROPOSALS, solutions).game.writers
  game = real_game()._replace(writers=writers)
  game = game._replace(rules=game.rules._replace(train_every=0))
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
  assert gain[ord('3')] < -0.01  # the one that disagreed
  assert gain[ord('2')] > gain[ord('5')] > gain[ord('3')]  # nobody's answer


def test_a_step_without_a_lesson_leaves_the_weights_bit_for_bit():
  states = train_states.initial_states(make_parts())
  before = jax.device_get(states)
  blank = [['x\n'] * 4] * 2
  states, outcome = learn_scripted(states, solutions=blank)
  assert outcome.trained == ()
  jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(states))


def test_weights_that_are_not_finite_learn_nothing():
  states = train_states.initial_states(make_parts())
  params = jax.tree.map(lambda x: jnp.full_like(x, jnp.inf), states['policy'])
  _, outcome = learn_scripted({'policy': params}, step=3)
  assert outcome.metrics['train/solver/skipped_rate'] == 1
  assert outcome.metrics['train/solver/not_finite/loss'] == 1


def play_for_real(**changes):
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


def test_sampled_in_bfloat16_and_learned_in_float32():
  """The difference of the two dtypes is reported and enters the loss."""
  before, after, outcome = play_for_real(**{'sampler.dtype': 'bfloat16'})
  assert 1e-4 < outcome.metrics['sample/solver/logprob_gap'] < 0.05
  assert outcome.trained == ('solver',)
  for states in (before, after):
    assert {x.dtype for x in jax.tree.leaves(states['policy'].params)} == {
      jnp.dtype('float32')
    }


def test_texts_are_what_the_tokens_say(real_step):
  written = real_step[2].rounds[0].solutions
  for tokens, lengths, texts in zip(
    written.rollout.tokens, written.rollout.lengths, written.texts, strict=False
  ):
    for ids, length, text in zip(tokens, lengths, texts, strict=True):
      assert make_parts().tokens.decode(ids[:length].tolist()) == text
