"""Config keys of the task: what is asked, and how answers are read."""

import dataclasses
import string
from typing import Literal

from sqlm_jax.config import keys

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
    "Form of a prompt: `plain` text, or `chat`, a user message in the model's "
    'chat template.',
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
    'Values of `{topic}`. The groups of questions use them in turn.',
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
    'Regular expression that finds the question in a response. A response '
    'without a match is unreadable. If the pattern has a group `(...)`, the '
    "question is the text of the first group; `(?:...)` is not a group. `''` "
    'takes the whole response.',
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
    'Further templates of the prompt for an answer. The answers of a group are '
    'divided equally among all templates.',
    keys.template('{question}'),
  )
  equivalent_forms: str = keys.key(
    '',
    'Function `module:function` of yours, which takes a question and returns a '
    'list of equivalent questions, see [your_functions.md](your_functions.md); '
    "`''` for none.",
    keys.matches(r'|[\w.]+:\w+', "module:function of yours, or ''"),
  )
  num_forms: int = keys.key(
    1,
    'Number of forms in which a question is asked, including the question '
    'itself. The answers of a group are divided equally among the forms.',
    keys.within(1, 64),
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
      'What the answers are, which determines how they are parsed and '
      'compared. With `code`, they are programs, which are run against the '
      "question's unit tests.",
    )
  )
  options: tuple[str, ...] = keys.key(
    (),
    "Texts of the options, for `task.answer_kind=choice`. The solver's "
    'templates may use `{text_A}`, the text that is shown as option A, and '
    '`{letter_A}`, the letter under which the first option is shown.',
    keys.Check(lambda options: len(options) <= 26, 'at most 26, A to Z'),
  )
  shuffle_options: bool = keys.key(
    False,
    'Show the options in several orders. The answers to each template are '
    'divided among the orders, and are mapped back to `task.options` before '
    'the vote. The templates must use `{text_A}` and so on for all options. '
    'Evaluations and earlier solvers see the order of `task.options`.',
    may_change=keys.TO_EVALUATE,
  )
  checker: str = keys.key(
    'none',
    'Source of true answers: `none`, `arithmetic`, or a function '
    '`module:function` of yours. They are used for metrics, and for training '
    'only with `solver.rewards.true` or `review.by=checker`.',
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
    'Validation set, which selects the best checkpoint, in the form of '
    '`task.test`.',
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

  @property
  def letters(self) -> tuple[str, ...]:
    """The letters of the options."""
    return tuple(string.ascii_uppercase[: len(self.options)])

  def option_orders(self, group_size: int) -> tuple[tuple[int, ...], ...]:
    """Returns the orders in which the options are shown.

    The number of orders is the largest one, up to the number of options, that
    divides the answers to a template equally. The orders are rotations, so an
    option has a different position in each order.

    Args:
      group_size: number of answers to a question.

    Returns:
      The index of the option at each position, for each order. The first order
      is that of `options`; it is the only one unless options are shuffled.
    """
    size = len(self.options)
    if not self.shuffle_options:
      return (tuple(range(size)),)
    answers = group_size // (len(self.solver_templates) * self.num_forms)
    number = max(n for n in range(1, size + 1) if answers % n == 0)
    return tuple(
      tuple((position + i * size // number) % size for position in range(size))
      for i in range(number)
    )

  def num_prompts(self, group_size: int) -> int:
    """Returns the number of prompts among which answers are divided."""
    num_orders = len(self.option_orders(group_size))
    return len(self.solver_templates) * self.num_forms * num_orders
