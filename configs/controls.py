"""Baselines and controls: any config, with one thing taken away or replaced.

  python -m sqlm_jax.main --config=configs/controls.py:quickstart,random \\
      --workdir=runs/random

Behind the colon stand the name of a config and that of a control:

  format           pays the solver for any readable answer (the paper, 5.2)
  random           pays the solver by coin flips
  true             pays it for the right answer, where task.checker knows it
  frozen_proposer  never trains the proposer
  every_1, every_5, every_10
                   trains it so often (the paper's ablation)
  written          asks questions of a file, --config.task.questions=FILE
                   (questions.jsonl), instead of the proposer's

The paper's control of the last kind has 6,400 questions that the untrained
proposer wrote before the training. These write as many as the run will ask:

  python -m sqlm_jax.main --config=configs/quickstart.py --mode=sample \\
      --role=proposer --questions_file=questions.jsonl

With weights of their own (policy.shared=False) frozen_proposer is the paper's
fixed proposer; with shared weights the solver's training changes how the
proposer writes, too.
"""

import importlib
import pathlib

INTERVALS = {'frozen_proposer': 0, 'every_1': 1, 'every_5': 5, 'every_10': 10}
REWARDS = ('format', 'random', 'true')
CONTROLS = (*REWARDS, *INTERVALS, 'written')


def get_config(name='quickstart,random'):
  """Returns a config with a control, by names as in 'quickstart,random'."""
  base, _, control = name.partition(',')
  if control not in CONTROLS:
    raise ValueError(
      f'--config=configs/controls.py:{name}: expected CONFIG,CONTROL with '
      f'CONTROL one of {", ".join(CONTROLS)}'
    )
  files = pathlib.Path(__file__).parent.glob('*.py')
  bases = {file.stem for file in files} - {'controls'}
  if base not in bases:
    raise ValueError(
      f'--config=configs/controls.py:{name}: expected CONFIG,CONTROL with '
      f'CONFIG one of {", ".join(sorted(bases))}'
    )
  c = importlib.import_module(f'configs.{base}').get_config()
  if control in REWARDS:
    for term in c.solver.rewards:
      c.solver.rewards[term] = float(term == control)
  elif control in INTERVALS:
    c.proposer.train_every = INTERVALS[control]
  else:
    c.proposer.train_every = 0
    c.task.questions = 'questions.jsonl'
  return c
