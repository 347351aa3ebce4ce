"""The paper's coding run: Qwen2.5-Coder-3B-Instruct, problems with unit tests.

  python -m sqlm_jax.main --config=configs/coding.py --workdir=runs/coding_3b \\
      --config.model.path=/models/Qwen2.5-Coder-3B-Instruct

Programs run in a bubblewrap sandbox, which is required (`apt-get install
bubblewrap`). Expected accuracy on 123 Codeforces problems: 0.320 before
training, 0.391 ± 0.019 after (the paper's table 1: three runs on 4 GPUs, the
best checkpoint on the test set). It has not been run here. The test set
`programs` has problems of our own; for the original problems, use
--config.evaluation.test=FILE. `configs/coding_smollm2.py` has the same topic
for a laptop.
"""

from sqlm_jax import configs

# The paper's released config of this run uses a critic instead of groups:
#   --config.advantage.estimator=gae --config.loss.kl_coef=0
PROPOSER_PROMPT = """\
You write programming exercises for beginners, about {topic}.

Invent one easy exercise of your own. The program reads one line of integers, \
separated by spaces, and prints one integer, or a list of integers separated \
by spaces. Describe precisely what is printed, in two to four sentences, and \
do not show a solution. Then write five tests, one a line: the input, " => ", \
and the output that a right program prints. Work the outputs out with care, \
make them differ, and cover a special case or two.

The form, with another exercise:

Print the difference between the largest and the smallest of the integers.
4 9 2 => 7
5 => 0
-3 3 => 6
10 8 8 1 => 9
0 0 12 => 12"""

SOLVER_PROMPT = """\
{question}

The input is one line of integers separated by spaces. First restate the task, \
plan, and check your plan on an example. Then present your program, in Python, \
reading standard input and writing standard output, in one fenced block at the \
end."""

TOPICS = (
  'sums and differences',
  'counting what has a property',
  'order and sorting',
  'neighbours in a list',
  'divisors and remainders',
  'digits',
)


def get_config():
  """Returns the config of 100 steps with 256 problems and 1,024 programs."""
  c = configs.default()
  c.num_steps = 100
  c.model.path = 'Qwen/Qwen2.5-Coder-3B-Instruct'
  c.model.dtype = 'bfloat16'
  c.model.remat = 'full'
  c.task.name = 'coding'
  c.task.style = 'chat'
  c.task.topics = TOPICS
  c.task.proposer_prompt = PROPOSER_PROMPT
  c.task.solver_prompt = SOLVER_PROMPT
  c.task.answer_pattern = ''  # uses the last fenced block of Python
  c.task.answer_kind = 'code'
  c.tests.pattern = r'(?m)^[ \t]*(-?\d[-\d ]*?)[ \t]*=>[ \t]*(-?\d[-\d, ]*)$'
  c.solver.rewards.majority = 0.0
  c.solver.rewards.tests = 1.0
  c.proposer.max_tokens = 512
  c.solver.max_tokens = 512
  c.loss.dual_clip = 3.0
  c.optimizer.groups_per_microbatch = 4
  c.evaluation.test = 'programs/test'
  c.evaluation.validation = 'programs/validation'
  c.evaluation.samples = 4
  return c
