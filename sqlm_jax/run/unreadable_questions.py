"""Describes the questions of a step that could not be used."""

import collections
from collections.abc import Sequence

from sqlm_jax import display
from sqlm_jax.config import schema as config_lib
from sqlm_jax.game import types

_SHOWN = 3
_WIDTH = 70  # columns of a question


def describe(
  problems: Sequence[types.Problem], config: config_lib.Config
) -> str:
  """Describes how many questions failed and why, with up to three examples.

  Args:
    problems: All questions of a step; some of them are not ok.
    config: Config of the run; each reason names the key that decides.
  """
  failed = [problem for problem in problems if not problem.ok]
  reasons = collections.Counter(problem.reason for problem in failed)
  why = '; '.join(
    f'{number} {_reason(name, config)}'
    for name, number in reasons.most_common()
  )
  shown = list(dict.fromkeys(display.clip(p.text, _WIDTH) for p in failed))
  return (
    f'{len(failed)} of {len(problems)} questions could not be used: {why}. '
    f'For example: {", ".join(map(repr, shown[:_SHOWN]))}'
  )


def _reason(name: str, config: config_lib.Config) -> str:
  """Explains a value of `Problem.reason` and names its config key."""
  task, tests = config.task, config.tests
  reasons = {
    'format': f'did not match task.question_pattern={task.question_pattern!r}'
    if task.question_pattern
    else 'were empty',
    'special_token': 'contained a special token of the model',
    'unfinished': f'reached proposer.max_tokens={config.proposer.max_tokens} '
    f'without a stop in task.proposer_stop={task.proposer_stop!r}',
    'too_long': 'gave a prompt longer than '
    f'sampler.max_prompt_tokens={config.sampler.max_prompt_tokens}',
    types.CONTAMINATED: 'are in an evaluation set '
    f'(evaluation.contaminated={config.evaluation.contaminated!r})',
    'several_questions': 'asked several questions (gate.single_question)',
    'timeout': 'took too long to search for task.question_pattern or a '
    'pattern of exclude.patterns',
    'words': f'contain words of exclude.words_file='
    f'{config.exclude.words_file!r}',
    'repeats': 'repeated other questions '
    f'(gate.repeats={config.gate.repeats!r})',
    'few_tests': f'had fewer than tests.min_count={tests.min_count} tests that '
    f'match tests.pattern={tests.pattern!r}',
    'contradiction': 'had tests that contradict each other',
    'constant_output': 'had tests that all expect the same output',
  }
  return reasons.get(name, name)
