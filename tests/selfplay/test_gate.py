"""The gate in a step: a refused question trains neither role, in any mode."""

import functools
import re

import jax
import numpy as np
import pytest
from ml_collections import config_dict

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.distributed import processes
from sqlm_jax.game import types, verdicts
from sqlm_jax.run import build, train_states
from sqlm_jax.selfplay import prefetch, proposing, step_types
from sqlm_jax.selfplay import step as step_lib
from sqlm_jax.workdir import rollout_rows

# A random model that ends half of its texts early, with two-letter questions.
CHANGES = {
  'mesh.data': 1,
  'random_model.num_layers': 1,
  'task.test': (),
  'task.validation': (),
  'task.question_pattern': '',
  'task.proposer_stop': tuple(map(chr, range(128))),
  'task.solver_prompt': '{question} is a number: ',
  'task.answer_pattern': '.',
  'task.answer_kind': 'text',
  'proposer.num_questions': 8,
  'proposer.group_size': 4,
  'proposer.train_every': 1,
  'proposer.max_tokens': 6,
  'solver.group_size': 4,
  'solver.max_tokens': 4,
}
MODES = {
  'one round': {},
  'several rounds': {'solver.max_rounds': 3, 'loss.kl_coef': 0.0},
  'one step ahead': {'sampler.one_step_ahead': True},
  'voters': {'vote.earlier_answers': 2},
  'separate weights': {'policy.shared': False},
  'PPO': {'advantage.estimator': 'gae'},
  'LoRA': {'model.lora.rank': 2},
}


@functools.cache
def make_parts(**changes) -> build.Parts:
  c = config_dict.ConfigDict(config_lib.to_dict(smoke_config()))
  c.update_from_flattened_dict(CHANGES | changes)
  return build.build(config_lib.from_dict(c))


def smoke_config() -> config_lib.Config:
  return config_lib.from_dict(smoke.get_config())


def refuse_odd(text: str) -> str | None:
  """Refuses about half of all questions, and always the same ones."""
  return 'odd' if sum(text.encode()) % 2 else None


def play(
  steps=2,
  *,
  functions=(refuse_odd,),
  known=verdicts.NONE,
  **changes,
):
  """Plays steps, and returns their outcomes and what each step learned.

  What a step learned is a set of (prompt ids, response ids), of all responses
  with a weight in a batch.
  """
  parts = make_parts(**changes)
  game = build.make_game(parts)
  learned = []
  train_step = game.train_step

  def record(state, batch, *args):
    learned[-1].update(responses_in(jax.device_get(batch)))
    return train_step(state, batch, *args)

  game = game._replace(
    train_step=record, gate=game.gate._replace(functions=functions)
  )
  states = train_states.initial_states(parts)
  memory = build.make_memory(parts.config)._replace(verdicts=known)
  outcomes = []
  prefetcher = prefetch.Prefetcher(game)
  for step in range(steps):
    learned.append(set())
    first_round = prefetcher.first_round(
      step,
      states,
      memory,
      look_ahead=parts.config.sampler.one_step_ahead and step + 1 < steps,
    )
    states, memory, outcome = step_lib.self_play_step(
      step, states, memory, game, first_round
    )
    outcomes.append(outcome)
  return outcomes, learned


def responses_in(batch) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
  """Returns the prompts and responses of a batch that have a weight."""
  prompts, found = batch.prompts, set()
  prefix = prompts.prefix_tokens[0][: prompts.prefix_lengths[0]]
  for q, g in np.argwhere(batch.weights):
    prompt = (*prefix, *prompts.tokens[q][: prompts.lengths[q]])
    response = batch.tokens[q, g][: batch.lengths[q, g]]
    found.add((tuple(map(int, prompt)), tuple(map(int, response))))
  return found


def responses_of(sampled, index, num_questions) -> list:
  """Returns the prompts and responses to one question, in order."""
  return [
    (
      tuple(sampled.prompt_ids[row]),
      tuple(map(int, tokens[:length])),
    )
    for row in sampled.rows_of(index, num_questions)
    for tokens, length in zip(
      sampled.rollout.tokens[row], sampled.rollout.lengths[row], strict=True
    )
  ]


def proposal_of(proposals, index) -> tuple:
  row, g = divmod(index, proposals.rollout.lengths.shape[1])
  length = proposals.rollout.lengths[row, g]
  tokens = proposals.rollout.tokens[row, g, :length]
  return tuple(proposals.prompt_ids[row]), tuple(map(int, tokens))


def refused_and_accepted(outcome):
  """Returns the responses that must not be learned, and the others.

  A response that a refused and another question share is among the others.
  """
  refused, accepted, num_refused = set(), set(), 0
  for game_round in outcome.rounds:
    readable = step_types.readable_questions([game_round])
    for i, question in enumerate(game_round.questions):
      is_out = question.proposer_reward is None
      num_refused += is_out
      target = refused if is_out else accepted
      target.add(proposal_of(game_round.proposals, i))
    for i, question in enumerate(readable):
      for response, reward in zip(
        responses_of(game_round.solutions, i, len(readable)),
        question.solver_rewards,
        strict=True,
      ):
        target = refused if reward is None else accepted
        target.add(response)
  return refused - accepted, accepted, num_refused


