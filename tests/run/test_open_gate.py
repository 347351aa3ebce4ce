"""Tests of opening the gate of a run."""

import re

import pytest

from configs import smoke
from sqlm_jax.config import schema as config_lib
from sqlm_jax.modes import train
from sqlm_jax.run import open_gate


def make_config(**changes) -> config_lib.Config:
  c = smoke.get_config()
  c.mesh.data = 1
  c.update_from_flattened_dict(changes)
  return config_lib.from_dict(c.to_dict())


def test_words_are_read_from_a_file(tmp_path):
  path = tmp_path / 'words.txt'
  path.write_text('Taro Yamada\n\n注文\n', encoding='utf-8')
  config = make_config(**{'exclude.words_file': str(path)})
  gate = open_gate.open_gate(config, lambda purpose: None)
  assert gate.exclusion.reason('Ask taro yamada.') == 'words'
  assert gate.exclusion.reason('この注文は') == 'words'
  assert gate.exclusion.reason('Ask Taro.') == ''


@pytest.mark.parametrize('content', [None, b'\xff\xfe'])
def test_a_file_of_words_that_cannot_be_read_is_named(tmp_path, content):
  """An invalid run writes no config.json, so its workdir can be used again."""
  path = tmp_path / 'words.txt'
  if content is not None:
    path.write_bytes(content)
  config = make_config(**{'exclude.words_file': str(path)})
  message = re.escape(f'exclude.words_file={str(path)!r}: expected a text file')
  with pytest.raises(ValueError, match=message):
    train.train(config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run' / 'config.json').exists()
