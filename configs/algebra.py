"""The paper's algebra run: Qwen2.5-3B-Instruct, word problems in two unknowns.

  python -m sqlm_jax.main --config=configs/algebra.py --workdir=runs/algebra \\
      --config.model.path=/models/Qwen2.5-3B-Instruct

Expected accuracy on linear equations: 0.440 before training, 0.600 ± 0.010
after (the paper's table 1: three runs on 4 GPUs, 100 questions of OMEGA, the
best checkpoint on the test set). It has not been run here. The test set
`linear_equations` has equations of our own in the same style; for the original
questions, use --config.evaluation.test=FILE. `configs/algebra_smollm2.py` has
the same topic for a laptop.
"""

from sqlm_jax import configs

MARKER = 'CHOSEN PROBLEM:'

# The proposer writes three problems, of which the last is used, because it
# varies more between samples than the first (the paper, appendix A.3).
PROPOSER_PROMPT = f"""\
You write word problems for an algebra class, about {{topic}}.

Write three of them, as different from each other as you can. Each must

- lead to linear equations in one or two unknowns, with whole coefficients;
- have exactly one solution, a whole number or a fraction;
- ask for one number, or for a pair of numbers in a given order;
- be hard enough that a good student has to think.

Do not solve them. Then choose the third one, and write it once more, whole, \
behind the words "{MARKER}". Nothing may stand behind it."""

SOLVER_PROMPT = """\
Solve the problem at the end. Work through it step by step between <think> and \
</think>, then write the solution alone between <answer> and </answer>: an \
integer, a fraction such as 7/3, or a pair such as (4, -1/2).

{question}"""

TOPICS = (
  'ages and dates',
  'mixtures and prices',
  'distances, speeds and times',
  'work that is shared',
  'numbers and their digits',
)


def get_config():
  """Returns the config of 100 steps with 256 questions and 1,024 answers."""
  c = configs.default()
  c.num_steps = 100
  c.model.path = 'Qwen/Qwen2.5-3B-Instruct'
  c.model.dtype = 'bfloat16'
  c.model.remat = 'full'
  c.task.name = 'algebra'
  c.task.style = 'chat'
  c.task.topics = TOPICS
  c.task.proposer_prompt = PROPOSER_PROMPT
  # Matches the text after the last marker.
  c.task.question_pattern = rf'{MARKER}((?:(?!{MARKER}).)+)$'
  c.task.solver_prompt = SOLVER_PROMPT
  c.task.answer_pattern = r'<answer>(.*?)</answer>'
  c.task.answer_kind = 'expression'
  c.proposer.max_tokens = 3072
  c.solver.max_tokens = 3072
  c.loss.dual_clip = 3.0
  c.optimizer.groups_per_microbatch = 2
  c.evaluation.test = 'linear_equations/test'
  c.evaluation.validation = 'linear_equations/validation'
  c.evaluation.samples = 1
  return c
