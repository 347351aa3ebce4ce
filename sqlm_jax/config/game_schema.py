"""Config keys of the game: questions, answers, votes and rewards."""

import dataclasses
from typing import Literal

from sqlm_jax.config import keys

# Points (reward, step, weight).
Schedule = tuple[tuple[str, int, float], ...]
# Pairs of a question and its true answer, or its tests.
Examples = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Task:
  """Prompts of the two roles, and how questions and answers are read."""

  name: str = keys.key(
    '',
    'Name of the task in metric names; required.',
    keys.matches(r'[\w-]+', 'a name of letters, digits, _ and -'),
  )
  style: Literal['plain', 'chat'] = keys.key(
    'plain',
    "Form of a prompt: plain text, or a message in the model's chat template.",
  )
  date: str = keys.key(
    '',
    "Current date for chat templates that insert it. `''` uses the day on "
    'which the run starts, which is stored in its `config.json`.',
    keys.date(),
    may_change=keys.TO_EVALUATE,
  )
  topics: tuple[str, ...] = keys.key(
    ('',),
    'Values of `{topic}`; the groups of questions cycle through them.',
    keys.Check(bool, 'at least one topic'),
  )
  proposer_prompt: str = keys.key(
    '',
    'Template of the prompt for one question; required; may use `{topic}`.',
    keys.Check(lambda text: bool(text.strip()), 'a template'),
  )
  proposer_stop: tuple[str, ...] = keys.key(
    (), 'Strings that end a question.', keys.no_empty_string()
  )
  question_pattern: str = keys.key(
    '',
    "Regular expression of a readable question; `''` accepts any text.",
    keys.regex(),
  )
  solver_prompt: str = keys.key(
    '',
    'Template of the prompt for an answer; required; must use `{question}`.',
    keys.template('{question}'),
    may_change=keys.TO_EVALUATE,
  )
  solver_variants: tuple[str, ...] = keys.key(
    (),
    'Additional templates like `task.solver_prompt`. The answers of a group '
    'are divided equally among all templates.',
    keys.template('{question}'),
  )
  solver_stop: tuple[str, ...] = keys.key(
    (),
    'Strings that end an answer.',
    keys.no_empty_string(),
    may_change=keys.TO_EVALUATE,
  )
  answer_pattern: str = keys.key(
    '',
    "Regular expression that finds the answer. `''` takes the whole response, "
    'or for `task.answer_kind=code` its last fenced block.',
    keys.regex(),
    may_change=keys.TO_EVALUATE,
  )
  answer_kind: Literal['number', 'text', 'choice', 'expression', 'code'] = (
    keys.key(
      'number',
      'How answers are compared. With `code`, answers are programs that are '
      "run against the question's unit tests.",
    )
  )
  options: tuple[str, ...] = keys.key(
    (),
    'Texts of the options, for `task.answer_kind=choice`.',
    keys.Check(lambda options: len(options) <= 26, 'at most 26, A to Z'),
  )
  checker: str = keys.key(
    'none',
    'Source of true answers. They are used for metrics, and for training only '
    'with `solver.rewards.true`.',
    keys.matches(
      r'none|arithmetic|[\w.]+:\w+',
      'one of none, arithmetic, or module:function of yours',
    ),
  )
  test: Examples = keys.key(
    (),
    'Test set: pairs (question, true answer), or (question, tests) for code.',
    may_change=keys.TO_EVALUATE,
  )
  validation: Examples = keys.key(
    (),
    'Validation set, by which the best checkpoint is chosen.',
    may_change=keys.TO_EVALUATE,
  )
  questions: str = keys.key(
    '',
    "Fixed questions that replace the proposer's: a .txt, .jsonl or .parquet "
    "file, or the workdir of a run; `''` for none.",
  )

  @property
  def solver_templates(self) -> tuple[str, ...]:
    """All templates of the prompt for an answer."""
    return (self.solver_prompt, *self.solver_variants)


