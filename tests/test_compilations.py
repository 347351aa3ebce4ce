"""What a longer run compiles: little, most of it at once, nothing twice."""

import collections
import logging

import jax
import pytest

from configs import smoke
from sqlm_jax import config as config_lib
from sqlm_jax import train, writers

STEPS = 20
# What takes seconds to compile where models are large.
LARGE = ('jit(prefill)', 'jit(decode)', 'jit(update)')


class _Compiled(logging.Handler):
  """Takes down every program that jax compiles, by the steps played so far."""

  def __init__(self, metrics):
    super().__init__()
    self._metrics = metrics
    self.found = []  # (steps, name, shapes)

  def emit(self, record):
    if record.msg.startswith('Compiling '):
      there = self._metrics.exists()
      played = len(writers.read_jsonl(self._metrics)) if there else 0
      name, shapes, _ = record.args
      self.found.append((played, name, str(shapes)))


@pytest.fixture(scope='module')
def compiled(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('twenty')
  c = smoke.get_config()
  c.num_steps = STEPS
  c.mesh.data = 1
  c.loss.kl = 0.0
  c.proposer.max_tokens = c.solver.max_tokens = 12
  c.evaluation.every = c.checkpoint.every = 0
  handler = _Compiled(workdir / 'metrics.jsonl')
  logger = logging.getLogger('jax')
  logger.addHandler(handler)
  try:
    with jax.log_compiles():
      train.train(config_lib.from_dict(c.to_dict()), str(workdir))
  finally:
    logger.removeHandler(handler)
  return handler.found


def test_large_programs_are_few(compiled):
  counts = collections.Counter(name for _, name, _ in compiled)
  # Two roles, responses of up to 8 and of up to 12 tokens.
  assert 1 <= counts['jit(update)'] <= 4
  # Two roles, two evaluations; a role's rows are halved until few are left.
  assert 1 <= counts['jit(prefill)'] <= 6
  assert 1 <= counts['jit(decode)'] <= 12
  assert len(compiled) <= 120


def test_no_large_program_is_compiled_twice(compiled):
  large = [(name, shapes) for _, name, shapes in compiled if name in LARGE]
  assert len(set(large)) == len(large)


def test_later_steps_compile_next_to_nothing(compiled):
  late = [name for played, name, _ in compiled if STEPS // 2 <= played < STEPS]
  assert len(late) <= 3, late
