"""SmolLM2-135M-Instruct teaches itself the multiplication table.

  python -m sqlm_jax.main --config=configs/quickstart_multiplication.py \\
      --workdir=runs/multiplication

See README for the expected results, measured with `benchmarks/quickstart.py`.
"""

from sqlm_jax import configs

PROPOSER_PROMPT = """\
{topic}.
Question: 7 * 4
Question: 2 * 9
Question: 6 * 3
Question: """

SOLVER_PROMPT = """\
7 * 8 = 56
3 * 4 = 12
9 * 6 = 54
{question} = """


def get_config():
  """Returns the config of `configs/quickstart.py` with another topic."""
  c = configs.quickstart()
  c.task.name = 'multiplication'
  c.task.topics = ('One-digit multiplication problems',)
  c.task.proposer_prompt = PROPOSER_PROMPT
  c.task.question_pattern = r'^\d \* \d$'
  c.task.solver_prompt = SOLVER_PROMPT
  pairs = [(a, b) for a in range(10) for b in range(10)]
  questions = [(f'{a} * {b}', str(a * b)) for a, b in pairs]
  c.task.validation, c.task.test = configs.split(questions, SOLVER_PROMPT)
  return c
