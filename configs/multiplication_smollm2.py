"""SmolLM2-135M-Instruct teaches itself to multiply numbers below 20 by a digit.

  python -m sqlm_jax.main --config=configs/multiplication_smollm2.py \\
      --workdir=runs/multiplication_20

The accuracy of sampled answers improves, but that of greedy answers does not.
See docs/dev/longer_runs.md for the numbers, and for the results of longer
runs.
"""

import random

from sqlm_jax import configs

PROPOSER_PROMPT = """\
{topic}.
Question: 13 * 6
Question: 7 * 3
Question: 18 * 9
Question: 15 * 4
Question: """

# The examples show the format, which a model of this size does not follow
# without them.
SOLVER_PROMPT = """\
13 * 6 = 78
7 * 3 = 21
18 * 9 = 162
15 * 4 = 60
{question} = """


def evaluation(size: int, seed: int = 0) -> tuple[tuple[str, str], ...]:
  """Returns pairs (question, product) that are not in the prompts."""
  shown = {(13, 6), (7, 3), (18, 9), (15, 4)}
  pairs = [(a, b) for a in range(2, 20) for b in range(2, 10)]
  pairs = [pair for pair in pairs if pair not in shown]
  chosen = random.Random(seed).sample(pairs, size)
  return tuple((f'{a} * {b}', str(a * b)) for a, b in chosen)


def get_config():
  """Returns a config that trains in less than an hour on two cores."""
  c = configs.default()
  c.num_steps = 8
  c.task.name = 'multiplication'
  c.task.topics = ('Multiplication of a number below 20 by one digit',)
  c.task.proposer_prompt = PROPOSER_PROMPT
  c.task.proposer_stop = ('\n',)
  c.task.question_pattern = r'^1?\d \* \d$'
  c.task.solver_prompt = SOLVER_PROMPT
  c.task.solver_stop = ('\n',)
  c.task.checker = 'arithmetic'
  pairs = evaluation(140)
  c.task.test, c.task.validation = pairs[:100], pairs[100:]
  c.proposer.num_questions = 128
  c.proposer.group_size = 128  # all questions have the same prompt
  c.proposer.temperature = 0.8
  c.proposer.max_tokens = 10
  c.solver.group_size = 16
  c.solver.max_tokens = 5
  c.sampler.max_prompt_tokens = 128
  c.loss.kl_coef = 0.0
  c.optimizer.learning_rate = 1e-5
  c.optimizer.solver_updates = 1
  c.optimizer.proposer_updates = 1
  c.evaluation.every = 4
  c.checkpoint.every = 0
  c.checkpoint.keep = 1
  return c
