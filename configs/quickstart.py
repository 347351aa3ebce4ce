"""SmolLM2-135M-Instruct teaches itself one-digit addition, on a laptop CPU.

  python -m sqlm_jax.main --config=configs/quickstart.py \\
      --workdir=runs/quickstart
"""

from configs import default

PROPOSER_PROMPT = """\
{topic}, each one different:
7 + 4
2 + 9
6 + 3
"""

SOLVER_PROMPT = """\
Q: 3 + 4
A: 7

Q: 9 + 2
A: 11

Q: 5 + 0
A: 5

Q: {question}
A: """


def get_config():
  c = default.get_config()
  c.num_steps = 20
  c.task.name = 'addition'
  c.task.topics = ('Addition problems with one-digit numbers',)
  c.task.proposer_prompt = PROPOSER_PROMPT
  c.task.proposer_stop = ('\n',)
  c.task.question_pattern = r'^\d{1,3} \+ \d{1,3}$'
  c.task.solver_prompt = SOLVER_PROMPT
  c.task.solver_stop = ('\n',)
  c.task.checker = 'arithmetic'
  c.task.evaluation = tuple(
    (f'{a} + {b}', str(a + b)) for a in range(10) for b in range(10)
  )
  c.proposer.questions = 16
  c.proposer.group_size = 16
  c.proposer.max_tokens = 8
  c.solver.group_size = 8
  c.solver.max_tokens = 5
  c.sampler.max_prompt_tokens = 128
  c.loss.kl = 0.0
  c.optimizer.learning_rate = 1e-5
  c.optimizer.solver_updates = 1
  c.optimizer.proposer_updates = 1
  c.optimizer.groups_per_microbatch = 16
  return c
