"""Config keys of what enters training: gate, excluded content and review."""

import dataclasses
import re
from typing import Literal

from sqlm_jax.config import keys


@dataclasses.dataclass(frozen=True)
class Gate:
  """Rules on the quality of questions, see [watch.md](watch.md).

  The solver is not trained on a question that a rule refuses. `gate.reward`
  determines whether the proposer is.
  """

  single_question: bool = keys.key(
    False, 'Refuse questions with more than one question mark.'
  )
  functions: tuple[str, ...] = keys.key(
    (),
    'Functions `module:function` of yours, which take a question and return '
    'the reason to refuse it, as one word, or None.',
    keys.functions(),
  )
  repeats: Literal['accept', 'batch', 'history'] = keys.key(
    'accept',
    'Near-duplicates, by `proposer.min_similarity`: `batch` refuses '
    'near-duplicates of earlier questions of the same round; `history` also '
    'those of the last `proposer.history_size` questions; `accept` refuses '
    'none.',
  )
  not_stating_answer: bool = keys.key(
    False, 'Refuse questions that contain their own voted answer.'
  )
  majority: bool = keys.key(
    False,
    'Refuse questions without a majority, including those below '
    '`vote.min_agreement`. Otherwise, these questions stay in training, and '
    'none of their answers counts as right.',
  )
  max_agreement: float = keys.key(
    1.0,
    'Refuse questions whose agreement is higher. The lower limit is '
    '`vote.min_agreement`.',
    keys.within(0, 1),
  )
  reward: Literal['nothing', 'lowest'] = keys.key(
    'nothing',
    "The proposer's reward for a question that these rules refuse: `nothing`, "
    'so that the proposer is not trained on it either, or `lowest`, which is '
    '`proposer.unreadable_reward`.',
  )
  leak: float = keys.key(
    0.0,
    'Fraction of the questions, drawn at random, that are exempt from these '
    'rules and from `vote.min_agreement`; for studies of the gate.',
    keys.within(0, 1),
  )


@dataclasses.dataclass(frozen=True)
class Exclude:
  """Content that is not trained on, see [watch.md](watch.md).

  The rules are applied to the whole responses of both roles. An excluded answer
  does not count in the vote either.
  """

  patterns: tuple[tuple[str, str], ...] = keys.key(
    (),
    'Pairs of a name and a regular expression. A response with a match is '
    'excluded, and the name is the reason.',
    keys.Check(
      lambda pairs: all(
        re.fullmatch(r'[\w-]+', name) and keys.regex().is_valid(pattern)
        for name, pattern in pairs
      ),
      'pairs of a name of letters, digits, _ and -, and a regular expression',
    ),
  )
  words_file: str = keys.key(
    '',
    "Text file with one excluded word or phrase per line, ignoring case; `''` "
    'for none.',
  )
  functions: tuple[str, ...] = keys.key(
    (),
    'Functions `module:function` of yours, which take a response and return '
    'the reason to exclude it, as one word, or None.',
    keys.functions(),
  )


@dataclasses.dataclass(frozen=True)
class Review:
  """Verdicts of people, see [review.md](review.md).

  The true answer of a verdict replaces the vote as the label of a question.
  """

  pick: Literal['uncertain', 'leverage', 'views'] = keys.key(
    'uncertain',
    'Votes that a reviewer sees first: `uncertain`, those in which about half '
    'of the answers agree; `leverage`, those for which another true answer '
    'would change the advantages most; `views`, those in which the answers to '
    'the prompts of `task.solver_variants` differ most (the same as '
    '`uncertain` if there is only one prompt).',
  )
  random_share: float = keys.key(
    0.2,
    'Fraction of the questions that are shown as random draws instead. How '
    'often votes are right is estimated from these alone.',
    keys.within(0, 1),
  )
  replay: int = keys.key(
    0,
    'Number of questions with a known true answer that are asked again in '
    'each step, in addition to `proposer.num_questions`.',
    keys.at_least(0),
  )
  wait: int = keys.key(
    0,
    'n: each step waits until people have given n verdicts since the previous '
    'step; 0 never waits.',
    keys.at_least(0),
    may_change=keys.TO_RESUME,
  )
  by: Literal['people', 'checker'] = keys.key(
    'people',
    'Who gives the verdicts: `people`, or `checker`, which simulates a '
    'reviewer with `task.checker`, for studies.',
  )
  budget: int = keys.key(
    0,
    'Number of verdicts per step of `review.by=checker`.',
    keys.at_least(0),
  )
