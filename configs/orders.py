"""SmolLM2-135M-Instruct teaches itself to read quantities out of orders.

  python -m sqlm_jax.main --config=configs/orders.py --workdir=runs/orders

The model writes orders such as 'We need twenty-four boxes of screws by
Friday.' and answers 24. The sentence forms of the test set are in no prompt.
On two cores of an AMD EPYC (jax 0.10.2), the run takes four minutes and raises
the greedy accuracy on the test set from 0.72 to 0.91 to 0.92 (seeds 0, 1, 2).
See docs/pilot_at_work.md.
"""

from sqlm_jax import configs

PROPOSER_PROMPT = """\
Orders from {topic}. Each order has one quantity, in words.
Order: We need twenty-four boxes of screws by Friday.
Order: Please send seven rolls of tape to the workshop.
Order: The kitchen would like thirty-eight trays of eggs.
Order: Can you deliver fifty-five paint brushes on Monday?
Order:"""

# The examples show the format, which a model of this size does not follow
# without them.
SOLVER_PROMPT = """\
Order: We need twenty-four boxes of screws by Friday.
Quantity: 24
Order: Please send seven rolls of tape to the workshop.
Quantity: 7
Order: Can you deliver fifty-five paint brushes on Monday?
Quantity: 55
Order: {question}
Quantity: """

# A sentence without digits that has a number in words.
NUMBER = (
  'two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|'
  r'\w+teen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety'
)
QUESTION = rf'^(?i:(?=.*\b(?:{NUMBER})\b))[A-Z][^\d\n]{{15,120}}[.?!]$'


def get_config():
  """Returns a config that trains in minutes on two cores."""
  c = configs.quickstart()
  c.num_steps = 12
  c.task.name = 'orders'
  c.task.topics = ('a workshop', 'an office', 'a restaurant', 'a hospital')
  c.task.proposer_prompt = PROPOSER_PROMPT
  c.task.question_pattern = QUESTION
  c.task.solver_prompt = SOLVER_PROMPT
  c.task.answer_kind = 'number'
  c.task.checker = 'sqlm_jax.datasets.orders:quantity'
  c.task.validation = ()
  c.task.test = ()
  c.evaluation.validation = 'orders/validation'
  c.evaluation.test = 'orders/test'
  c.evaluation.contaminated = 'exclude'
  # Wrong votes are mostly those in which less than half of the answers agree.
  c.vote.min_agreement = 0.5
  c.proposer.num_questions = 24
  c.proposer.group_size = 6  # all questions of a topic
  c.proposer.temperature = 0.8
  c.proposer.max_tokens = 32
  c.sampler.max_prompt_tokens = 192
  return c
