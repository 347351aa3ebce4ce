"""Signals that show without labels whether a run still learns.

They are metrics of the answers and questions of a step, which docs/metrics.md
defines. Some compare a step with earlier steps, whose values are stored in
`History`.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlm_jax.config import schema
from sqlm_jax.distributed import processes
from sqlm_jax.game import (
  agreement,
  exclusion,
  gate,
  question_kinds,
  repetition,
  rewards,
  types,
)
from sqlm_jax.sandbox import unit_tests
from sqlm_jax.selfplay import exchange, step_types

MAX_KINDS = 10_000  # kinds of question that are remembered

_NO_KINDS = question_kinds.Kinds(MAX_KINDS)


class History(NamedTuple):
  """The memory of the signals, which checkpoints store.

  Attributes:
    kinds: kinds of question that the run has asked.
    solver_tokens: mean number of tokens of an answer in the first step that has
      answers, None before this step.
  """

  kinds: question_kinds.Kinds = _NO_KINDS
  solver_tokens: float | None = None

  def to_host(self) -> dict[str, Any]:
    """Converts to values that JSON can represent."""
    return {
      'kinds': sorted(self.kinds.seen),
      'solver_tokens': self.solver_tokens,
    }


def from_host(state: Mapping[str, Any] | None) -> History:
  """Converts back from `History.to_host`; None is an empty history."""
  if state is None:
    return History()
  return History(_NO_KINDS.add(state['kinds']), state['solver_tokens'])


class _Asked(NamedTuple):
  """A question that this process graded.

  Attributes:
    question: the question.
    views: the answers to each prompt, and those of an earlier solver.
    is_new: True if no earlier question of the step has the same text.
  """

  question: types.ScoredQuestion
  views: list[tuple[types.Answer, ...]]
  is_new: bool

  def answers(self) -> list[types.Answer]:
    """Returns the answers that vote, None for an unparsed one."""
    question = self.question
    answers = (*question.answers, *question.voter_answers)
    return exclusion.accepted(answers, question.excluded)


def of_step(
  rounds: Sequence[step_types.Round], game: step_types.GameSetup
) -> dict[str, float]:
  """Computes the signals that do not need earlier steps, over all processes."""
  asked = list(_asked(rounds))
  means = _of_tests(asked, game) if game.task.run_tests else _of_votes(asked)
  means |= _of_questions(asked, game)
  sums = exchange.sums(means)
  metrics = {name: total / n for name, (total, n) in sums.items() if n}
  metrics |= _largest_answer_share(asked)
  if game.config.task.answer_kind == 'choice':
    metrics |= _option_shares(asked, game.config)
  return metrics


def since_start(
  step: int,
  outcome: step_types.Outcome,
  history: History,
  memory: repetition.Memory,
  game: step_types.GameSetup,
) -> tuple[dict[str, float], History]:
  """Computes the signals that compare a step with earlier steps.

  Args:
    step: self-play step, counted from 0.
    outcome: outcome of the step.
    history: the memory of the signals before the step.
    memory: questions of earlier steps.
    game: the constant parts of self-play.

  Returns:
    The signals, and the history with this step added.
  """
  proposer, metrics = game.config.proposer, {}
  # A question that the gate refuses as a repeat is a readable question, too.
  texts = [
    question.problem.text
    for game_round in outcome.rounds
    for question in step_types.proposed(game_round.questions)
    if question.problem.ok or question.problem.reason == 'repeats'
  ]
  if texts and memory.size:
    repeats = memory.seen(texts, proposer.min_similarity)
    metrics['proposer/new_rate'] = 1 - sum(repeats) / len(repeats)
  kinds = _kinds(step, outcome.rounds, game)
  if kinds is not None:
    history = history._replace(kinds=history.kinds.add(kinds))
    coverage = history.kinds.coverage(kinds)
    if coverage is not None:
      metrics['proposer/coverage'] = coverage
  tokens = outcome.metrics.get('sample/solver/tokens')
  if tokens:
    first = tokens if history.solver_tokens is None else history.solver_tokens
    history = history._replace(solver_tokens=first)
    metrics['sample/solver/tokens_ratio'] = tokens / first
  return metrics, history


def _asked(rounds: Sequence[step_types.Round]) -> Iterator[_Asked]:
  texts: set[str] = set()  # also of questions that other processes graded
  for game_round in rounds:
    readable = step_types.readable_questions([game_round])
    for index, question in enumerate(readable):
      if question.problem.replayed:  # the proposer has not asked it
        continue
      text = question.problem.text
      if question.answers and game_round.solutions is not None:
        rows = game_round.solutions.rows_of(index, len(readable))
        size = len(question.answers) // len(rows)
        views = [
          question.answers[start : start + size]
          for start in range(0, len(question.answers), size)
        ]
        yield _Asked(
          question, [*views, question.voter_answers], text not in texts
        )
      texts.add(text)


def _of_votes(asked: Sequence[_Asked]) -> dict[str, list[float]]:
  """Returns the values of the signals of votes, one per question."""
  values = {
    'vote/entropy': [agreement.entropy(a.answers()) for a in asked],
    'vote/margin': [agreement.margin(a.answers()) for a in asked],
    'vote/view_gap': [agreement.view_gap(a.views) for a in asked],
  }
  return {
    name: [value for value in column if value is not None]
    for name, column in values.items()
  }


def _of_tests(
  asked: Sequence[_Asked], game: step_types.GameSetup
) -> dict[str, list[float]]:
  """Returns the values of the signals of tests, one per question."""
  config, values = game.config, collections.defaultdict(list)
  for question, _, _ in asked:
    passed = unit_tests.shares_passed(
      exclusion.accepted(question.results, question.excluded),
      unsolved=config.tests.unsolved,
    )
    values['proposer/wasted_rate'].append(float(len(set(passed)) < 2))
    values['proposer/band_rate'].append(
      rewards.difficulty_of_tests(
        'band',
        passed,
        over=config.proposer.reward_over,
        band=config.proposer.band,
      )
    )
  return dict(values)


def _of_questions(
  asked: Sequence[_Asked], game: step_types.GameSetup
) -> dict[str, list[float]]:
  """Returns the values of the signals of questions and of their votes."""
  values = collections.defaultdict(list)
  for question, _, _ in asked:
    text, vote = question.problem.text, question.vote
    answer = None
    if vote is not None:
      answer = vote.answer
      band = rewards.difficulty_of_vote(
        'band', vote, band=game.config.proposer.band
      )
      values['proposer/band_rate'].append(band)
      is_wasted = answer is None or vote.count == vote.size
      values['proposer/wasted_rate'].append(float(is_wasted))
    leaks = gate.asks_several(text) or game.gate.states_answer(text, answer)
    values['proposer/leak_rate'].append(float(leaks))
  return dict(values)


def _largest_answer_share(asked: Sequence[_Asked]) -> dict[str, float]:
  """Returns the largest share of one answer over all different questions.

  Each different question has the same weight, which is divided equally among
  its parsed answers.
  """
  shares = collections.defaultdict(list)
  for question, _, is_new in asked:
    parsed = [answer for answer in question.answers if answer is not None]
    if is_new:
      for answer in parsed:
        shares[str(answer)].append(1 / len(parsed))
  totals = [total for total, _ in exchange.sums(shares).values()]
  if not totals:
    return {}
  return {'solver/answer_share_max': max(totals) / sum(totals)}


def _option_shares(
  asked: Sequence[_Asked], config: schema.Config
) -> dict[str, float]:
  """Returns the share of each option and position among the parsed answers.

  Without shuffled options, an option is always at the same position.
  """
  letters = config.task.letters
  options = collections.Counter(dict.fromkeys(letters, 0))
  for a in asked:
    options.update(str(x) for x in a.answers() if x is not None)
  metrics = _shares('vote/option_share', options)
  if config.task.shuffle_options:
    metrics |= _shares('vote/position_share', _count_positions(asked, config))
  return metrics


def _count_positions(
  asked: Sequence[_Asked], config: schema.Config
) -> Mapping[str, int]:
  """Counts the letters that the answers had in their own prompts."""
  letters = config.task.letters
  orders = config.task.option_orders(config.solver.group_size)
  counts = collections.Counter(dict.fromkeys(letters, 0))
  for question, _, _ in asked:
    answers = (*question.answers, *question.voter_answers)
    for answer, prompt in zip(answers, config.prompt_of_answers, strict=True):
      if answer is not None:
        order = orders[prompt % len(orders)]
        counts[letters[order.index(letters.index(str(answer)))]] += 1
  return counts


def _shares(prefix: str, counts: Mapping[str, int]) -> dict[str, float]:
  """Returns each count's share of all counts, {} if there are none.

  Args:
    prefix: prefix of the metric names.
    counts: counts of this process by name.
  """
  sums = exchange.sums({name: [count] for name, count in counts.items()})
  total = sum(value for value, _ in sums.values())
  if not total:
    return {}
  return {
    f'{prefix}/{name}': value / total for name, (value, _) in sums.items()
  }


def _kinds(
  step: int, rounds: Sequence[step_types.Round], game: step_types.GameSetup
) -> set[str] | None:
  """Returns the kinds of the readable questions, None without any question."""
  questions = step_types.proposed(step_types.readable_questions(rounds))
  if not questions:
    return None
  texts = list(dict.fromkeys(q.problem.text for q in questions))
  if game.skill is not None:
    skill = game.skill
    # A function of the user may return different values in other processes.
    skills = processes.broadcast_from_first(lambda: [skill(t) for t in texts])
    return {kind for kind in skills if kind is not None}
  if game.config.proposer.kinds == 'topics':
    topics = game.task.topics(step)
    return {
      topics[i // game.config.proposer.group_size]
      for game_round in rounds
      for i, question in enumerate(step_types.proposed(game_round.questions))
      if question.problem.ok
    }
  return set().union(*map(question_kinds.of_words, texts))
