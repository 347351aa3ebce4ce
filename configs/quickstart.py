"""SmolLM2-135M-Instruct teaches itself one-digit addition, on a laptop CPU.

  python -m sqlm_jax.main --config=configs/quickstart.py \\
      --workdir=runs/quickstart

See README for the expected results, measured with `benchmarks/quickstart.py`.
"""

from sqlm_jax import configs

PROPOSER_PROMPT = """\
{topic}.
Question: 7 + 4
Question: 2 + 9
Question: 6 + 3
Question: """

# The examples show the format, which a model of this size does not follow
# without them.
SOLVER_PROMPT = """\
3 + 4 = 7
9 + 2 = 11
5 + 0 = 5
{question} = """


def get_config():
  """Returns a config that trains in minutes on two cores."""
  c = configs.default()
  # Stops early, because the gains of training without labels do not last.
  c.num_steps = 12
  c.task.name = 'addition'
  c.task.topics = ('One-digit addition problems',)
  c.task.proposer_prompt = PROPOSER_PROMPT
  c.task.proposer_stop = ('\n',)
  c.task.question_pattern = r'^\d \+ \d$'
  c.task.solver_prompt = SOLVER_PROMPT
  c.task.solver_stop = ('\n',)
  c.task.checker = 'arithmetic'
  pairs = [(a, b) for a in range(10) for b in range(10)]
  questions = [(f'{a} + {b}', str(a + b)) for a, b in pairs]
  c.task.validation, c.task.test = configs.split(questions, SOLVER_PROMPT)
  c.proposer.num_questions = 32
  c.proposer.group_size = 32  # all questions have the same prompt
  c.proposer.max_tokens = 8
  c.solver.group_size = 8
  c.solver.max_tokens = 4
  c.sampler.max_prompt_tokens = 128
  c.loss.kl_coef = 0.0
  c.optimizer.learning_rate = 1e-5
  c.optimizer.solver_updates = 1
  c.optimizer.proposer_updates = 1
  c.optimizer.groups_per_microbatch = 8
  c.evaluation.every = 4
  c.checkpoint.every = 0
  c.checkpoint.keep = 1
  return c
