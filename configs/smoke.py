"""Runs the whole training loop on a tiny random byte-level model, in seconds.

  python -m sqlm_jax.main --config=configs/smoke.py --workdir=runs/smoke

For CI and for trying out changes: every stage runs and every file is written.
The model is untrained, so its questions are noise and its answers are digits in
noise, but enough answers agree by chance for both roles to be trained.
"""

from sqlm_jax import configs


def get_config():
  """Returns a config that trains in seconds."""
  c = configs.default()
  c.num_steps = 4
  c.model.path = 'random'
  c.task.name = 'smoke'
  c.task.topics = ('anything',)
  c.task.proposer_prompt = 'Write about {topic}: '
  c.task.solver_prompt = 'Here is a question: {question}\nA number: '
  # Two characters, so that all prompts have the same length and compile once.
  c.task.question_pattern = r'[!-~]{2}'
  c.task.answer_pattern = r'[0-9]'
  c.task.test = (('1 + 1', '2'), ('2 + 2', '4'), ('3 + 3', '6'))
  c.task.validation = (('1 + 2', '3'), ('2 + 3', '5'))
  c.task.proposer_stop = tuple('aeiou')
  c.proposer.num_questions = 8
  c.proposer.group_size = 4
  c.proposer.train_every = 2
  c.proposer.max_tokens = 32
  c.solver.group_size = 8
  c.solver.max_tokens = 24
  c.loss.kl_coef = 0.01
  c.optimizer.learning_rate = 1e-3
  c.optimizer.solver_updates = 2
  c.optimizer.proposer_updates = 1
  c.optimizer.groups_per_microbatch = 4
  c.evaluation.every = 2
  c.checkpoint.every = 2
  return c