@dataclasses.dataclass(frozen=True)
class Tests:
  """Unit tests of a question, for `task.answer_kind=code`."""

  pattern: str = keys.key(
    r'(?m)^(.*?)=>(.*)$',
    'Regular expression of a test, whose groups are the input and the output.',
    keys.regex(groups=2),
  )
  min_count: int = keys.key(
    5, 'Minimum number of tests of a readable question.', keys.at_least(1)
  )
  max_count: int = keys.key(
    10,
    'Maximum number of tests, at least `tests.min_count`; further tests are '
    'ignored.',
  )
  program: str = keys.key(
    '{answer}',
    'Template of the program that is run.',
    keys.template('{answer}'),
    may_change=keys.TO_EVALUATE,
  )
  unsolved: Literal['count', 'leave_out'] = keys.key(
    'count',
    'Treatment of tests that no answer passes: count them as in the paper, or '
    'leave them out.',
  )


@dataclasses.dataclass(frozen=True)
class Sandbox:
  """The sandbox that runs programs, see [sandbox.md](sandbox.md)."""

  backend: Literal['bubblewrap', 'unsafe_subprocess'] = keys.key(
    'bubblewrap',
    'Program that isolates the tests; `unsafe_subprocess` does not protect '
    'this machine.',
  )
  workers: int = keys.key(
    0,
    'Number of programs that run in parallel; 0 is one per processor.',
    keys.within(0, 1024),
  )
  cpu_seconds: float = keys.key(
    2.0, 'Limit of CPU time per test.', keys.above(0, high=86400)
  )
  wall_seconds: float = keys.key(
    4.0, 'Limit of elapsed time per test.', keys.above(0, high=86400)
  )
  memory_mib: int = keys.key(
    256, 'Limit of memory per test, in MiB.', keys.at_least(1)
  )


@dataclasses.dataclass(frozen=True)
class ProposerRewards:
  """Weights of the terms whose sum is the reward of a question.

  A weight of 0 turns a term off.
  """

  sqlm: float = keys.key(
    1.0,
    'Weight of a term that is 1 if some answers agree, but not all.',
    keys.at_least(0),
  )
  r_zero: float = keys.key(
    0.0,
    'Weight of a term that is highest if half of the answers agree.',
    keys.at_least(0),
  )
  band: float = keys.key(
    0.0,
    'Weight of a term that is 1 if the agreement is in `proposer.band`.',
    keys.at_least(0),
  )
  batch_repeats: float = keys.key(
    0.0,
    "Weight of the fraction of the step's other questions that are "
    'near-duplicates. It is subtracted.',
    keys.at_least(0),
  )
  history_repeats: float = keys.key(
    0.0,
    'Weight of a term that is 1 if the question is a near-duplicate of a '
    'question of an earlier step. It is subtracted.',
    keys.at_least(0),
  )


@dataclasses.dataclass(frozen=True)
class Proposer:
  """The role that asks questions."""

  num_questions: int = keys.key(
    256,
    'Q, number of questions per round; a multiple of `proposer.group_size`.',
    keys.at_least(1),
  )
  group_size: int = keys.key(
    4,
    'Number of questions per group. With the estimators that use groups, '
    'advantages are relative to the group.',
    keys.at_least(2),
  )
  train_every: int = keys.key(
    5,
    'n: the proposer learns in every n-th step; 0 never trains it.',
    keys.at_least(0),
  )
  rewards: ProposerRewards = keys.group(ProposerRewards)
  reward_schedule: Schedule = keys.key(
    (),
    'Weights that change over time: points (reward, step, weight), between '
    'which a weight is interpolated linearly.',
    keys.reward_schedule(ProposerRewards),
  )
  band: tuple[float, float] = keys.key(
    (0.3, 0.8),
    'Agreements that `proposer.rewards.band` rewards.',
    keys.Check(
      lambda band: 0 <= band[0] <= band[1] <= 1,
      'two fractions from 0 to 1, the lower one first',
    ),
  )
  reward_over: Literal['group', 'sample'] = keys.key(
    'group',
    'For `task.answer_kind=code`: `group` computes the reward from the tests '
    'that all answers pass in total; `sample` averages the rewards of single '
    'answers.',
  )
  min_similarity: float = keys.key(
    0.85, 'Minimum similarity of near-duplicates.', keys.within(0, 1)
  )
  history_size: int = keys.key(
    10000,
    'Number of earlier questions for `proposer.rewards.history_repeats` and '
    '`gate.repeats`.',
    keys.at_least(0),
  )
  unreadable_reward: float = keys.key(
    -1.0,
    'Reward of an unreadable question. A readable question never gets less.',
    keys.at_most(0),
  )
  temperature: float = keys.key(
    1.0, 'Sampling temperature; 0 is greedy.', keys.within(0, 100)
  )
  top_p: float = keys.key(
    1.0,
    'Cumulative probability of nucleus sampling.',
    keys.above(0, high=1),
  )
  max_tokens: int = keys.key(
    1024, 'Maximum number of tokens of a question.', keys.at_least(1)
  )


