"""Decides which questions enter training, by an ordered list of rules.

Every question passes the rules once, in this order:

  before it is solved (`Gate.check_question`, `Gate.check_repeats`)
    (a name)            its response has content that is excluded
    unfinished          it was cut off at the token limit
    format, ...         it could not be parsed; the task gives the reason
    contaminated        it is in an evaluation set
    rejected, excluded  a reviewer has refused it or its vote
    too_long            its prompt is over the token limit
    several_questions   it has more than one question mark
    (any word)          a function of the user refused it
    repeats             it is a near-duplicate of another question
  after the vote (`Gate.check_vote`)
    states_answer       it contains its own voted answer
    unparsed, tie, singleton, disagreement: there is no majority
    too_easy            too many answers agree

The first rule that refuses a question gives the reason. The solver is not
trained on a refused question. The proposer either gets the lowest reward for it
or is not trained on it.
"""

import re
import string
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from sqlm_jax.config import gate_schema
from sqlm_jax.game import contamination, repetition, types
from sqlm_jax.game import exclusion as exclusion_lib

_QUESTION_MARKS = re.compile(r'[?？؟]+')


class Candidate(NamedTuple):
  """A question before it is solved.

  Attributes:
    problem: the question as the task parsed it.
    response: the whole response of the proposer.
    finished: False if the response was cut off.
    fits: False if a prompt with the question is over the token limit.
    leaks: True if the question is exempt from the rules with `may_leak`.
    verdict: reason for which a reviewer refused the question, '' for none.
  """

  problem: types.Problem
  response: str
  finished: bool
  fits: bool
  leaks: bool = False
  verdict: str = ''


class Rule(NamedTuple):
  """A rule on a question before it is solved.

  Attributes:
    reason: function that returns the reason to refuse a candidate, '' to accept
      it.
    reward: reward of the proposer for a question that the rule refuses.
    may_leak: True if a leaky gate may ignore the rule.
  """

  reason: Callable[[Candidate], str]
  reward: Literal['lowest', 'nothing']
  may_leak: bool = False


class Gate(NamedTuple):
  """The rules of a run.

  Attributes:
    config: settings of the rules on the quality of questions.
    guard: recognizes the questions of the evaluation sets.
    exclusion: the content that must not be trained on.
    functions: functions of the user.
    min_similarity: minimum similarity of near-duplicates.
    options: texts of the options if answers are letters of options, () if these
      texts are unknown; None for other kinds of answers.
  """

  config: gate_schema.Gate = gate_schema.Gate()
  guard: contamination.Guard = contamination.Guard()
  exclusion: exclusion_lib.Exclusion = exclusion_lib.NOTHING
  functions: tuple[exclusion_lib.Inspect, ...] = ()
  min_similarity: float = 1.0
  options: tuple[str, ...] | None = None

  def check_question(self, candidate: Candidate) -> types.Problem:
    """Applies the rules on a single question, before it is solved."""
    problem = candidate.problem
    for rule in self._rules():
      if reason := rule.reason(candidate):
        if not (rule.may_leak and candidate.leaks):
          return types.refuse(problem, reason, reward=rule.reward)
        problem = problem._replace(leaked=problem.leaked or reason)
    return problem

  def check_repeats(
    self,
    problems: Sequence[types.Problem],
    memory: repetition.Memory,
    leaks: Sequence[bool],
  ) -> list[types.Problem]:
    """Refuses questions that repeat others, if the config says so.

    Of near-duplicates in a round, the first is accepted. With
    `gate.repeats='history'`, no question may be like a remembered question
    either.

    Args:
      problems: the questions of a round, from all processes.
      memory: questions of earlier steps and rounds.
      leaks: True for each question to which the rule does not apply.
    """
    if self.config.repeats == 'accept':
      return list(problems)
    accepted = [i for i, problem in enumerate(problems) if problem.ok]
    texts = [problems[i].text for i in accepted]
    repeats = repetition.repeats_earlier(texts, self.min_similarity)
    if self.config.repeats == 'history':
      seen = memory.seen(texts, self.min_similarity)
      repeats = [a or bool(b) for a, b in zip(repeats, seen, strict=True)]
    checked = list(problems)
    for i, is_repeat in zip(accepted, repeats, strict=True):
      if not is_repeat:
        continue
      if leaks[i]:
        leaked = problems[i].leaked or 'repeats'
        checked[i] = problems[i]._replace(leaked=leaked)
      else:
        reward = self.config.reward
        checked[i] = types.refuse(problems[i], 'repeats', reward=reward)
    return checked

  def check_vote(self, question: str, vote: types.Vote) -> str:
    """Applies the rules on the vote; returns the reason to refuse, or ''."""
    if self.config.not_stating_answer and self.states_answer(
      question, vote.answer
    ):
      return 'states_answer'
    if vote.answer is None:
      return vote.reason if self.config.majority else ''
    if vote.count / vote.size > self.config.max_agreement:
      return 'too_easy'
    return ''

  def states_answer(self, question: str, answer: types.Answer) -> bool:
    """Returns True if a question contains its answer.

    The answer to a choice is looked up as the text of its option, because the
    words of many questions contain a letter such as A.
    """
    if self.options is None or answer is None:
      return states(question, answer)
    text = dict(zip(string.ascii_uppercase, self.options, strict=False))
    return states(question, text.get(str(answer)))

  def _rules(self) -> tuple[Rule, ...]:
    """Returns the rules on a single question before it is solved."""
    quality = self.config.reward
    return (
      Rule(lambda c: self.exclusion.reason(c.response), 'nothing'),
      Rule(lambda c: '' if c.finished else 'unfinished', 'lowest'),
      Rule(lambda c: c.problem.reason, 'lowest'),
      Rule(self._is_contaminated, 'nothing'),
      Rule(lambda c: c.verdict, quality),
      Rule(lambda c: '' if c.fits else 'too_long', 'lowest'),
      Rule(self._asks_several, quality, may_leak=True),
      Rule(self._call_functions, quality, may_leak=True),
    )

  def _is_contaminated(self, candidate: Candidate) -> str:
    excluded = self.guard.exclude and self.guard.has(candidate.problem.text)
    return types.CONTAMINATED if excluded else ''

  def _asks_several(self, candidate: Candidate) -> str:
    if not self.config.single_question:
      return ''
    several = asks_several(candidate.problem.text)
    return 'several_questions' if several else ''

  def _call_functions(self, candidate: Candidate) -> str:
    for function in self.functions:
      if reason := function(candidate.problem.text):
        return reason
    return ''


def asks_several(question: str) -> bool:
  """Returns True if a question has more than one question mark."""
  return len(_QUESTION_MARKS.findall(question)) > 1


def states(question: str, answer: types.Answer) -> bool:
  """Returns True if the words of a question contain an answer."""
  if answer is None:
    return False
  within, words = repetition.words(question), repetition.words(str(answer))
  size = len(words)
  return any(
    within[start : start + size] == words
    for start in range(len(within) - size + 1)
  )
