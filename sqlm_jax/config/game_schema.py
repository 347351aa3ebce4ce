"""Config keys of both roles: their responses, rewards and votes."""

import dataclasses
from typing import Literal

from sqlm_jax.config import keys

# Points (term, step, weight).
Schedule = tuple[tuple[str, int, float], ...]


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
    'Weight of a term that is 1 if half of the answers agree, and falls to 0 '
    'if none or all agree.',
    keys.at_least(0),
  )
  band: float = keys.key(
    0.0,
    'Weight of a term that is 1 if the agreement is in `proposer.band`.',
    keys.at_least(0),
  )
  coverage: float = keys.key(
    0.0,
    'Weight of a term that is higher the more rarely earlier steps asked '
    'questions of the kinds of the question, see `proposer.kinds`.',
    keys.at_least(0),
  )
  batch_repeats: float = keys.key(
    0.0,
    'Weight of a penalty: the fraction of the other questions of the step that '
    'are near-duplicates of the question.',
    keys.at_least(0),
  )
  history_repeats: float = keys.key(
    0.0,
    'Weight of a penalty, which is 1 if the question is a near-duplicate of a '
    'question of an earlier step.',
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
    'Number of questions per group, all on one topic. Group-relative '
    'advantages compare the rewards of a group.',
    keys.at_least(2),
  )
  train_every: int = keys.key(
    5,
    'n: the proposer is trained in every n-th step; 0 never trains it.',
    keys.at_least(0),
  )
  rewards: ProposerRewards = keys.group(ProposerRewards)
  reward_schedule: Schedule = keys.key(
    (),
    'Weights that change over time, as points (term, step, weight). The weight '
    'of a term is interpolated linearly between its points.',
    keys.reward_schedule(ProposerRewards),
  )
  reward_functions: tuple[tuple[str, float], ...] = keys.key(
    (),
    'Pairs of a function `module:function` of yours, which rewards a question, '
    'and its weight. The weighted values are added to the reward, see '
    '[your_functions.md](your_functions.md).',
    keys.weighted_functions(),
  )
  band: tuple[float, float] = keys.key(
    (0.3, 0.8),
    'Lowest and highest agreement that `proposer.rewards.band` rewards.',
    keys.Check(
      lambda band: 0 <= band[0] <= band[1] <= 1,
      'two fractions from 0 to 1, the lower one first',
    ),
  )
  reward_over: Literal['group', 'sample'] = keys.key(
    'group',
    'For `task.answer_kind=code`: `group` computes the reward from the mean '
    'share of tests that the answers pass; `sample` computes a reward for each '
    'answer and takes the mean.',
  )
  min_similarity: float = keys.key(
    0.85,
    'Minimum similarity of two questions that are near-duplicates.',
    keys.within(0, 1),
  )
  history_size: int = keys.key(
    10000,
    'Number of earlier questions that are remembered for '
    '`proposer.rewards.history_repeats`, `proposer.rewards.coverage`, '
    '`solver.replay`, `gate.repeats` and the metric `proposer/new_rate`.',
    keys.at_least(0),
  )
  kinds: str = keys.key(
    'words',
    'Kinds of question for the metric `proposer/coverage` and for '
    '`proposer.rewards.coverage`: `words`, the '
    'numbers and the pairs of neighboring words of a question; `topics`, its '
    'topic; or a function `module:function` of yours, which takes a question '
    'and returns the name of its kind, or None.',
    keys.matches(
      r'words|topics|[\w.]+:\w+', 'one of words, topics, or module:function'
    ),
  )
  unreadable_reward: float = keys.key(
    -1.0,
    'Reward of an unreadable question, and the minimum reward of any other '
    'question.',
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
  agreement: float = keys.key(
    0.0,
    'Weight of a soft label: the fraction of the votes for the answer, or 0 '
    'without a majority.',
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
    'in `task.solver_prompt` and `task.solver_variants`, times '
    '`task.num_forms`.',
    keys.at_least(2),
  )
  rewards: SolverRewards = keys.group(SolverRewards)
  reward_schedule: Schedule = keys.key(
    (),
    'Weights that change over time, as in `proposer.reward_schedule`.',
    keys.reward_schedule(SolverRewards),
  )
  reward_functions: tuple[tuple[str, float], ...] = keys.key(
    (),
    'Pairs of a function `module:function` of yours, which rewards an answer, '
    'and its weight. The weighted values are added to the reward, see '
    '[your_functions.md](your_functions.md).',
    keys.weighted_functions(),
  )
  replay: int = keys.key(
    0,
    'Number of earlier questions of the run that are asked again in each step, '
    'in addition to `proposer.num_questions`. They are drawn at random from '
    'the last `proposer.history_size` questions.',
    keys.at_least(0),
  )
  max_rounds: int = keys.key(
    1,
    'Maximum number of rounds per step. Above 1, a step adds rounds until Q '
    'questions have answers with different rewards, and the solver is trained '
    'on these (dynamic sampling).',
    keys.within(1, 1000),
  )
  temperature: float = keys.key(
    1.0, 'Sampling temperature; 0 is greedy.', keys.within(0, 100)
  )
  temperatures: tuple[float, ...] = keys.key(
    (),
    'Temperatures of the answers to a prompt, used in turn, instead of '
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
    'Weight of each vote: `equal`, or `likelihood`, the geometric mean of the '
    'probabilities of the tokens of the response.',
  )
  ties: Literal['none', 'first'] = keys.key(
    'none',
    '`none`: there is no majority in a tie or if the winner occurs only once, '
    'and unparsed answers cannot win. `first`, as in the code of the paper: '
    'the first answer wins a tie, and there is no majority if unparsed answers '
    'win.',
  )
  min_agreement: float = keys.key(
    0.0,
    'Minimum share of the votes that the majority needs. Unparsed answers '
    'count in the total.',
    keys.within(0, 1),
  )
  extra_answers: int = keys.key(
    0,
    'Number of additional answers per question, which are sampled by the '
    'solver. They count in the vote, but are not trained on. A multiple of the '
    'number of prompts among which the answers of a group are divided.',
    keys.at_least(0),
  )
  earlier_answers: int = keys.key(
    0,
    'Number of additional answers per question, which are sampled by an '
    'earlier solver. They count in the vote, but are not trained on.',
    keys.at_least(0),
  )
  earlier_every: int = keys.key(
    10,
    'n: after every n-th step, the current solver is copied to the earlier '
    'solver. With `policy.average_decay`, the moving average takes the place '
    'of the earlier solver, and this key has no effect.',
    keys.at_least(1),
  )