@pytest.mark.parametrize('mode', MODES)
def test_a_refused_question_trains_neither_role(mode):
  """Questions are refused by a function and, once solved, by their votes."""
  outcomes, learned = play(
    **MODES[mode],
    **{
      'gate.majority': True,
      'gate.max_agreement': 0.9,
      'exclude.patterns': (('early', '[a-m]'),),
    },
  )
  reasons = set()
  for outcome, responses in zip(outcomes, learned, strict=True):
    refused, accepted, _ = refused_and_accepted(outcome)
    assert refused
    assert not responses & refused
    assert responses <= accepted
    reasons |= {
      name.removeprefix('gate/')
      for name in outcome.metrics
      if name.startswith(('gate/', 'exclude/'))
    }
    for row in rollout_rows.to_rows(outcome, seed=0, show=str):
      if row['reason'] and (row['role'] == 'solver' or row['reward'] is None):
        assert row['reward'] is None
        assert not row['trained_on']
      if re.search('[a-m]', row['response']):
        assert row['reason'] == 'early'
  assert any(learned)  # otherwise this test is too weak
  assert {'odd', 'early', 'exclude/answers/early'} <= reasons
  assert reasons & {'tie', 'singleton', 'unparsed'}


def verdict(question, kind, answer=''):
  return {
    'id': verdicts.question_id(question),
    'question': question,
    'verdict': kind,
    'answer': answer,
  }


@pytest.mark.parametrize('mode', ['several rounds', 'PPO'])
def test_verdicts_train_instead_of_votes(mode):
  """One question is excluded, one has another answer, two are asked again."""
  changes = MODES[mode] | {'gate.reward': 'lowest'}
  before, _ = play(1, functions=(), **changes)
  readable = step_types.readable_questions(before[0].rounds)
  texts = {
    verdicts.question_id(q.problem.text): q.problem.text for q in readable
  }
  excluded, corrected, *_ = texts.values()
  known = verdicts.fold(
    [
      verdict(excluded, 'exclude'),
      verdict(corrected, 'correct', 'X'),
      verdict('4 + 4', 'correct', 'Y'),
      verdict('5 + 5', 'reject'),
    ]
  )
  (outcome,), (learned,) = play(
    1,
    functions=(),
    known=known,
    **{'review.replay': 4, 'task.test': (('4 + 4', '8'),)},
    **changes,
  )
  first = outcome.rounds[0]
  assert len(first.questions) == 8 + 2
  replayed = [q for q in first.questions if q.problem.replayed]
  assert {q.problem.text for q in replayed} == {corrected, '4 + 4'}
  for question in first.questions:
    text = question.problem.text
    if text == excluded:
      assert question.problem.reason == 'excluded'
      assert question.proposer_reward == -1
    if text == corrected:
      assert question.label.answer.lower() == 'x'
      assert (
        question.vote
        == next(q.vote for q in readable if q.problem.text == text)
        or question.problem.replayed
      )
      assert question.solver_rewards == tuple(
        float(answer == question.label.answer) for answer in question.answers
      )
  # The proposer learns from its eight questions, as without verdicts.
  rows = rollout_rows.to_rows(outcome, seed=0, show=str)
  assert sum(r['role'] == 'proposer' for r in rows) == 8 * len(outcome.rounds)
  assert outcome.metrics['gate/excluded'] >= 1
  assert outcome.metrics['review/replayed'] == 2
  # The proposer has not asked 4 + 4, which is in the test set.
  assert outcome.metrics['proposer/contaminated_rate'] == 0
  assert 'proposer' in outcome.trained
  prompts = {tuple(ids) for ids in first.solutions.prompt_ids[-2:]}
  if mode == 'PPO':  # which learns from groups with equal rewards, too
    assert prompts <= {prompt for prompt, _ in learned}


def test_all_processes_ask_the_same_questions_again(monkeypatch):
  """The first process decides, as functions may differ in other processes."""
  parts = make_parts(**{'review.replay': 2})
  game = build.make_game(parts)
  known = verdicts.fold([verdict('4 + 4', 'correct', 'Y')])
  memory = build.make_memory(parts.config)._replace(verdicts=known)
  sent = []

  def broadcast_from_first(make):
    sent.append(make())
    return [['5 + 5', [[7]]]]  # what the first process has drawn

  monkeypatch.setattr(processes, 'broadcast_from_first', broadcast_from_first)
  states = train_states.initial_states(parts)
  proposed = proposing.propose(0, 0, states, memory, game)
  ((drawn,),) = sent
  assert drawn[0] == '4 + 4'
  assert proposed.problems[-1] == types.Problem('5 + 5', replayed=True)
  assert proposed.prompts[-1] == [[7]]
