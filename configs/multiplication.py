"""The paper's arithmetic run: Qwen2.5-3B-Instruct, three-digit multiplication.

  python -m sqlm_jax.main --config=configs/multiplication.py \\
      --workdir=runs/multiplication_3b \\
      --config.model.path=/models/Qwen2.5-3B-Instruct

Expected accuracy on multiplication: 0.791 before training, 0.948 ± 0.009 after
(the paper's table 1: three runs on 4 GPUs, the best checkpoint on the test
set). It has not been run here. `python -m tools.plan.memory` shows which
configs fit on which devices; on one GPU with 80 GB add
`--config.model.lora.rank=64`.
`configs/multiplication_smollm2.py` has the same topic for a laptop.
"""

from sqlm_jax import configs

PROPOSER_PROMPT = """\
You set exercises in mental arithmetic. Write one problem about {topic}.

Use numbers of up to three digits. Choose them so that nobody could guess \
them: unlike each other, unlike those of a textbook, and not round. Write the \
problem and nothing else, on one line, and do not solve it."""

SOLVER_PROMPT = """\
Solve the problem at the end. Work through it step by step between <think> and \
</think>, then write the result alone, as a number, between <answer> and \
</answer>.

{question}"""


def get_config():
  """Returns the config of 100 steps with 256 questions and 1,024 answers."""
  c = configs.default()
  c.num_steps = 100
  c.model.path = 'Qwen/Qwen2.5-3B-Instruct'
  c.model.dtype = 'bfloat16'
  c.model.remat = 'full'
  c.task.name = 'multiplication'
  c.task.style = 'chat'
  c.task.topics = ('multiplying two whole numbers',)
  c.task.proposer_prompt = PROPOSER_PROMPT
  # Matches one line with at least two numbers and without a solution.
  c.task.question_pattern = r'^(?=[^\n]*\d[^\n]*\D\d)[^\n=]+(?:=\s*\??)?[.?]?$'
  c.task.solver_prompt = SOLVER_PROMPT
  c.task.answer_pattern = r'<answer>(.*?)</answer>'
  c.loss.dual_clip = 3.0
  c.optimizer.groups_per_microbatch = 4
  c.evaluation.test = 'multiplication/test'
  c.evaluation.validation = 'multiplication/validation[:256]'
  c.evaluation.question_template = 'What is {question}?'
  c.evaluation.samples = 1
  return c
