"""What a longer run compiles: bounded, and nothing twice."""

import collections
import logging

import jax

from configs import smoke
from sqlm_jax import config as config_lib
from sqlm_jax import train, writers

STEPS = 20


class _Compiled(logging.Handler):
  """Takes down every program that jax compiles, by the steps played so far."""

  def __init__(self, workdir):
    super().__init__()
    self._metrics = workdir / 'metrics.jsonl'
    self.programs = collections.defaultdict(list)

  def emit(self, record):
    text = record.getMessage()
    if text.startswith('Compiling '):
      metrics = self._metrics
      played = len(writers.read_jsonl(metrics)) if metrics.exists() else 0
      self.programs[played].append(text)


def test_twenty_steps_compile_few_programs_and_none_twice(tmp_path):
  c = smoke.get_config()
  c.num_steps = STEPS
  c.mesh.data = 1
  handler = _Compiled(tmp_path)
  logger = logging.getLogger('jax')
  logger.addHandler(handler)
  try:
    with jax.log_compiles():
      train.train(config_lib.from_dict(c.to_dict()), str(tmp_path))
  finally:
    logger.removeHandler(handler)
  programs = sum(handler.programs.values(), [])
  print({step: len(found) for step, found in handler.programs.items()})
  print(collections.Counter(text.split()[1] for text in programs))
  twice = [x for x, n in collections.Counter(programs).items() if n > 1]
  assert not twice
