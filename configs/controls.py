"""Baselines and controls, which change one aspect of another config.

  python -m sqlm_jax.main --config=configs/controls.py:quickstart,random \\
      --workdir=runs/random

The name of a config and the name of a control follow the colon:

  format           rewards the solver for any readable answer (the paper, 5.2)
  random           rewards the solver at random
  true             rewards the solver for the right answer if task.checker
                   knows it
  frozen_proposer  never trains the proposer
  every_1, every_5, every_10
                   trains the proposer every 1, 5 or 10 steps (the paper's
                   ablation)
  written          uses the questions of a file, --config.task.questions=FILE
                   (questions.jsonl), instead of a proposer

In the paper, the last control has 6,400 questions, which the proposer generated
before training. This command generates as many questions as a run uses:

  python -m sqlm_jax.main --config=configs/quickstart.py --mode=sample \\
      --role=proposer --questions_file=questions.jsonl

With separate weights (policy.shared=False), frozen_proposer is the paper's
fixed proposer. With shared weights, training the solver also changes the
proposer.
"""

from sqlm_jax import configs

INTERVALS = {'frozen_proposer': 0, 'every_1': 1, 'every_5': 5, 'every_10': 10}
REWARDS = ('format', 'random', 'true')
CONTROLS = (*REWARDS, *INTERVALS, 'written')


def get_config(name='quickstart,random'):
  """Returns a config with a control, named as in 'quickstart,random'."""
  base, _, control = name.partition(',')
  if control not in CONTROLS:
    raise ValueError(
      f'--config=configs/controls.py:{name}: expected CONFIG,CONTROL with '
      f'CONTROL one of {", ".join(CONTROLS)}'
    )
  bases = set(configs.names()) - {'controls'}
  if base not in bases:
    raise ValueError(
      f'--config=configs/controls.py:{name}: expected CONFIG,CONTROL with '
      f'CONFIG one of {", ".join(sorted(bases))}'
    )
  c = configs.load(base)
  if control in REWARDS:
    for term in c.solver.rewards:
      c.solver.rewards[term] = float(term == control)
  elif control in INTERVALS:
    c.proposer.train_every = INTERVALS[control]
  else:
    c.proposer.train_every = 0
    c.task.questions = 'questions.jsonl'
  return c
