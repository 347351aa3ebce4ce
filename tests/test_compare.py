"""Tests of the names of the checkpoints to compare."""

import pytest

from sqlm_jax.modes import compare


@pytest.mark.parametrize(
  'value, expected',
  [
    ('0,best', ('0', 'best')),
    ('a@0,b@12', ('a@0', 'b@12')),
    ('runs/seeds=[0,1]@0,best', ('runs/seeds=[0,1]@0', 'best')),
    (
      'r/[0,1]@latest,r/[0,1]@best',
      ('r/[0,1]@latest', 'r/[0,1]@best'),
    ),
    ('a@b,c@0,12', ('a@b,c@0', '12')),
  ],
)
def test_a_workdir_may_contain_commas(value, expected):
  assert compare.pair(value.split(',')) == expected


@pytest.mark.parametrize('value', ['0', '0,4,best', 'a,b,c', ''])
def test_other_numbers_of_checkpoints_are_rejected(value):
  with pytest.raises(ValueError, match=f'^--compare={value}: expected two'):
    compare.pair(value.split(','))
