"""Config keys of what enters training: gate, excluded content and reviews."""

import dataclasses
import re
from typing import Literal

from sqlm_jax.config import keys

_FUNCTIONS = keys.Check(
  lambda names: all(re.fullmatch(r'[\w.]+:\w+', name) for name in names),
  'names module:function',
)


@dataclasses.dataclass(frozen=True)
class Gate:
  """Rules on the quality of questions, see [watch.md](watch.md).

  A question that a rule refuses trains neither role, except for
  `gate.reward`.
  """

  single_question: bool = keys.key(
    False, 'Refuse questions with more than one question mark.'
  )
  functions: tuple[str, ...] = keys.key(
    (),
    'Functions `module:function` of yours from a question to the reason to '
    'refuse it, one word, or None.',
    _FUNCTIONS,
  )
  repeats: Literal['accept', 'batch', 'history'] = keys.key(
    'accept',
    'Near-duplicates by `proposer.min_similarity`: `batch` refuses those of '
    'earlier questions of the round, `history` also those of the last '
    '`proposer.history_size` questions.',
  )
  not_stating_answer: bool = keys.key(
    False, 'Refuse questions that contain their own voted answer.'
  )
  majority: bool = keys.key(
    False,
    'Refuse questions whose answers have no majority, also because of '
    '`vote.min_agreement`. Otherwise, these questions stay in training, and '
    'no answer to them is right.',
  )
  max_agreement: float = keys.key(
    1.0,
    'Refuse questions if a larger fraction of the answers agrees. The lower '
    'end of the range is `vote.min_agreement`.',
    keys.within(0, 1),
  )
  reward: Literal['nothing', 'lowest'] = keys.key(
    'nothing',
    "The proposer's reward for a question that these rules refuse: none, so "
    'that it is not trained on, or `proposer.unreadable_reward`.',
  )
  leak: float = keys.key(
    0.0,
    'Fraction of the questions, drawn at random, to which these rules and '
    '`vote.min_agreement` do not apply; for studies of the gate.',
    keys.within(0, 1),
  )


@dataclasses.dataclass(frozen=True)
class Exclude:
  """Content that is not trained on, see [watch.md](watch.md).

  It applies to whole responses of both roles. An excluded answer does not vote
  either.
  """

  patterns: tuple[tuple[str, str], ...] = keys.key(
    (),
    'Pairs of a name and a regular expression; a response with a match is '
    'excluded, with the name as its reason.',
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
    "Text file with one excluded word or phrase per line; `''` for none. Case "
    'does not matter.',
  )
  functions: tuple[str, ...] = keys.key(
    (),
    'Functions `module:function` of yours from a response to the reason to '
    'exclude it, one word, or None.',
    _FUNCTIONS,
  )


@dataclasses.dataclass(frozen=True)
class Review:
  """Verdicts of people, see [review.md](review.md).

  The answer of a verdict pays instead of the vote.
  """

  pick: Literal['uncertain', 'leverage', 'views'] = keys.key(
    'uncertain',
    'Votes that a reviewer sees first: `uncertain`, about half of the answers '
    'agree; `leverage`, another true answer would change the advantages most; '
    '`views`, the answers to `task.solver_variants` differ most (`uncertain` '
    'if there is one prompt).',
  )
  random_share: float = keys.key(
    0.2,
    'Fraction of the questions that is shown as a random draw instead. Only '
    'these estimate how often votes are right.',
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
    'n: a step waits until people have given n verdicts since the step before '
    'it; 0 never waits.',
    keys.at_least(0),
    may_change=keys.TO_RESUME,
  )
  by: Literal['people', 'checker'] = keys.key(
    'people',
    '`checker` simulates a reviewer, for studies: `task.checker` gives the '
    'verdicts.',
  )
  budget: int = keys.key(
    0,
    'Number of verdicts per step of `review.by=checker`.',
    keys.at_least(0),
  )
