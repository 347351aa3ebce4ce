"""A longer run compiles few programs, most of them early, and none twice."""

import collections

import pytest

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.modes import train
from sqlm_jax.workdir import jsonl
from tests import compilations

STEPS = 20
# Programs that take seconds to compile for large models.
LARGE = ('jit(prefill)', 'jit(decode)', 'jit(update)')


@pytest.fixture(scope='module')
def compiled(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('twenty')
  c = smoke.get_config()
  c.num_steps = STEPS
  c.mesh.data = 1
  c.loss.kl_coef = 0.0
  c.proposer.max_tokens = c.solver.max_tokens = 12
  c.evaluation.every = c.checkpoint.every = 0
  metrics = workdir / 'metrics.jsonl'

  def played():
    return len(jsonl.read(metrics)) if metrics.exists() else 0

  with compilations.programs(played) as found:
    train.train(config_lib.from_dict(c.to_dict()), str(workdir))
  assert played() == STEPS
  return found


def test_large_programs_are_few(compiled):
  counts = collections.Counter(program.name for program in compiled)
  # Two roles times two widths, 8 and 12 tokens.
  assert 1 <= counts['jit(update)'] <= 4
  # Two roles and two evaluations; the number of rows is halved several times.
  assert 1 <= counts['jit(prefill)'] <= 6
  assert 1 <= counts['jit(decode)'] <= 12
  assert len(compiled) <= 120


def test_no_large_program_is_compiled_twice(compiled):
  large = [program[:2] for program in compiled if program.name in LARGE]
  assert len(set(large)) == len(large)


def test_later_steps_compile_next_to_nothing(compiled):
  late = [p.name for p in compiled if STEPS // 2 <= p.steps < STEPS]
  assert len(late) <= 3, late