@dataclasses.dataclass(frozen=True)
class SolverRewards:
  """Weights of the terms whose sum is the reward of an answer.

  A weight of 0 turns a term off.
  """

  majority: float = keys.key(
    1.0,
    'Weight of a term that is 1 for the answer of the majority.',
    keys.at_least(0),
  )
  tests: float = keys.key(
    0.0,
    'Weight of the fraction of the tests that a program passes.',
    keys.at_least(0),
  )
  format: float = keys.key(
    0.0,
    'Weight of a term that is 0 for an unparsed answer and 1 for any other.',
    keys.at_least(0),
  )
  random: float = keys.key(
    0.0,
    'Weight of a term that is 0 or 1 at random, as a control.',
    keys.at_least(0),
  )
  true: float = keys.key(
    0.0,
    'Weight of a term that is 1 for the true answer, as a control. It requires '
    '`task.checker`.',
    keys.at_least(0),
  )


@dataclasses.dataclass(frozen=True)
class Solver:
  """The role that answers questions."""

  group_size: int = keys.key(
    4,
    'G, number of answers per question; a multiple of the number of templates '
    'in `task.solver_prompt` and `task.solver_variants`.',
    keys.at_least(2),
  )
  rewards: SolverRewards = keys.group(SolverRewards)
  reward_schedule: Schedule = keys.key(
    (),
    'Weights that change over time, as in `proposer.reward_schedule`.',
    keys.reward_schedule(SolverRewards),
  )
  max_rounds: int = keys.key(
    1,
    'Maximum number of rounds of questions per step. No further round is asked '
    'once Q questions have answers with different rewards.',
    keys.within(1, 1000),
  )
  temperature: float = keys.key(
    1.0, 'Sampling temperature; 0 is greedy.', keys.within(0, 100)
  )
  temperatures: tuple[float, ...] = keys.key(
    (),
    'Temperatures that the answers to a prompt cycle through, instead of '
    '`solver.temperature`.',
    keys.Check(
      lambda temperatures: all(0 <= t <= 100 for t in temperatures),
      'numbers from 0 to 100',
    ),
  )
  top_p: float = keys.key(
    1.0,
    'Cumulative probability of nucleus sampling.',
    keys.above(0, high=1),
  )
  max_tokens: int = keys.key(
    1024,
    'Maximum number of tokens of an answer.',
    keys.at_least(1),
    may_change=keys.TO_EVALUATE,
  )


@dataclasses.dataclass(frozen=True)
class Vote:
  """The majority vote on the answers to a question."""

  weights: Literal['equal', 'likelihood'] = keys.key(
    'equal',
    'Weights of the votes: equal, or the geometric mean of the probabilities '
    'of the tokens.',
  )
  ties: Literal['none', 'first'] = keys.key(
    'none',
    '`none`: there is no majority in a tie or if the winner occurs only once, '
    'and unparsed answers cannot win. `first`: the vote of the code of the '
    'paper, in which the first answer wins a tie, and there is no majority if '
    'unparsed answers win.',
  )
  min_agreement: float = keys.key(
    0.0,
    'Minimum share of the votes that the majority needs. Unparsed answers '
    'count in the total.',
    keys.within(0, 1),
  )
  earlier_answers: int = keys.key(
    0,
    'Number of additional answers per question that an earlier solver '
    'samples. They vote, but are not trained on.',
    keys.at_least(0),
  )
  earlier_every: int = keys.key(
    10,
    'n: after every n-th step, the earlier solver becomes a copy of the '
    'current solver.',
    keys.at_least(1),
  )
