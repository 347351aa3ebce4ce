"""SmolLM2-135M-Instruct teaches itself one-line programs over whole numbers.

  python -m sqlm_jax.main --config=configs/coding_smollm2.py \\
      --workdir=runs/coding

Sampled answers improve, but greedy answers hardly do. See
docs/dev/longer_runs.md for the numbers, and for the results of longer runs.
Requires bubblewrap, in which all programs run.
"""

from sqlm_jax import configs

PROPOSER_PROMPT = """\
{topic}. Three examples follow each.

Task: add 2
4 => 6
1 => 3
7 => 9

Task: multiply by 3
2 => 6
5 => 15
1 => 3

Task: subtract 1
8 => 7
3 => 2
5 => 4

Task:"""

# The examples show the format, which a model of this size does not follow
# without them.
SOLVER_PROMPT = """\
Python expressions.

# add 2
x + 2

# multiply by 3
x * 3

# subtract 1
x - 1

# {question}
"""

PROGRAM = """\
x = int(input())
print({answer})
"""


# Operations for evaluation, with functions that compute the expected outputs.
OPERATIONS = {
  'add {}': lambda x, n: x + n,
  'subtract {}': lambda x, n: x - n,
  'multiply by {}': lambda x, n: x * n,
  'add {} and then multiply by 2': lambda x, n: (x + n) * 2,
  'multiply by {} and then add 1': lambda x, n: x * n + 1,
}


def evaluation(numbers: range) -> tuple[tuple[str, str], ...]:
  """Returns pairs (task, tests), with tasks that contain the given numbers."""
  return tuple(
    (
      task.format(n),
      '\n'.join(f'{x} => {compute(x, n)}' for x in (0, 4, 9, 13)),
    )
    for task, compute in OPERATIONS.items()
    for n in numbers
  )


def get_config():
  """Returns a config that trains in less than an hour on two cores."""
  c = configs.default()
  c.num_steps = 10
  c.task.name = 'expressions'
  c.task.topics = ('Small tasks on a whole number',)
  c.task.proposer_prompt = PROPOSER_PROMPT
  c.task.proposer_stop = ('\n\n', 'Task:')
  c.task.question_pattern = r'^[a-z][^\n]{2,40}\n.*'
  c.task.solver_prompt = SOLVER_PROMPT
  c.task.solver_stop = ('\n',)
  c.task.answer_kind = 'code'
  c.task.test = evaluation(range(4, 12))
  c.task.validation = evaluation(range(12, 15))
  c.tests.pattern = r'(?m)^ *(-?\d+) *=> *(-?\d+) *$'
  c.tests.min_count = 2
  c.tests.max_count = 3
  c.tests.program = PROGRAM
  c.tests.unsolved = 'leave_out'  # most of this model's tests are wrong
  c.solver.rewards.majority = 0.0
  c.solver.rewards.tests = 1.0
  c.proposer.num_questions = 64
  c.proposer.group_size = 64  # all questions have the same prompt
  c.proposer.temperature = 0.8
  c.proposer.max_tokens = 40
  c.solver.group_size = 8
  c.solver.max_tokens = 16
  c.sampler.max_prompt_tokens = 128
  c.loss.kl_coef = 0.0
  c.optimizer.learning_rate = 1e-5
  c.optimizer.solver_updates = 1
  c.optimizer.proposer_updates = 1
  c.evaluation.every = 5
  c.checkpoint.every = 0
  c.checkpoint.keep = 1
  return c
