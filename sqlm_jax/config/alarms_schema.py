"""Config keys of alarms and of the probe, and the default alarms."""

import dataclasses
import re

from sqlm_jax.config import conditions, keys

# A rule: its name, the condition, the number of consecutive steps in which it
# must hold, and the action.
Rule = tuple[str, str, int, str]
ACTIONS = ('off', 'warn', 'not_best', 'roll_back', 'finish', 'stop')

DEFAULTS: tuple[Rule, ...] = (
  ('not_finite', '*/*/skipped_rate >= 1', 5, 'stop'),
  ('unreadable', 'proposer/valid_rate < 0.5', 3, 'warn'),
  ('one_answer', 'solver/answer_share_max > 0.9', 2, 'not_best'),
  ('one_option', 'vote/option_share/* > 0.9', 2, 'not_best'),
  ('few_questions', 'proposer/distinct_rate < 0.25', 2, 'warn'),
  ('old_questions', 'proposer/new_rate < 0.02', 5, 'warn'),
  ('short_answers', 'sample/solver/tokens < 0.5 * start', 2, 'warn'),
  (
    'hardening',
    'vote/unanimous_rate > 0.95 and train/solver/kl > 0.5',
    3,
    'warn',
  ),
)


def _are_rules(rules: tuple[Rule, ...]) -> bool:
  names = [name for name, *_ in rules]
  return len(set(names)) == len(names) and all(
    re.fullmatch(r'[\w-]+', name)
    and (action == 'off' or conditions.is_valid(condition))
    and steps >= 1
    and action in ACTIONS
    for name, condition, steps, action in rules
  )


@dataclasses.dataclass(frozen=True)
class Alarms:
  """Alarms on metrics, see [watch.md](watch.md#alarms)."""

  rules: tuple[Rule, ...] = keys.key(
    (),
    'Rules of further alarms: (name, condition, number of consecutive steps, '
    'action). A rule with the name of a default alarm replaces it.',
    keys.Check(
      _are_rules,
      'rules (name, condition, steps, action) with different names of letters, '
      "digits, _ and -, a condition such as 'vote/agreement > 0.9' or "
      "'sample/solver/tokens < 0.5 * start', at least 1 step, and one of the "
      f'actions {", ".join(ACTIONS)}',
    ),
  )
  defaults: bool = keys.key(True, 'Use the default alarms.')
  webhook: str = keys.key(
    '',
    "URL to which alarms are posted as JSON; `''` for none. The URL is stored "
    'in config.json.',
    keys.matches(r'(https?://\S+)?', "a URL http://... or https://..., or ''"),
  )
  max_rollbacks: int = keys.key(
    3,
    'Maximum number of rollbacks; the next one stops the run instead.',
    keys.at_least(0),
  )


@dataclasses.dataclass(frozen=True)
class Probe:
  """A fixed set of the run's own questions that is answered every few steps.

  See [watch.md](watch.md#the-probe).
  """

  every: int = keys.key(
    0,
    'n: the solver answers the questions of the probe after every n-th step; 0 '
    'for no probe.',
    keys.at_least(0),
  )
  questions: int = keys.key(
    64, 'Maximum number of questions.', keys.at_least(1)
  )
  answers: int = keys.key(
    8,
    'G, number of answers to each question, sampled with '
    '`evaluation.temperature` and `evaluation.top_p`.',
    keys.at_least(2),
  )
  steps: int = keys.key(
    2,
    'n: the questions are chosen from those of the first n steps.',
    keys.at_least(1),
  )
