"""SmolLM2-135M-Instruct teaches itself word problems in one unknown.

  python -m sqlm_jax.main --config=configs/algebra_smollm2.py \\
      --workdir=runs/word_problems

The accuracy rises with one seed and falls with another, because the model's
votes on this task are barely reliable. See docs/dev/longer_runs.md.
"""

import random

from sqlm_jax import configs

PROPOSER_PROMPT = """\
{topic}, all of one form.
Problem: Tom has 4 apples and gets some more. Now he has 11.
Problem: Ann has 6 pens and gets some more. Now she has 8.
Problem: Ben has 9 books and gets some more. Now he has 14.
Problem: Eve has 3 coins and gets some more. Now she has 12.
Problem:"""

# The examples show the solution, which a model of this size does not know.
SOLVER_PROMPT = """\
Tom has 4 apples and gets some more. Now he has 11. More: x = 11 - 4 = 7.
Ann has 6 pens and gets some more. Now she has 8. More: x = 8 - 6 = 2.
Ben has 9 books and gets some more. Now he has 14. More: x = 14 - 9 = 5.
Eve has 3 coins and gets some more. Now she has 12. More: x = 12 - 3 = 9.
{question} More: x ="""


def evaluation(size: int, seed: int = 0) -> tuple[tuple[str, str], ...]:
  """Returns pairs (problem, solution), with names and things not in prompts."""
  draw = random.Random(seed)
  problems = {}
  while len(problems) < size:
    name, who = draw.choice(
      (('Max', 'he'), ('Lea', 'she'), ('Sam', 'he'), ('Ida', 'she'))
    )
    thing = draw.choice(('balls', 'cards', 'plums', 'stamps', 'hats'))
    first, more = draw.randrange(1, 10), draw.randrange(1, 10)
    problem = (
      f'{name} has {first} {thing} and gets some more. '
      f'Now {who} has {first + more}.'
    )
    problems[problem] = str(more)
  return tuple(problems.items())


def get_config():
  """Returns a config that trains in less than an hour on two cores."""
  c = configs.default()
  c.num_steps = 8
  c.task.name = 'word_problems'
  c.task.topics = ('Word problems with one unknown',)
  c.task.proposer_prompt = PROPOSER_PROMPT
  c.task.proposer_stop = ('\n',)
  c.task.question_pattern = (
    r'^[A-Z]\w+ has \d+ \w+ and gets some more\. Now s?he has \d+\.$'
  )
  c.task.solver_prompt = SOLVER_PROMPT
  c.task.solver_stop = ('.', '\n')
  c.task.answer_pattern = r'[^=]+$'  # the text after the last equals sign
  c.task.answer_kind = 'expression'
  pairs = evaluation(140)
  c.task.test, c.task.validation = pairs[:100], pairs[100:]
  c.proposer.num_questions = 64
  c.proposer.group_size = 64  # all questions have the same prompt
  c.proposer.temperature = 0.8  # at 1, most questions have another form
  c.proposer.max_tokens = 32
  c.solver.group_size = 8
  c.solver.max_tokens = 16
  c.sampler.max_prompt_tokens = 192
  c.loss.kl_coef = 0.0
  c.optimizer.learning_rate = 1e-5
  c.optimizer.solver_updates = 1
  c.optimizer.proposer_updates = 1
  c.evaluation.every = 4
  c.checkpoint.every = 0
  c.checkpoint.keep = 1
  return c
