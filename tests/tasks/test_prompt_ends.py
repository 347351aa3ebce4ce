"""Warnings about prompts that end in a space."""

import pytest

from configs import quickstart
from sqlm_jax.config import schema as config_lib
from sqlm_jax.run import build as build_lib
from sqlm_jax.tasks import prompt_ends

REPORTS = 'Report: Burrs along a cut.\nReport: '


def words(text):
  """Tokenizes like most tokenizers: a space joins a word, but not a digit."""
  tokens, start = [], 0
  for i in range(1, len(text) + 1):
    joins = text[i - 1] == ' ' and text[i : i + 1].isalpha()
    goes_on = text[i - 1].isalpha() and text[i : i + 1].isalpha()
    if not joins and not goes_on:
      tokens.append(text[start:i])
      start = i
  return tokens


@pytest.mark.parametrize(
  'template, expected',
  [
    (REPORTS, True),
    (REPORTS.strip(), False),
    (REPORTS.strip() + '\n', False),
    (REPORTS.strip() + '\t', True),
    ('報告：刃が欠けた。\n報告：\u3000', True),
    # Examples whose responses begin with a digit; the space is its own token.
    ('Question: 7 - 4\nQuestion: ', False),
    ('3 + 4 = 7\n{question} = ', False),
    ('Cause: A\n{question}\nCause: ', True),
    ('Question: 7 - 4\nQuestion: How many?\nQuestion: ', True),
    # Without example responses.
    ('Write about {topic}: ', True),
    ('{question} ', True),
    (' ', True),
    ('', False),
  ],
)
def test_prompts_that_end_in_a_space(template, expected):
  assert prompt_ends.is_harmful(template, words) == expected


def test_tokenizers_that_join_a_space_with_digits():

  def joined(text):
    return text.replace(' 7', '_').split('\n')

  assert prompt_ends.is_harmful('Q: 7\nQ: ', joined)


def build(**changes):
  c = quickstart.get_config()
  c.model.path = 'random'
  c.mesh.data = 1
  c.update_from_flattened_dict(changes)
  build_lib.build(config_lib.from_dict(c.to_dict()))


def test_warnings_name_the_config_key(caplog):
  build(
    **{
      'task.proposer_prompt': 'About {topic}.\n' + REPORTS,
      'task.solver_variants': ('{question}\nCause: ',),
    }
  )
  first, second = caplog.messages
  assert first.startswith("task.proposer_prompt=…'")
  assert "Report: ' ends in a space." in first
  assert second.startswith("task.solver_variants='{question}")


@pytest.mark.parametrize(
  'changes',
  [
    {},  # the quickstart's prompts end in a space before digits
    {'task.proposer_prompt': REPORTS.strip()},
    {'task.proposer_prompt': REPORTS, 'task.style': 'chat'},
  ],
)
def test_harmless_prompts_cause_no_warning(changes, caplog):
  build(**changes)
  assert caplog.messages == []


def test_unused_prompts_cause_no_warning(caplog, tmp_path):
  path = tmp_path / 'questions.txt'
  path.write_text('1 + 1\n', encoding='utf-8')
  build(**{'task.proposer_prompt': REPORTS, 'task.questions': str(path)})
  assert caplog.messages == []
